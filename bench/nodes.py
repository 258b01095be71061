"""What the loss of a node costs: three Ray nodes on this machine, one with detectors is removed under load.

Run: python -m bench.nodes. Prints one JSON object: seconds until a batch sent after the loss was judged, who moved, and
the differences between what is stored and an undisturbed run over the same journal (none is the promise).
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from bench.chaos.senders import Batch, Sender, attack
from bench.chaos.verdict import judge
from bench.figures import Figure, keep
from bench.system import free_port, new_tenant
from cluster.embedded import EmbeddedCluster
from serve.settings import Settings

_CATCH_UP_S = 120.0
_DETECTORS = 3
# A dead node is noticed after four missed checks, one a second: sooner would kill nodes that are only busy.
_HEALTH_CHECKS = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "4",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_initial_delay_ms": "5000",
}


class ThreeNodes(EmbeddedCluster):
    """The embedded system on a Ray cluster of one head and two workers, each with a raylet of its own."""

    _nodes_address = ""

    def _start_ray(self) -> None:
        # Only a cluster of one node can be bound to loopback by the switch that the embedded mode uses.
        os.environ.pop("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", None)
        import ray
        from ray.cluster_utils import Cluster

        self._ray_started = True
        memory = 100 * 2**20
        head = {"num_cpus": 1, "object_store_memory": memory, "include_dashboard": False}
        self.nodes = Cluster(initialize_head=True, head_node_args=head | {"temp_dir": f"{self._ray_folder}/r"})
        self.workers = [self.nodes.add_node(num_cpus=2, object_store_memory=memory) for _ in range(2)]
        self._nodes_address = self.nodes.address
        ray.init(address=self._nodes_address, namespace="trustsoc", log_to_driver=False, configure_logging=False)

    def stop(self) -> None:
        super().stop()
        # Ray's testing cluster leaves its address where any later ray.init() of this machine would look for one.
        left = Path("/tmp/ray/ray_current_cluster")  # noqa: S108 - Ray's own fixed place
        with suppress(OSError):
            if left.read_text().strip() == self._nodes_address:
                left.unlink()


@dataclass(frozen=True, slots=True)
class NodeLoss:
    """What was measured."""

    recovered_s: float
    moved_actors: list[str]
    acknowledged: int
    broken_promises: list[str]


def measure(folder: Path, progress: Callable[[str], None]) -> NodeLoss:
    """Brings the cluster up in `folder`, loses a node under load, compares."""
    os.environ.update(_HEALTH_CHECKS)
    settings = Settings(
        data_dir=folder / "data",
        http_port=free_port(),
        edge_replicas=2,
        detector_actors=_DETECTORS,
        llm="none",
        grpc_port=0,
    )
    cluster = ThreeNodes(settings)
    try:
        endpoint = cluster.start(progress)
        admin = {"Authorization": f"Bearer {endpoint.admin_key}"}
        with httpx.Client(base_url=endpoint.base_url, headers=admin, timeout=30) as administrator:
            keys = {name: new_tenant(administrator, name, "ingest", "read") for name in ("one", "two", "three")}
        origin = time.time_ns() - 86400 * 10**9
        senders = {name: Sender(endpoint.base_url, key, _endless(name, origin), 0.1) for name, key in keys.items()}
        for sender in senders.values():
            sender.start()
        _await(lambda: all(len(sender.books.acknowledged) > 20 for sender in senders.values()), "load")
        places = {raylet_pid(worker): worker for worker in cluster.workers}
        before = {name: pid for name, pid in _raylets_of_actors().items() if pid in places}
        pid = sorted(before.values())[0]
        moved = sorted(name for name, raylet in before.items() if raylet == pid)
        progress(f"removing a node with {', '.join(moved)}")
        began = time.monotonic()
        cluster.nodes.remove_node(places[pid], allow_graceful=False)
        for name, key in keys.items():
            _await_progress(endpoint.base_url, key, senders[name])
        recovered = time.monotonic() - began
        progress(f"every tenant judged again after {recovered:.1f} s")
        for sender in senders.values():
            sender.stop()
        for sender in senders.values():
            sender.join()
        broken = [text for sender in senders.values() for text in sender.books.broken_promises]
        for name, key in keys.items():
            _await_all_judged(endpoint.base_url, key)
            verdict = asyncio.run(judge(folder / "data", name, senders[name].books.acknowledged))
            broken += [f"{name}: {text}" for text in verdict.differences]
        acknowledged = sum(len(sender.books.acknowledged) for sender in senders.values())
        return NodeLoss(recovered, moved, acknowledged, broken)
    finally:
        cluster.stop()


def raylet_pid(node: Any) -> int:
    """The process that is a node of ray.cluster_utils.Cluster."""
    [raylet] = node.all_processes["raylet"]
    return int(raylet.process.pid)


def _raylets_of_actors() -> dict[str, int]:
    """Per detector actor the raylet that it runs under: worker processes are children of theirs."""
    import ray

    from actors.directory import NAMESPACE, actor_names

    places = {}
    for name in actor_names(_DETECTORS):
        pid = ray.get(ray.get_actor(name, namespace=NAMESPACE).process_id.remote(), timeout=30)
        places[name] = psutil.Process(pid).ppid()
    return places


def _endless(name: str, origin: int) -> Iterator[Batch]:
    return ((f"{name}-{number}", attack(number, origin)) for number in itertools.count())


def _await(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _CATCH_UP_S
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.1)
    raise TimeoutError(f"not within {_CATCH_UP_S:.0f} s: {what}")


def _counts(base_url: str, key: str) -> dict[str, int]:
    with suppress(httpx.TransportError):
        answer = httpx.get(f"{base_url}/api/status", headers={"Authorization": f"Bearer {key}"}, timeout=20)
        if answer.status_code == 200:
            return dict(answer.json()["counts"])
    return {}


def _await_all_judged(base_url: str, key: str) -> None:
    def all_judged() -> bool:
        counts = _counts(base_url, key)
        return bool(counts) and counts["judged"] == counts["batches"]

    _await(all_judged, "all batches judged")


def _await_progress(base_url: str, key: str, sender: Sender) -> None:
    """Until a batch that was acknowledged after this call has been judged."""
    known = len(sender.books.acknowledged)
    _await(lambda: len(sender.books.acknowledged) > known, "another acknowledgement")
    seq = sender.books.acknowledged[known].seq
    _await(lambda: _counts(base_url, key).get("judged", 0) >= seq, f"batch {seq} judged")


def main() -> int:
    """Prints the outcome as JSON; exit status 1 when a promise broke."""
    parser = argparse.ArgumentParser(prog="python -m bench.nodes", description=__doc__)
    parser.add_argument("--unkept", action="store_true", help="leave bench/results as it is")
    unkept = parser.parse_args().unkept
    with tempfile.TemporaryDirectory(prefix="trustsoc-nodes-") as folder:
        Path(folder).chmod(0o711)
        loss = measure(Path(folder), lambda text: print(text, file=sys.stderr, flush=True))
    if not unkept:
        keep([Figure("node lost to judged again", loss.recovered_s, "s", 15, "lower", "python -m bench.nodes")])
    print(json.dumps(asdict(loss)))
    return 1 if loss.broken_promises else 0


if __name__ == "__main__":
    sys.exit(main())
