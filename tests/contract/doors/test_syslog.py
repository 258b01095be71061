"""The syslog door over real sockets: what comes in is stored, and nothing more is read while nothing can be stored."""

from __future__ import annotations

import asyncio
import contextlib
import logging.handlers
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError
from structlog.typing import EventDict

from bench.system import free_port
from cluster.certificates import CertificateAuthority
from detect.record import TenantId
from serve.ingest.syslog import serving_syslog
from serve.ingest.syslog_connection import SyslogParts
from serve.peer import PeerIdentity
from serve.syslog_listener import SyslogListener
from store.postgres import StorageUnavailable
from tests.contract.doors.edge import TENANT, DoorsEdge

LINE = "<38>Dec 10 06:55:48 web-1 sshd[24200]: Failed password for root from 203.0.113.7 port 38926 ssh2"
DOWN = StorageUnavailable("down", 0.01)


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    file = tmp_path / "syslog.key"
    file.write_text("good\n")
    return file


@asynccontextmanager
async def listening(edge: DoorsEdge, listener: SyslogListener, parts: SyslogParts) -> AsyncIterator[None]:
    async with serving_syslog([listener], edge.authenticator, parts):
        await until(lambda: edge.counted("syslog_listeners") == 1)
        yield


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


async def connected(port: int, tls: ssl.SSLContext | None = None) -> asyncio.StreamWriter:
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
    return writer


