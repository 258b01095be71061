"""Serve's gRPC servers on a single machine: on loopback, where Serve itself only knows all interfaces.

Three kinds of them have no setting for their host: the internal one of every replica, the replicas' own for our gRPC
service, and that of Serve's spare proxy. The addresses are replaced inside the processes, for the version of Ray that
is pinned; an end-to-end test lists what listens. On several nodes they must be reachable, and nothing is replaced.
"""

from __future__ import annotations

from typing import Any

from serve.settings import Settings

_EVERYWHERE = "[::]:"
_HERE = "127.0.0.1:"


def listen_on_loopback() -> None:
    """Every gRPC server that Serve starts in this process from now on listens on loopback only."""
    from ray.serve._private import default_impl, replica

    add_internal_port = replica.add_port_to_grpc_server

    def add_address(server: Any, address: str) -> None:
        server.add_insecure_port(_on_loopback(address))

    def add_port(server: Any, address: str) -> Any:
        return add_internal_port(server, _on_loopback(address))

    if getattr(default_impl.add_grpc_address, "__module__", "") != __name__:
        default_impl.add_grpc_address = add_address
        replica.add_port_to_grpc_server = add_port


def prepare_proxy() -> list[Any]:
    """What Serve calls in every process before that listens (RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH)."""
    if Settings().loopback_only:
        listen_on_loopback()
    return []


def _on_loopback(address: str) -> str:
    return address.replace(_EVERYWHERE, _HERE, 1) if address.startswith(_EVERYWHERE) else address
