"""A load of OTLP requests over plain sockets: prepared bytes in, statuses out, so that the client costs little."""

from __future__ import annotations

import asyncio
import gzip
import random
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

_USERS = ("root", "admin", "oracle", "test", "git", "ubuntu", "postgres", "pi")


def export_request(records: int, seed: int, now_ns: int) -> bytes:
    """A gzipped OTLP protobuf request of sshd, sudo, cron and web lines, mostly ordinary, seeded."""
    rng = random.Random(seed)
    message = ExportLogsServiceRequest()
    resource = message.resource_logs.add()
    host = resource.resource.attributes.add()
    host.key, host.value.string_value = "host.name", f"web-{seed % 10}"
    scope = resource.scope_logs.add()
    for number in range(records):
        record = scope.log_records.add()
        record.time_unix_nano = now_ns + number * 1000
        record.body.string_value = _line(rng)
        name = record.attributes.add()
        name.key, name.value.string_value = "log.file.name", "auth.log"
    return gzip.compress(message.SerializeToString(), 6)


def log_lines(lines: int, seed: int) -> bytes:
    """The same lines as a log file has them."""
    rng = random.Random(seed)
    return "".join(f"{_line(rng)}\n" for _ in range(lines)).encode()


def _line(rng: random.Random) -> str:
    host, pid = f"web-{rng.randrange(10)}", rng.randrange(1000, 30000)
    address = f"10.{rng.randrange(4)}.{rng.randrange(8)}.{rng.randrange(250)}"
    stamp = f"Mar  1 10:{rng.randrange(60):02d}:{rng.randrange(60):02d}"
    match rng.randrange(6):
        case 0:
            return f"{stamp} {host} CRON[{pid}]: (root) CMD (/usr/lib/sysstat/sa1 1 1)"
        case 1:
            return f"{stamp} {host} sshd[{pid}]: Accepted publickey for deploy from {address} port {pid} ssh2"
        case 2:
            user = rng.choice(_USERS)
            return f"{stamp} {host} sshd[{pid}]: Failed password for {user} from {address} port {pid} ssh2"
        case 3:
            return f"{stamp} {host} systemd[1]: Started Session {pid} of user deploy."
        case _:
            path = f"/products/{rng.randrange(500)}?page={rng.randrange(9)}"
            return f'{address} - - [01/Mar/2026:10:{rng.randrange(60):02d}:00 +0000] "GET {path} HTTP/1.1" 200 {pid}'


@dataclass(slots=True)
class LoadResult:
    """What a load did. Times in seconds; `latencies` of the successes; `client_cpu` is what sending cost this side."""

    requests: int
    seconds: float
    refused: int
    latencies: list[float]
    client_cpu: float = 0.0


async def send_load(
    url: str,
    key: str,
    bodies: list[bytes],
    *,
    connections: int,
    seconds: float,
    rate: float | None,
    run: str,
    most: int = 10**9,
) -> LoadResult:
    """POSTs the bodies round robin over keep-alive connections, `most` requests at most; `rate` is requests a second
    over all connections, None for as many as there can be."""
    place = urlsplit(url)
    result = LoadResult(0, 0.0, 0, [])
    cpu, began = time.process_time(), time.monotonic()
    until = began + seconds

    async def one(number: int) -> None:
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        sent = 0
        while time.monotonic() < until and sent * connections + number < most:
            body = bodies[(number + sent) % len(bodies)]
            head = (
                f"POST {place.path} HTTP/1.1\r\nHost: {place.netloc}\r\nAuthorization: Bearer {key}\r\n"
                f"Content-Type: application/x-protobuf\r\nContent-Encoding: gzip\r\n"
                f"X-Idempotency-Key: {run}-{number}-{sent}\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            asked = time.monotonic()
            writer.write(head.encode() + body)
            await writer.drain()
            if await _status(reader) == 200:
                result.requests += 1
                result.latencies.append(time.monotonic() - asked)
            else:
                result.refused += 1
            sent += 1
            if rate is not None:
                await asyncio.sleep(max(0.0, began + sent * connections / rate - time.monotonic()))
        writer.close()

    await asyncio.gather(*(one(number) for number in range(connections)))
    result.seconds, result.client_cpu = time.monotonic() - began, time.process_time() - cpu
    return result


async def _status(reader: asyncio.StreamReader) -> int:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    length = 0
    for line in head.split("\r\n"):
        if line.startswith("content-length:"):
            length = int(line.partition(":")[2])
    if length:
        await reader.readexactly(length)
    return int(head.split(" ", 2)[1])


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` of them lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