async def ended(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def test_messages_in_both_framings_are_records_with_host_severity_and_facility(
    edge: DoorsEdge, key_file: Path
) -> None:
    listener = SyslogListener(port=free_port(), key_file=key_file)
    ietf = "<165>1 2025-12-10T06:55:49.003Z db-1 app 12 ID47 - \ufeffcaf\u00e9"
    async with listening(edge, listener, edge.syslog_parts()):
        writer = await connected(listener.port)
        writer.write(f"{LINE}\n".encode() + b"%d %s" % (len(ietf.encode()), ietf.encode()) + b"no header\n")
        await ended(writer)
        await until(lambda: len(edge.journal.records()) == 3)
    first, second, third = edge.journal.records()
    assert [record.body for record in (first, second, third)] == [LINE, ietf, "no header"]
    assert first.resource == {"network.peer.address": "127.0.0.1", "host.name": "web-1"}
    assert (first.severity_number, first.severity_text) == (9, "info")
    assert first.attributes == {
        "log.syslog.facility.code": 4,
        "log.syslog.facility.name": "auth",
        "log.syslog.severity.code": 6,
    }
    assert first.stated_ns == 1_765_349_748 * 10**9
    assert (second.resource["host.name"], second.stated_ns % 10**9) == ("db-1", 3_000_000)
    assert third.resource["host.name"] == "127.0.0.1"
    assert edge.journal.normalized()[0].logsource.service == "sshd"
    assert {row.agent for row in edge.journal.rows} == {"key-good"}
    assert edge.counted("ingest_door_records_total", door="syslog") == 3


async def test_pythons_own_handler_is_understood(edge: DoorsEdge, key_file: Path) -> None:
    listener = SyslogListener(port=free_port(), key_file=key_file)
    async with listening(edge, listener, edge.syslog_parts()):

        def log() -> None:
            facility = logging.handlers.SysLogHandler.LOG_AUTH
            handler = logging.handlers.SysLogHandler(("127.0.0.1", listener.port), facility, socket.SOCK_STREAM)
            handler.ident = "sshd[77]: "
            for port in (1, 2):
                text = f"Failed password for root from 203.0.113.7 port {port} ssh2"
                handler.handle(logging.LogRecord("sshd", logging.INFO, "", 0, text, None, None))
            handler.close()

        await asyncio.to_thread(log)
        await until(lambda: len(edge.journal.records()) == 2)
    for record in edge.journal.normalized():
        assert (record.logsource.service, record.outcome) == ("sshd", "failure")
        assert (record.entity("ip"), record.entity("host")) == ("203.0.113.7", "127.0.0.1")


async def test_nothing_is_lost_or_doubled_while_the_journal_is_away(edge: DoorsEdge, key_file: Path) -> None:
    listener = SyslogListener(port=free_port(), key_file=key_file)
    sent = [f"<13>message {number}" for number in range(500)]
    async with listening(edge, listener, edge.syslog_parts(batch_messages=50)):
        edge.journal.trouble = DOWN
        writer = await connected(listener.port)
        for message in sent:
            writer.write(f"{message}\n".encode())
        await until(lambda: edge.journal.refusals >= 3)
        assert edge.journal.rows == []
        edge.journal.trouble = None
        edge.journal.answer_lost = DOWN  # stored, but the answer did not come: the same batch is sent again
        await until(lambda: len(edge.journal.records()) == 500)
        await ended(writer)
    assert edge.journal.bodies() == sent
    assert edge.counted("syslog_retries_total") >= 4
    assert edge.counted("ingest_duplicate_records_total") == 50


async def test_a_sender_is_not_read_while_nothing_can_be_stored(edge: DoorsEdge, key_file: Path) -> None:
    listener = SyslogListener(port=free_port(), key_file=key_file)
    total = 40 * 2**20
    async with listening(edge, listener, edge.syslog_parts()):
        edge.journal.trouble = DOWN
        writer = await connected(listener.port)
        await until(lambda: edge.counted("syslog_open_connections") == 1)
        message = b"<13>" + b"x" * 995 + b"\n"
        sending = asyncio.create_task(_send_all(writer, message, total))
        await until(lambda: edge.journal.refusals >= 20)
        # Whatever the kernel and we hold is far less than what waits; TCP holds the sender back.
        assert not sending.done()
        edge.journal.trouble = None
        await sending
        await ended(writer)
        await until(lambda: edge.counted("ingest_door_records_total", door="syslog") == total // len(message))


async def _send_all(writer: asyncio.StreamWriter, message: bytes, total: int) -> None:
    for _ in range(total // len(message)):
        writer.write(message)
        await writer.drain()


async def test_what_was_read_is_stored_at_a_shutdown(edge: DoorsEdge, key_file: Path) -> None:
    listener = SyslogListener(port=free_port(), key_file=key_file)
    async with listening(edge, listener, edge.syslog_parts(batch_s=60.0)):
        writer = await connected(listener.port)
        await until(lambda: edge.counted("syslog_open_connections") == 1)
        writer.write(b"<13>one\n<13>two\n<13>without an end")
        await writer.drain()
    assert edge.journal.bodies() == ["<13>one", "<13>two", "<13>without an end"]
    await ended(writer)


async def test_a_shutdown_without_a_journal_ends_and_says_what_is_lost(
    edge: DoorsEdge, key_file: Path, logs: list[EventDict]
) -> None:
    listener = SyslogListener(port=free_port(), key_file=key_file)
    async with listening(edge, listener, edge.syslog_parts()):
        edge.journal.trouble = DOWN
        writer = await connected(listener.port)
        writer.write(b"<13>one\n<13>two\n")
        await until(lambda: edge.journal.refusals >= 1)
    assert edge.counted("syslog_lost_records_total") == 2
    assert any("given up" in entry["event"] for entry in logs)
    await ended(writer)


async def test_a_revoked_key_ends_the_connection_and_counts_what_came(edge: DoorsEdge, key_file: Path) -> None:
    listener = SyslogListener(port=free_port(), key_file=key_file)
    async with listening(edge, listener, edge.syslog_parts()):
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(b"<13>one\n")
        await until(lambda: len(edge.journal.rows) == 1)
        del edge.keys["good"]
        writer.write(b"<13>two\n<13>three\n")
        assert await reader.read() == b""
        await ended(writer)
        edge.keys["fresh"] = "ingest"
        key_file.write_text("fresh")
        writer = await connected(listener.port)
        writer.write(b"<13>four\n")
        await ended(writer)
        await until(lambda: len(edge.journal.rows) == 2)
    assert edge.counted("ingest_door_rejected_records_total", door="syslog", reason="unauthenticated") == 2
    assert edge.counted("syslog_connections_total", outcome="refused") == 1
    assert edge.journal.bodies() == ["<13>one", "<13>four"]


async def test_a_message_over_the_limit_is_cut_marked_and_counted(edge: DoorsEdge, key_file: Path) -> None:
    listener = SyslogListener(port=free_port(), key_file=key_file)
    async with listening(edge, listener, edge.syslog_parts(message_bytes=100)):
        writer = await connected(listener.port)
        writer.write(b"<13>" + b"x" * 1000 + b"\n<13>next\n")
        await ended(writer)
        await until(lambda: len(edge.journal.records()) == 2)
    long, following = edge.journal.records()
    assert (len(str(long.body)), following.body) == (100, "<13>next")
    assert (long.attributes["trustsoc.truncated"], long.attributes["trustsoc.original_bytes"]) == (True, 1004)
    assert edge.counted("syslog_cut_messages_total") == 1


async def test_connections_are_limited(edge: DoorsEdge, key_file: Path) -> None:
    listener = SyslogListener(port=free_port(), key_file=key_file)
    async with listening(edge, listener, edge.syslog_parts(connections=1)):
        first = await connected(listener.port)
        await until(lambda: edge.counted("syslog_open_connections") == 1)
        reader, second = await asyncio.open_connection("127.0.0.1", listener.port)
        assert await reader.read() == b""
        first.write(b"<13>still served\n")
        await until(lambda: len(edge.journal.rows) == 1)
        for writer in (first, second):
            await ended(writer)
    assert edge.counted("syslog_connections_total", outcome="too_many") == 1


async def test_a_port_that_is_taken_is_opened_when_it_is_free(
    edge: DoorsEdge, key_file: Path, logs: list[EventDict]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listener = SyslogListener(port=taken.getsockname()[1], key_file=key_file)
        async with serving_syslog([listener], edge.authenticator, edge.syslog_parts()):
            await until(lambda: any("cannot open" in entry["event"] for entry in logs))
            assert edge.counted("syslog_listeners") == 0
            taken.close()
            await until(lambda: edge.counted("syslog_listeners") == 1)
    assert edge.counted("syslog_listeners") == 0


NOW = datetime.now(UTC)
OTHER_TENANT = TenantId(UUID("22222222-2222-4222-8222-222222222222"))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    made = CertificateAuthority(tmp_path_factory.mktemp("tls"))
    made.create(["localhost", "127.0.0.1"], NOW)
    return made


def tls_listener(authority: CertificateAuthority, **more: Any) -> SyslogListener:
    server = authority.server_path
    return SyslogListener(port=free_port(), certificate=server, key=server.with_suffix(".key"), **more)


def client_tls(authority: CertificateAuthority, certificate: Path | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority.certificate_path)
    if certificate is not None:
        context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    return context


def agent(authority: CertificateAuthority, tenant: TenantId = TENANT) -> Path:
    return authority.issue_agent("acme", PeerIdentity(tenant, "switch-7"), NOW)


async def test_over_tls_a_listener_with_a_key_takes_octet_counted_messages(
    edge: DoorsEdge, key_file: Path, authority: CertificateAuthority
) -> None:
    listener = tls_listener(authority, key_file=key_file)
    async with listening(edge, listener, edge.syslog_parts()):
        writer = await connected(listener.port, client_tls(authority))
        writer.write(b"8 <13>on\ne8 <13>two!")
        await ended(writer)
        await until(lambda: len(edge.journal.records()) == 2)
    assert edge.journal.bodies() == ["<13>on\ne", "<13>two!"]


async def test_a_client_certificate_names_the_tenant_and_the_agent(
    edge: DoorsEdge, authority: CertificateAuthority
) -> None:
    listener = tls_listener(authority, client_authority=authority.certificate_path)
    async with listening(edge, listener, edge.syslog_parts()):
        writer = await connected(listener.port, client_tls(authority, agent(authority)))
        writer.write(b"<13>one\n")
        await ended(writer)
        await until(lambda: len(edge.journal.rows) == 1)
    assert (edge.journal.rows[0].tenant, edge.journal.rows[0].agent) == (TENANT, "switch-7")


async def test_a_revoked_certificate_and_a_new_server_certificate_count_from_the_next_connection_on(
    edge: DoorsEdge, tmp_path: Path
) -> None:
    own = CertificateAuthority(tmp_path / "tls")
    own.create(["localhost", "127.0.0.1"], NOW)
    listener = tls_listener(own, client_authority=own.certificate_path, revoked=own.revoked_path)
    certificate = agent(own)
    async with listening(edge, listener, edge.syslog_parts()):
        before = await connected(listener.port, client_tls(own, certificate))
        first_serial = server_serial(before)
        own.issue_server(["localhost", "127.0.0.1"], NOW)
        own.revoke(certificate, NOW)

        async def refused() -> bool:
            """TLS 1.3: a client hears of its refusal when it reads; whoever is welcome hears nothing."""
            tls = client_tls(own, certificate)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    return await heard_nothing_but_the_end(listener.port, tls)
            return False

        async with asyncio.timeout(20):
            while not await refused():
                await asyncio.sleep(0.01)
        other = own.issue_agent("acme", PeerIdentity(TENANT, "switch-8"), NOW)
        after = await connected(listener.port, client_tls(own, other))
        assert server_serial(after) != first_serial
        before.write(b"<13>the old connection goes on\n")
        await until(lambda: len(edge.journal.rows) == 1)
        for writer in (before, after):
            await ended(writer)


async def heard_nothing_but_the_end(port: int, tls: ssl.SSLContext) -> bool:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
    except OSError:
        return True
    try:
        return await reader.read() == b""
    except OSError:
        return True
    finally:
        writer.transport.abort()


def server_serial(writer: asyncio.StreamWriter) -> str:
    return str(writer.get_extra_info("ssl_object").getpeercert()["serialNumber"])


async def test_without_the_certificate_that_a_listener_asks_for_nothing_is_taken(
    edge: DoorsEdge, authority: CertificateAuthority
) -> None:
    listener = tls_listener(authority, client_authority=authority.certificate_path)
    async with listening(edge, listener, edge.syslog_parts()):
        assert await heard_nothing_but_the_end(listener.port, client_tls(authority))
    assert edge.journal.rows == []


async def test_a_key_and_a_certificate_of_two_tenants_are_refused(
    edge: DoorsEdge, key_file: Path, authority: CertificateAuthority
) -> None:
    listener = tls_listener(authority, key_file=key_file, client_authority=authority.certificate_path)
    async with listening(edge, listener, edge.syslog_parts()):
        tls = client_tls(authority, agent(authority, OTHER_TENANT))
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port, ssl=tls)
        writer.write(b"<13>one\n")
        assert await reader.read() == b""
        await ended(writer)
    assert edge.journal.rows == []
    assert edge.counted("ingest_door_rejected_records_total", door="syslog", reason="forbidden") == 1


@pytest.mark.parametrize(
    ("stated", "missing"),
    [
        ({}, "state key_file, or client_authority"),
        ({"key_file": "k", "certificate": "c"}, "both or neither"),
        ({"key_file": "k", "client_authority": "a"}, "needs TLS"),
        ({"key_file": "k", "revoked": "r"}, "revoked is a list"),
        ({"key_file": "k", "colour": "red"}, "Extra inputs"),
    ],
)
def test_a_listener_without_an_owner_or_half_a_certificate_is_no_setting(stated: dict[str, str], missing: str) -> None:
    with pytest.raises(ValidationError, match=missing):
        SyslogListener.model_validate({"port": 5514, **stated})
