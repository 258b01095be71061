"""Senders that are not ours: the OpenTelemetry SDK's exporters and rotel. What they send is stored, all and intact."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import zstandard
from google.rpc.status_pb2 import Status
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as HttpExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, LogRecordExporter
from opentelemetry.sdk.resources import Resource

from bench.otlp_values import attribute
from bench.system import System, free_port
from serve.ingest.otlp_grpc import SERVICE
from tests.e2e.conftest import Tenant, lines_request, wait_for

RECORDS = 700
NOW = time.time_ns()
ATTRIBUTES: dict[str, Any] = {
    "text": "caf\u00e9 \N{FIRE}",
    "number": -(2**53),
    "ratio": 0.25,
    "yes": True,
    "list": ("a", "b"),
    "nested": {"deep": {"er": [1, "two"]}},
    "raw": b"\x00\xff",
}
STORED_ATTRIBUTES = {
    **ATTRIBUTES,
    "list": ["a", "b"],
    "raw": "AP8=",
}
METHOD = f"/{SERVICE}/Export"


def http_exporter(system: System, key: str, compression: str) -> LogRecordExporter:
    return HttpExporter(
        endpoint=f"{system.base_url}/v1/logs",
        headers={"authorization": f"Bearer {key}"},
        compression=Compression(compression),
    )


def grpc_exporter(system: System, key: str, compression: str) -> LogRecordExporter:
    chosen = {"none": grpc.Compression.NoCompression, "gzip": grpc.Compression.Gzip}[compression]
    return GrpcExporter(
        endpoint=system.grpc_address, insecure=True, headers={"authorization": f"Bearer {key}"}, compression=chosen
    )


@pytest.mark.parametrize("compression", ["none", "gzip"])
@pytest.mark.parametrize("exporter", [http_exporter, grpc_exporter], ids=["http", "grpc"])
def test_the_opentelemetry_sdk(
    system: System, tenant: Tenant, exporter: Callable[[System, str, str], LogRecordExporter], compression: str
) -> None:
    provider = LoggerProvider(Resource({"host.name": "web-1"}), shutdown_on_exit=False)
    provider.add_log_record_processor(
        BatchLogRecordProcessor(exporter(system, tenant.key, compression), max_export_batch_size=300)
    )
    logger = provider.get_logger("sdk")
    for number in range(RECORDS):
        logger.emit(
            LogRecord(
                timestamp=NOW + number,
                severity_number=SeverityNumber.WARN,
                severity_text="WARN",
                body=f"line {number}",
                attributes={**ATTRIBUTES, "position": number},
                event_name="test",
            )
        )
    assert provider.force_flush(60_000)
    provider.shutdown()
    assert_all_stored(tenant)


@pytest.mark.parametrize("compression", ["none", "gzip"])
@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_rotel(system: System, tenant: Tenant, tmp_path: Path, protocol: str, compression: str) -> None:
    endpoint = system.base_url if protocol == "http" else f"http://{system.grpc_address}"
    with rotel(endpoint, tenant.key, protocol, compression, tmp_path) as receiver:
        for start in range(0, RECORDS, 100):
            body = some_records(range(start, start + 100)).SerializeToString()
            assert httpx.post(receiver, content=body, headers={"content-type": "application/x-protobuf"}).is_success
        wait_for(lambda: tenant.get("/api/status")["counts"]["records"] >= RECORDS, "all records stored")
    assert_all_stored(tenant)


@contextmanager
def rotel(endpoint: str, key: str, protocol: str, compression: str, folder: Path) -> Iterator[str]:
    """A rotel agent that forwards to the endpoint while the block runs; where it takes OTLP/HTTP."""
    binary = Path(str(import_module("rotel").__file__)).parent / "rotel-agent"
    port = free_port()
    stated = {
        "ROTEL_OTLP_HTTP_ENDPOINT": f"127.0.0.1:{port}",
        "ROTEL_OTLP_GRPC_ENDPOINT": f"127.0.0.1:{free_port()}",
        "ROTEL_EXPORTER": "otlp",
        "ROTEL_OTLP_EXPORTER_ENDPOINT": endpoint,
        "ROTEL_OTLP_EXPORTER_PROTOCOL": protocol,
        "ROTEL_OTLP_EXPORTER_COMPRESSION": compression,
        "ROTEL_OTLP_EXPORTER_CUSTOM_HEADERS": f"Authorization=Bearer {key}",
        "ROTEL_BATCH_TIMEOUT": "100ms",
        "ROTEL_PID_FILE": str(folder / "rotel.pid"),
        "ROTEL_LOG_FILE": str(folder / "rotel.log"),
    }
    with (folder / "out").open("wb") as out:
        agent = subprocess.Popen([binary, "start"], env=os.environ | stated, stdout=out, stderr=out)
        try:
            wait_for(lambda: agent.poll() is None and takes_connections(port), "rotel listens", 30)
            yield f"http://127.0.0.1:{port}/v1/logs"
        finally:
            agent.terminate()
            agent.wait(30)


def takes_connections(port: int) -> bool:
    try:
        httpx.get(f"http://127.0.0.1:{port}/", timeout=5)
    except httpx.TransportError:
        return False
    return True


def some_records(numbers: range) -> ExportLogsServiceRequest:
    request = ExportLogsServiceRequest()
    resource_logs = request.resource_logs.add()
    resource_logs.resource.attributes.add(key="host.name").value.string_value = "web-1"
    scope_logs = resource_logs.scope_logs.add()
    scope_logs.scope.name = "sdk"
    for number in numbers:
        record = scope_logs.log_records.add(time_unix_nano=NOW + number, severity_number=13, severity_text="WARN")
        record.body.string_value, record.event_name = f"line {number}", "test"
        record.attributes.extend(attribute(key, value) for key, value in {**ATTRIBUTES, "position": number}.items())
    return request


def assert_all_stored(tenant: Tenant) -> None:
    """Every record once, none else; body, attributes, resource, scope and severity as they were sent."""
    counts = tenant.await_judged()
    assert (int(counts["records"]), counts["dead_letters"]) == (RECORDS, 0)
    found: dict[str, dict[str, Any]] = {}
    cursor = None
    while True:
        page = tenant.get("/api/logs", limit=500, **({"cursor": cursor} if cursor else {}))
        for item in page["items"]:
            record = item["record"]
            assert record["body"] not in found
            found[record["body"]] = record
        cursor = page.get("next_cursor")
        if not cursor:
            break
    assert set(found) == {f"line {number}" for number in range(RECORDS)}
    for number in range(0, RECORDS, 97):
        record = found[f"line {number}"]
        assert record["attributes"] == {**STORED_ATTRIBUTES, "position": number}
        assert record["resource"]["host.name"] == "web-1"
        assert (record["scope"], record["severityNumber"], record["severityText"]) == ("sdk", 13, "WARN")
        assert record["timeUnixNano"] == str(NOW + number)


@pytest.fixture
def export(system: System) -> Iterator[Callable[..., Any]]:
    """LogsService/Export of the running system with bytes in and out."""
    with grpc.insecure_channel(system.grpc_address) as channel:
        yield channel.unary_unary(METHOD).with_call


def test_one_batch_by_any_door_is_stored_once(tenant: Tenant, export: Callable[..., Any]) -> None:
    body = lines_request([(NOW, "the same line")])
    first = tenant.send(body)
    assert (first.status_code, first.headers["x-batch-duplicate"]) == (200, "false")
    answer, call = export(body, metadata=(("authorization", f"Bearer {tenant.key}"),))
    trailing = dict(call.trailing_metadata())
    assert answer == b""
    assert (trailing["x-batch-seq"], trailing["x-batch-duplicate"]) == (first.headers["x-batch-seq"], "true")
    assert tenant.await_judged()["records"] == 1


def test_zstd_is_stored_and_judged(tenant: Tenant) -> None:
    body = zstandard.compress(lines_request([(NOW, "a compressed line")] * 50))
    assert tenant.send(body, content_encoding="zstd").status_code == 200
    assert tenant.await_judged()["records"] == 50


@pytest.mark.parametrize(
    ("key", "body", "compression", "code", "message"),
    [
        ("nobody's", b"", None, grpc.StatusCode.UNAUTHENTICATED, "unknown"),
        (None, b"\x0a\xff\xff", None, grpc.StatusCode.INVALID_ARGUMENT, "protobuf"),
        (None, bytes(33 * 2**20), None, grpc.StatusCode.RESOURCE_EXHAUSTED, "larger than"),
        (None, bytes(70 * 2**20), grpc.Compression.Gzip, grpc.StatusCode.RESOURCE_EXHAUSTED, "decompressed"),
    ],
    ids=["key", "bytes", "large", "bomb"],
)
def test_refusals_over_grpc_are_final_and_say_why(
    tenant: Tenant, export: Callable[..., Any], key: str | None, body: bytes, compression: Any, code: Any, message: str
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        export(body, metadata=(("authorization", f"Bearer {key or tenant.key}"),), compression=compression)
    assert (refused.value.code(), message in refused.value.details()) == (code, True)
    [(name, value)] = refused.value.trailing_metadata()
    assert name == "grpc-status-details-bin"
    assert not any(detail.type_url.endswith("RetryInfo") for detail in Status.FromString(value).details)
    assert int(tenant.get("/api/status")["counts"]["records"]) == 0


def test_only_post_brings_records(tenant: Tenant) -> None:
    answer = tenant.client.get("/v1/logs")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert tenant.client.head("/v1/logs").status_code == 405
