"""Senders that do not speak OTLP: one real round trip through each door, from its wire to what was detected."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging.handlers
import signal
import socket
import ssl
from datetime import UTC, datetime, timedelta

import httpx

from bench.system import System
from tests.e2e.conftest import SyslogDoors, Tenant, wait_for

BEGAN = datetime.now(UTC) - timedelta(minutes=10)
ATTACKER = "203.0.113.77"


def brute_force(host: str) -> list[tuple[datetime, str]]:
    """Twenty failed passwords within a minute, and the password that was right."""
    lines = []
    for number in range(21):
        what = "Accepted" if number == 20 else "Failed"
        at = BEGAN + timedelta(seconds=3 * number)
        text = f"{what} password for root from {ATTACKER} port {40000 + number} ssh2"
        lines.append((at, f"{at:%b} {at.day:2d} {at:%H:%M:%S} {host} sshd[{4000 + number}]: {text}"))
    return lines


def await_records(tenant: Tenant, count: int) -> None:
    """Returns when so many records are judged, and no more; trouble of the database may be on its way meanwhile."""

    def judged() -> bool:
        answer = tenant.client.get("/api/status")
        if answer.status_code != 200:
            return False
        counts = answer.json()["counts"]
        return bool(counts["records"] >= count and counts["judged"] == counts["batches"])

    wait_for(judged, f"{count} records judged")
    assert tenant.await_judged()["records"] == count


def detected(tenant: Tenant, host: str) -> set[str]:
    """The rules that spoke of the attacker on the host."""
    events = tenant.get("/api/events", limit=500)["items"]
    entities = {event["rule_id"]: {entity["value"] for entity in event["entities"]} for event in events}
    assert any({ATTACKER, host} <= values for values in entities.values()), entities
    return set(entities)


def test_ndjson_lines_are_stored_judged_and_found(tenant: Tenant) -> None:
    documents = [
        {"@timestamp": at.isoformat(), "message": line, "log.level": "info"} for at, line in brute_force("nd-1")
    ]
    body = "\n".join([json.dumps(document) for document in documents] + ["no json"])
    answer = tenant.client.post("/ingest/ndjson", content=body, headers={"content-type": "application/x-ndjson"})
    assert (answer.status_code, answer.json()["accepted"], answer.json()["rejected"][0]["line"]) == (200, 21, 22)
    await_records(tenant, 21)
    assert detected(tenant, "nd-1")


def test_what_is_sent_to_elasticsearch_is_detected_and_found_by_its_id(tenant: Tenant) -> None:
    pairs = []
    for at, line in brute_force("es-1"):
        document = {"@timestamp": at.isoformat(), "message": line, "log": {"file": {"path": "/var/log/auth.log"}}}
        pairs += [json.dumps({"create": {"_index": "filebeat"}}), json.dumps(document)]
    body = "\n".join([*pairs, '{"delete": {"_id": "x"}}']) + "\n"
    sent = {"content-type": "application/x-ndjson"}
    basic = ("elastic", tenant.key)
    assert tenant.client.get("/", auth=basic).json()["version"]["number"]
    answers = [tenant.client.post("/_bulk", content=body, headers=sent, auth=basic).json() for _ in range(2)]
    assert answers[0]["items"] == answers[1]["items"]
    assert [next(iter(item.values()))["status"] for item in answers[0]["items"]] == [201] * 21 + [400]
    await_records(tenant, 21)
    record = tenant.get(f"/api/logs/{answers[0]['items'][3]['create']['_id']}")
    assert "sshd[4003]" in json.dumps(record)
    assert detected(tenant, "es-1")


def test_syslog_over_tcp_survives_the_database_and_its_brute_force_is_detected(
    system: System, tenant: Tenant, syslog_doors: SyslogDoors
) -> None:
    syslog_doors.key_file.write_text(tenant.key)
    facility = logging.handlers.SysLogHandler.LOG_AUTH
    address = ("127.0.0.1", syslog_doors.tcp_port)
    with contextlib.closing(logging.handlers.SysLogHandler(address, facility, socket.SOCK_STREAM)) as handler:
        for number, (_, line) in enumerate(brute_force("sys-1")):
            if number == 10:
                kill_postgres(system)
            handler.handle(logging.LogRecord("sshd", logging.INFO, "", 0, line, None, None))
        try:
            await_records(tenant, 21)
        except AssertionError as missing:
            # What became of the connection is only in the counters.
            told = [line for line in system.client().get("/metrics").text.splitlines() if "syslog" in line]
            raise AssertionError("\n".join(told)) from missing
    assert detected(tenant, "sys-1")


def kill_postgres(system: System) -> None:
    postmaster = next(
        process for process in system.process.children() if process.name().startswith("postgres") and process.children()
    )
    postmaster.send_signal(signal.SIGKILL)


def test_syslog_over_tls_is_stored_like_all_else(tenant: Tenant, syslog_doors: SyslogDoors, system: System) -> None:
    syslog_doors.key_file.write_text(tenant.key)
    stamp = BEGAN.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    messages = [f"<34>1 {stamp} tls-1 su - ID47 - 'su root' failed for user{number}" for number in range(100)]

    async def send() -> None:
        context = ssl.create_default_context(cafile=syslog_doors.authority)
        _, writer = await asyncio.open_connection("localhost", syslog_doors.tls_port, ssl=context)
        for message in messages:
            writer.write(f"{len(message)} {message}".encode())
        writer.close()
        await writer.wait_closed()

    asyncio.run(send())
    await_records(tenant, 100)
    metrics = httpx.get(f"{system.base_url}/metrics").text
    assert 'trustsoc_ingest_door_records_total{door="syslog"}' in metrics
