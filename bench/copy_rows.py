"""Measures exploding: rows a second into raw_logs through one connection, as the detector stores them.

Run: python -m bench.copy_rows [SECONDS]. Starts an embedded PostgreSQL of its own in a temporary folder. The records
are decoded and normalised beforehand; measured is what store.detections does with them: making rows, and binary COPY.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

from bench.figures import Figure, finish
from cluster.postgres import SUPERUSER, EmbeddedPostgres
from detect.batch import Batch, BatchOutput
from detect.normalize import default_normalizer
from detect.otlp import decode
from detect.record import TenantId
from store.bootstrap import bootstrap
from store.detections import write_output
from store.migrate import migrate
from store.partitions import make_partitions
from store.postgres import Pool, connect_pool, system_transaction
from store.raw_log_copy import RAW_LOG_COLUMNS, copy_stream
from store.shards import claim
from store.tenants import create_tenant

COMMAND = "python -m bench.copy_rows"
FLOOR_ROWS = 60_000
_BATCH = 1000
_COMMIT = 2000
_SHARD = 1


def _batch(seq: int, received: datetime) -> bytes:
    """An OTLP request of sshd lines with the attributes that a collector gives them; every line differs."""
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

    request = ExportLogsServiceRequest()
    group = request.resource_logs.add()
    host = group.resource.attributes.add()
    host.key, host.value.string_value = "host.name", f"web-{seq % 50}"
    records = group.scope_logs.add().log_records
    began = int(received.timestamp() * 1e9)
    for place in range(_BATCH):
        number = seq * _BATCH + place
        record = records.add()
        record.time_unix_nano = began + place * 1_000_000
        record.observed_time_unix_nano = began + place * 1_000_000
        record.severity_number = 9
        record.body.string_value = (
            f"Dec 10 06:55:48 web-{seq % 50} sshd[{number % 30000}]: Failed password for root from "
            f"198.51.{number % 250}.{number % 199} port {number % 60000} ssh2"
        )
        file = record.attributes.add()
        file.key, file.value.string_value = "log.file.name", "auth.log"
    return request.SerializeToString()


def outputs_of(count: int, received: datetime) -> list[BatchOutput]:
    """Judged batches without events: what only has to be stored."""
    normalizer = default_normalizer()
    made = []
    for seq in range(1, count + 1):
        batch = Batch(seq, int(received.timestamp() * 1e9), "otlp_protobuf", _batch(seq, received))
        records = tuple(normalizer.normalize(record) for record in decode(batch, 60 * 10**9))
        made.append(BatchOutput(seq, records, (), (), (), (), {}))
    return made


async def _explode(pool: Pool, tenant: TenantId, outputs: list[BatchOutput], epoch: int, received: datetime) -> float:
    """Stores everything in commits of the detector's size; rows a second."""
    began = time.perf_counter()
    per_commit = _COMMIT // _BATCH
    for first in range(0, len(outputs), per_commit):
        part = outputs[first : first + per_commit]
        times = {output.seq: received for output in part}
        await write_output(pool, tenant, shard=_SHARD, epoch=epoch, outputs=part, received=times)
    return len(outputs) * _BATCH / (time.perf_counter() - began)


async def _copy_only(server: EmbeddedPostgres, tenant: TenantId, outputs: list[BatchOutput], at: datetime) -> float:
    """Binary COPY of bytes that are made already: what the driver and the server take."""
    import asyncpg

    made = [[part async for part in copy_stream(tenant, [output], {output.seq: at})] for output in outputs]
    connection = await asyncpg.connect(server.dsn("trustsoc_writer"))

    async def sent(parts: list[bytes]) -> AsyncIterator[bytes]:
        for part in parts:
            yield part

    began = time.perf_counter()
    for parts in made:
        await connection.copy_to_table("raw_logs", source=sent(parts), columns=RAW_LOG_COLUMNS, format="binary")
    speed = len(outputs) * _BATCH / (time.perf_counter() - began)
    await connection.close()
    return speed


async def _encode_only(tenant: TenantId, outputs: list[BatchOutput], at: datetime) -> float:
    """Making the bytes, rows a second of processor time."""
    began = time.process_time()
    async for _ in copy_stream(tenant, outputs, {output.seq: at for output in outputs}):
        pass
    return len(outputs) * _BATCH / (time.process_time() - began)


async def measure(server: EmbeddedPostgres, seconds: float) -> list[Figure]:
    """Rows a second of the whole path, of COPY alone and of making the rows alone, each through one connection."""
    await bootstrap(server.dsn(SUPERUSER), server.passwords)
    await migrate(server.dsn("trustsoc_owner"))
    app = await connect_pool(server.dsn("trustsoc_app"), name="bench")
    writer = await connect_pool(server.dsn("trustsoc_writer"), name="bench")
    detector = await connect_pool(server.dsn("trustsoc_detector"), name="bench", max_size=1)
    received = datetime.now(UTC)
    await make_partitions(app, received.date(), 1)
    outputs = outputs_of(max(2, int(seconds * 20)), received)
    tenant = await create_tenant(app, "bench-copy", actor="bench")
    async with system_transaction(writer) as tx:
        epoch = (await claim(tx, "bench", [_SHARD]))[_SHARD]
    whole = await _explode(detector, tenant, outputs, epoch, received)
    alone = await _copy_only(server, await create_tenant(app, "bench-alone", actor="bench"), outputs, received)
    making = await _encode_only(tenant, outputs, received)
    for pool in (app, writer, detector):
        await pool.close()
    return [
        Figure("explode to raw_logs, 1 connection", whole, "rows/s", None, "higher", COMMAND),
        Figure("binary COPY alone, 1 connection", alone, "rows/s", FLOOR_ROWS, "higher", COMMAND),
        Figure("encoding rows for COPY, 1 core", making, "rows/CPU s", None, "higher", COMMAND),
    ]


def measured(seconds: float = 3.0) -> list[Figure]:
    """The figures on a PostgreSQL of its own, in a temporary folder."""
    folder = Path(tempfile.mkdtemp(prefix="trustsoc-bench-"))
    folder.chmod(0o711)
    server = EmbeddedPostgres(folder)
    try:
        server.start()
        return asyncio.run(measure(server, seconds))
    finally:
        server.stop()
        shutil.rmtree(folder)


def main() -> int:
    """Prints the table and keeps it; exit status 1 when COPY is below its floor."""
    figures = measured(float(sys.argv[1]) if len(sys.argv) > 1 else 3.0)
    return finish(figures)


if __name__ == "__main__":
    sys.exit(main())
