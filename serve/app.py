"""Where everything is wired: the Serve application from its validated arguments.

Ray by call, not by decorator: the deployments are plain classes that tests use without Ray. Annotations are not
postponed here, because Serve reads the type of build's parameter to validate ray_config.yaml.
"""

from math import ceil

import ray
from ray import serve
from ray.serve import Application

from serve.advisor_deployment import AdvisorDeployment
from serve.arguments import EdgeArguments
from serve.edge import Edge
from serve.engine_replica import EngineReplica

# The edge answers overload itself (503 with Retry-After) long before Serve's own queue limit, whose 503 has none.
_EDGE_REQUESTS = 1000


def build(arguments: EdgeArguments) -> Application:
    """The application: edge, advisor and, for LLM=cpu|gpu, the engine."""
    advisor = None
    if arguments.advisor:
        engine = None
        if arguments.llm in {"cpu", "gpu"}:
            engine_deployment = serve.deployment(
                name="Engine",
                num_replicas=1,
                max_ongoing_requests=64,
                ray_actor_options={"num_cpus": 0, "num_gpus": 1 if arguments.llm == "gpu" else 0},
                health_check_timeout_s=60,
                graceful_shutdown_timeout_s=2,
            )(EngineReplica)
            engine = engine_deployment.bind(arguments.llm)
        advisor_deployment = serve.deployment(
            name="Advisor",
            num_replicas=1,
            max_ongoing_requests=100,
            ray_actor_options={"num_cpus": 0},
            graceful_shutdown_timeout_s=5,
        )(AdvisorDeployment)
        advisor = advisor_deployment.bind(arguments, engine)
    edge_deployment = serve.deployment(
        name="Edge",
        num_replicas=arguments.edge_replicas,
        max_ongoing_requests=_EDGE_REQUESTS,
        max_replicas_per_node=_most_on_a_node(arguments.edge_replicas),
        ray_actor_options={"num_cpus": 0},
        health_check_period_s=5,
        graceful_shutdown_timeout_s=10,
    )(serve.ingress()(Edge))
    return edge_deployment.bind(arguments, advisor)


def _most_on_a_node(replicas: int) -> int | None:
    """So that the loss of a node never takes all replicas: they ask for no core, and Serve may put all on one."""
    nodes = sum(node["Alive"] for node in ray.nodes()) if ray.is_initialized() else 1
    return None if nodes < 2 else ceil(replicas / nodes)
