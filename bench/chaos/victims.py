"""Who can be killed: the parts of an installation by their role, found among its living processes."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Literal, get_args

import psutil

Role = Literal["detector", "edge", "controller", "proxy", "postmaster", "collector"]
ROLES: tuple[Role, ...] = get_args(Role)

_TITLES: dict[Role, tuple[str, ...]] = {
    "detector": ("ray::Detector",),
    "edge": ("ray::ServeReplica:trustsoc:Edge", "ray::ServeReplica"),
    "controller": ("ray::ServeController",),
    "proxy": ("haproxy", "ray::ProxyActor", "ray::HAProxy"),
}


def find(role: Role, processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """The processes of a role; empty while the part is being brought back."""
    found = []
    for process in processes:
        with suppress(psutil.Error):
            if _role_of(process) == role:
                found.append(process)
    return found


def _role_of(process: psutil.Process) -> Role | None:
    title = " ".join(process.cmdline()[:2]) or process.name()
    for role, prefixes in _TITLES.items():
        if process.name().startswith(prefixes) or title.startswith(prefixes):
            # The advisor and the engine are replicas as well; the edge is the one that takes logs in.
            return None if role == "edge" and "Edge" not in title else role
    if process.name().startswith("postgres") and process.children():
        return "postmaster"
    if "otelcol" in process.name():
        return "collector"
    return None
