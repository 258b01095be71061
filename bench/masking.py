"""`python -m bench.masking`: what masking costs a forwarder, in CPU time for each record, by the kind of log.

Each request has 1,000 records and is masked from its bytes to bytes, in protobuf, as collectors send it. Lines are of
the evaluation data; `repeats` masks the same requests again with a warm masker, the way of a host that says the same
things over and over. Keeps bench/results/latest.json.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

import orjson
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from agent.masking import Masker, MaskingKey
from bench.evaluation_records import bodies, reader
from bench.figures import Figure, keep, show

COMMAND = "python -m bench.masking"
BATCH = 1000
MOST = 6000
FLOORS = {"ssh lines": 60.0, "web lines": 80.0, "windows events": 300.0}


def lines(kind: str) -> Iterator[str]:
    """Log lines of a kind, as a collector reads them."""
    data = reader()
    match kind:
        case "ssh lines":
            return (entry["line"] for entry in data.loghub("OpenSSH"))
        case "web lines":
            return (entry["line"] for entry in data.access_log())
        case "system lines":
            return (entry["line"] for entry in data.loghub("Hadoop"))
        case "windows events":
            return (orjson.dumps(body).decode() for body in bodies(data, "evtx_attack"))
        case _:
            return (body if isinstance(body, str) else orjson.dumps(body).decode() for body in bodies(data, "mordor"))


def requests(kind: str) -> list[tuple[int, bytes]]:
    """Requests with their number of records: a body, and the attributes that a collector's filelog receiver adds."""
    found, made = islice(lines(kind), MOST), []
    while chunk := list(islice(found, BATCH)):
        request = ExportLogsServiceRequest()
        group = request.resource_logs.add()
        group.resource.attributes.add(key="host.name").value.string_value = "web-1"
        records = group.scope_logs.add().log_records
        for text in chunk:
            record = records.add(time_unix_nano=1_700_000_000_000_000_000, severity_number=9)
            record.body.string_value = text
            for key, value in (("log.file.name", "auth.log"), ("log.file.path", "/var/log/auth.log")):
                record.attributes.add(key=key).value.string_value = value
        made.append((len(chunk), request.SerializeToString()))
    return made


def cost(masker: Masker, found: list[tuple[int, bytes]]) -> float:
    """CPU microseconds for each record."""
    start = time.process_time()
    for _, body in found:
        masker.transform(body, "otlp_protobuf")
    return (time.process_time() - start) / sum(count for count, _ in found) * 1e6


def floor_cost(found: list[tuple[int, bytes]]) -> float:
    """The same without masking: read and written again by the same library."""
    start = time.process_time()
    for _, body in found:
        ExportLogsServiceRequest.FromString(body).SerializeToString()
    return (time.process_time() - start) / sum(count for count, _ in found) * 1e6


def memory_mib() -> float:
    """Resident memory that masking adds to a process: its own, less that of one that has only the libraries."""
    program = (
        "import google.protobuf,orjson,yaml;from opentelemetry.proto.collector.logs.v1 import logs_service_pb2;"
        "rss=lambda:int(open('/proc/self/statm').read().split()[1])*4096/2**20;base=rss();"
        "from agent.masking import Masker,MaskingKey;m=Masker(MaskingKey(bytes(32)));"
        "[m.values.text('user',f'user{n}',[]) for n in range(100000)];"
        "[m.values.text('',f'10.{n%256}.{n//256}.7',[]) for n in range(65536)];"
        "print(rss()-base)"
    )
    return float(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)


def measure(rounds: int) -> list[Figure]:
    """The lowest of so many rounds: what else the machine does only ever adds."""
    figures: list[Figure] = []

    def add(name: str, value: float, unit: str, floor: float | None = None) -> None:
        figures.append(Figure(f"masking, {name}", value, unit, floor, "lower", COMMAND))

    for kind in ("ssh lines", "web lines", "system lines", "windows events", "attack scenarios"):
        found = requests(kind)
        first, again = [], []
        for _ in range(rounds):
            masker = Masker(MaskingKey(bytes(32)))
            first.append(cost(masker, found))
            again.append(cost(masker, found))
        length = sum(len(body) for _, body in found) / sum(count for count, _ in found)
        add(f"{kind} ({length:.0f} bytes)", min(first), "CPU µs/record", FLOORS.get(kind))
        add(f"{kind}, repeats", min(again), "CPU µs/record")
        add(f"{kind}, read and written only", min(floor_cost(found) for _ in range(rounds)), "CPU µs/record")
    add("memory after 165,536 different names and addresses", memory_mib(), "MiB", 30.0)
    return figures


def main() -> int:
    """Measures, prints the table, keeps it; exit status 1 when a figure is on the wrong side of its floor."""
    parser: Any = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="the lowest of so many counts (default: 5)")
    figures = measure(parser.parse_args().rounds)
    keep(figures)
    show(figures)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(f"peak of this process, evaluation data included: {peak:.0f} MiB\n")
    return 0 if all(figure.holds for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
