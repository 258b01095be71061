"""Measures the journal's group commit: appended batches per second by concurrency and size of payload.

Run: python -m bench.journal_append [SECONDS]. Starts an embedded PostgreSQL of its own in a temporary folder.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from cluster.postgres import SUPERUSER, EmbeddedPostgres
from detect.record import TenantId
from store.bootstrap import bootstrap
from store.journal import JournalEntry, JournalWriter
from store.migrate import migrate
from store.postgres import connect_pool
from store.tenants import create_tenant


async def _sender(writer: JournalWriter, tenant: TenantId, payload: bytes, until: float, waits: list[float]) -> int:
    sent = 0
    while (began := time.perf_counter()) < until:
        key = os.urandom(16)
        entry = JournalEntry(tenant, "bench", key, key, "otlp_protobuf", "gzip", 1000, payload, datetime.now(UTC))
        await writer.append(entry)
        waits.append(time.perf_counter() - began)
        sent += 1
    return sent


async def measure(server: EmbeddedPostgres, seconds: float) -> list[str]:
    """One line a case: rows and MB a second, median and 99th percentile of the wait of a sender."""
    await bootstrap(server.dsn(SUPERUSER), server.passwords)
    await migrate(server.dsn("trustsoc_owner"))
    app = await connect_pool(server.dsn("trustsoc_app"), name="bench")
    pool = await connect_pool(server.dsn("trustsoc_writer"), name="bench", max_size=2)
    tenants = [await create_tenant(app, f"bench-{number}", actor="bench") for number in range(4)]
    lines = []
    for size in (8 * 1024, 72 * 1024):
        payload = os.urandom(size)
        for concurrency in (1, 8, 64):
            writer, waits = JournalWriter(pool), list[float]()
            began = time.perf_counter()
            sends = [_sender(writer, tenants[n % 4], payload, began + seconds, waits) for n in range(concurrency)]
            rows = sum(await asyncio.gather(*sends)) / (time.perf_counter() - began)
            waits.sort()
            median, slow = waits[len(waits) // 2] * 1000, waits[len(waits) * 99 // 100] * 1000
            lines.append(
                f"{concurrency:3} senders, {size // 1024:3} KB: {rows:7.0f} rows/s, {rows * size / 1e6:6.1f} MB/s, "
                f"p50 {median:6.1f} ms, p99 {slow:6.1f} ms"
            )
    await pool.close()
    await app.close()
    return lines


def main() -> None:
    """Prints the table."""
    folder = Path(tempfile.mkdtemp(prefix="trustsoc-bench-"))
    folder.chmod(0o711)
    server = EmbeddedPostgres(folder)
    try:
        server.start()
        seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 3.0
        sys.stdout.write("\n".join(asyncio.run(measure(server, seconds))) + "\n")
    finally:
        server.stop()
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
