"""The floor to compare ingest with: a bare uvicorn that gunzips and parses a request and keeps nothing."""

from __future__ import annotations

import gzip
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from bench.system import free_port


async def parse_only(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """An ASGI application that only parses."""
    if scope["type"] != "http":
        return
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    if body:
        ExportLogsServiceRequest.FromString(gzip.decompress(body))
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


@contextmanager
def bare_server() -> Iterator[str]:
    """Its address until the block ends."""
    port = free_port()
    options = ["--port", str(port), "--log-level", "error", "--no-access-log", "--lifespan", "off"]
    server = subprocess.Popen([sys.executable, "-m", "uvicorn", "bench.bare:parse_only", *options])
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(200):
            try:
                httpx.post(f"{url}/v1/logs", timeout=1)
                break
            except httpx.TransportError:
                time.sleep(0.05)
        yield url
    finally:
        server.terminate()
        server.wait(10)
