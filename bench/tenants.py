"""What a tenant costs: memory when idle, and a record at 1, 10, 100 and 1,000 tenants: `python -m bench.tenants`.

No database: journal rows are made here, one `TenantDetector` a tenant observes them in turn, as an actor does. Each
number of tenants is measured in a process of its own, because what one has freed another would use unseen.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from uuid import UUID

import orjson
import psutil

from actors.rules import RuleLibrary
from bench.figures import Figure, finish
from detect.batch import Batch
from detect.record import TenantId
from detect.sigma import load_rule_set, pack_bytes, starter_pack
from detect.tenant import TenantDetector
from models.ewma import EwmaModel

COMMAND = "python -m bench.tenants"
COUNTS = (1, 10, 100, 1000)
RECORDS = 20_000
_BATCH = 20
_BASE = 472_222 * 3600 * 10**9
_KIB = 1024


def measure(counts: tuple[int, ...] = COUNTS, records: int = RECORDS) -> list[Figure]:
    """So many records, spread over so many tenants, each number of tenants from a fresh start."""
    figures: list[Figure] = []
    for count in counts:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
            figures += fresh.submit(_measure_one, count, records).result()
    return figures


def _measure_one(count: int, records: int) -> list[Figure]:
    library, digest = _library()
    # What one tenant makes for all (compiled rules, parsers) is not counted as a tenant's.
    first = _detector(0, library, digest)
    first.observe(_batch(2, 0))
    gc.collect()
    process = psutil.Process()
    before = process.memory_info().rss
    tenants = [_detector(number, library, digest) for number in range(1, count + 1)]
    gc.collect()
    idle = (process.memory_info().rss - before) / count / _KIB
    rounds = max(1, records // _BATCH // count)
    batches = [_batch(seq, seq - 2) for seq in range(2, rounds + 2)]
    began = time.process_time()
    for batch in batches:
        for tenant in tenants:
            tenant.observe(batch)
    spent = time.process_time() - began
    gc.collect()
    busy = (process.memory_info().rss - before) / count / _KIB
    began = time.process_time()
    states = [tenant.snapshot() for tenant in tenants]
    snapshot_s = (time.process_time() - began) / count
    size = sum(map(len, states)) / count / _KIB
    per_record = spent / (rounds * count * _BATCH) * 1e6
    name = f"{count} tenants" if count > 1 else "1 tenant"
    found = [
        Figure(f"judging a record, {name}", per_record, "µs CPU", None, "lower", COMMAND),
        Figure(f"state after {rounds} batches each, {name}", busy, "KiB RSS a tenant", None, "lower", COMMAND),
        Figure(f"snapshot, {name}", size, "KiB", None, "lower", COMMAND),
        Figure(f"making a snapshot, {name}", snapshot_s * 1e3, "ms CPU", None, "lower", COMMAND),
    ]
    if count >= 100:  # below that the figure is the allocator's, not a tenant's
        found.append(Figure(f"idle tenant, {name}", idle, "KiB RSS a tenant", 256, "lower", COMMAND))
    return found


def _library() -> tuple[RuleLibrary, str]:
    sources = starter_pack()
    pack, digest = pack_bytes(sources), load_rule_set(sources).digest

    async def fetch(_: str) -> bytes:
        return pack

    library = RuleLibrary(fetch)
    asyncio.run(library.load(digest))
    return library, digest


def _detector(number: int, library: RuleLibrary, digest: str) -> TenantDetector:
    detector = TenantDetector(TenantId(UUID(int=number)), library.resolve, EwmaModel, matcher=library.matcher)
    detector.observe(Batch(1, _BASE, "control", orjson.dumps({"type": "rules", "digest": digest})))
    return detector


def _batch(seq: int, minute: int) -> Batch:
    """A minute of a small server: logins that succeed and fail, from a few addresses."""
    records = [
        {
            "timeUnixNano": str(_BASE + (minute * 60 + number * 3) * 10**9),
            "body": {
                "stringValue": f"Nov 14 22:00:00 web-{number % 4} sshd[{number}]: "
                f"{'Failed password for invalid user' if number % 3 else 'Accepted publickey for'} u{number % 5} "
                f"from 203.0.113.{number % 7} port {40000 + number} ssh2"
            },
        }
        for number in range(_BATCH)
    ]
    request = {"resourceLogs": [{"scopeLogs": [{"logRecords": records}]}]}
    return Batch(seq, _BASE + minute * 60 * 10**9, "otlp_json", orjson.dumps(request))


def main() -> int:
    """Measures, prints the table and keeps the figures; 1 when one is on the wrong side of its floor."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--records", type=int, default=RECORDS, help="in all, for each number of tenants")
    figures = measure(records=parser.parse_args().records)
    return finish(figures)


if __name__ == "__main__":
    sys.exit(main())
