"""Cold start, memory without and with the language model, and how long an advisory takes."""

from __future__ import annotations

import time
from typing import Any

from bench.figures import Figure
from bench.load import percentile
from bench.system import System, running_system

COMMAND = "python -m bench footprint"
_GIB = 2**30
_INCIDENT: dict[str, Any] = {
    "title": "SSH login after password guessing",
    "severity": "high",
    "events": [
        {
            "title": "SSH password guessing",
            "severity": "high",
            "time": "2026-03-01T10:00:00Z",
            "techniques": ["T1110.001"],
            "tactics": ["credential-access"],
            "evidence": [
                {"message": f"Failed password for root from 203.0.113.7 port {4000 + number} ssh2"}
                for number in range(6)
            ],
        }
    ],
}


def measure(system: System) -> list[Figure]:
    """Of a running system without a model: its start, its memory once the corpus is there, its advisories."""
    figures = [Figure("cold start to ready, no model", system.started_s, "s", 25, "lower", COMMAND)]
    _await(system, lambda advisor: bool(advisor["ready"]), 600)
    time.sleep(5)
    figures.append(Figure("memory, no model", system.pss_bytes() / _GIB, "GiB PSS", 1.6, "lower", COMMAND))
    times = []
    with system.client() as client:
        for number in range(20):
            # A title of its own each time, so that nothing is answered from a cache.
            asked = time.monotonic()
            client.post("/advisor/analyze", json=_INCIDENT | {"title": f"Guessing {number}"}).raise_for_status()
            times.append(time.monotonic() - asked)
    figures.append(Figure("deterministic advisory p50", percentile(times, 0.5) * 1000, "ms", None, "lower", COMMAND))
    figures.append(Figure("deterministic advisory p95", percentile(times, 0.95) * 1000, "ms", 1000, "lower", COMMAND))
    return figures


def measure_with_model(without_gib: float) -> list[Figure]:
    """The memory that the CPU engine adds, and how long it takes until it is ready."""
    with running_system(llm="cpu") as system:
        began = time.monotonic()
        _await(system, lambda advisor: advisor.get("llm", {}).get("state") == "ready", 600)
        ready = time.monotonic() - began
        time.sleep(5)
        added = system.pss_bytes() / _GIB - without_gib
    return [
        Figure("memory that the CPU model adds", added, "GiB PSS", 3, "lower", COMMAND),
        Figure("CPU model ready after the system", ready, "s", None, "lower", COMMAND),
    ]


def _await(system: System, ready: Any, limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if ready(system.status()["components"]["advisor"]):
            return
        time.sleep(0.5)
    raise TimeoutError(f"not ready in {limit_s:.0f} s: {system.status()['components']['advisor']}")
