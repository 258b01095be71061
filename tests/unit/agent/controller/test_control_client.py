"""Calls of the Control API: over TLS 1.3 to the right server only, and no proxy is taken for it."""

from __future__ import annotations

import io
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.controller.backoff import Backoff
from agent.controller.control_client import ControlClient, Refused, TlsFiles, Unreachable
from agent.controller.identity import IdentityFolder
from tests.unit.agent.controller.control_server import Authority, ControlServer


@pytest.fixture
def identity(tmp_path: Path, server: ControlServer) -> IdentityFolder:
    return server.make_identity(tmp_path / "agent")


@pytest.fixture
def client(identity: IdentityFolder) -> Iterator[ControlClient]:
    made = client_of(identity)
    yield made
    made.reconnect()


def client_of(identity: IdentityFolder, control: str = "") -> ControlClient:
    from dataclasses import replace

    named = identity.read()
    pair = TlsFiles(identity.authority, identity.current / "certificate.pem", identity.current / "key.pem")
    return ControlClient(replace(named, control=control or named.control), identity.signing_key(), pair)


def test_every_attempt_is_signed_and_has_a_nonce_of_its_own(server: ControlServer, client: ControlClient) -> None:
    for _ in range(3):
        client.post("/agent/jobs/output", {"job": "a", "lease": "b", "offset": 0, "data": "ü"})
    server.policies["0" * 64] = b"text"
    assert client.get("/agent/policies/" + "0" * 64, most_bytes=4) == b"text"
    assert len(server.nonces) == 4
    assert not server.troubles


def test_a_used_nonce_is_signed_again_and_a_lost_lease_is_a_refusal(
    server: ControlServer, client: ControlClient
) -> None:
    conflicts = iter([(409, {"detail": "nonce"})])
    server.hook = lambda *_: next(conflicts, None)
    client.post("/agent/jobs/output", {"job": "a", "lease": "b", "offset": 0, "data": ""})
    server.hook = lambda *_: (409, {"detail": "lease lost"})
    with pytest.raises(Refused, match="lease lost") as caught:
        client.post("/agent/jobs/output", {})
    assert caught.value.status == 409


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
def test_a_definite_no_is_told_from_what_will_pass(server: ControlServer, client: ControlClient, status: int) -> None:
    server.hook = lambda *_: (status, {"detail": "why"})
    with pytest.raises(Refused, match="why"):
        client.post("/agent/jobs/pull", {})
    for passing in (429, 500, 502, 503):
        server.hook = lambda *_, passing=passing: (passing, {"detail": "later"})
        with pytest.raises(Unreachable, match="later"):
            client.post("/agent/jobs/pull", {})


def test_what_is_larger_than_asked_for_is_not_taken(server: ControlServer, client: ControlClient) -> None:
    server.policies["0" * 64] = server.packages["0" * 64] = b"x" * 100_001
    with pytest.raises(Refused):
        client.get("/agent/policies/" + "0" * 64, most_bytes=100_000)
    sink = io.BytesIO(b"what was there before and is longer")
    with pytest.raises(Refused):
        client.download("/agent/packages/" + "0" * 64, sink, most_bytes=100_000)
    client.download("/agent/packages/" + "0" * 64, sink, most_bytes=100_001)
    assert sink.getvalue() == b"x" * 100_001


def test_an_answer_that_is_no_object_is_no_answer(server: ControlServer, client: ControlClient) -> None:
    for body in (b"", b"[]", b"<html>", b"[" * 100_000):
        server.hook = lambda *_, body=body: body
        with pytest.raises(Unreachable):
            client.post("/agent/jobs/pull", {})


def test_a_server_of_another_authority_is_not_talked_to(
    server: ControlServer, identity: IdentityFolder, client: ControlClient
) -> None:
    identity.authority.write_bytes(Authority().pem)
    with pytest.raises(Unreachable, match="CERTIFICATE_VERIFY_FAILED"):
        client.post("/agent/jobs/pull", {})
    assert not server.nonces


@contextmanager
def speaking(server: ControlServer, folder: Path, answer: bytes, version: ssl.TLSVersion) -> Iterator[str]:
    """A TLS server with the right certificate that answers everything with the same bytes."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = version
    context.load_cert_chain(folder / "server" / "server.pem")
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                raw, _ = listener.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(raw, server_side=True) as connection:
                    connection.recv(65_536)
                    connection.sendall(answer)
            except OSError:
                raw.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"https://127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(5)


ANSWERS = {
    "html of a proxy": b"HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\n\r\n<html>",
    "success of a proxy": b'HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{"items":[]}',
    "half an answer": b"HTTP/1.1 200 OK\r\nX-Server-Time: 1767225600000\r\nContent-Length: 50\r\n\r\n{",
    "no http": b"SSH-2.0-x\r\n",
    "nothing": b"",
    "a time in other digits": b"HTTP/1.1 200 OK\r\nX-Server-Time: \xb2\r\nContent-Length: 2\r\n\r\n{}",
    "a time that no clock has": b"HTTP/1.1 200 OK\r\nX-Server-Time: %s\r\nContent-Length: 2\r\n\r\n{}" % (b"9" * 400),
    "a pause in other digits": b"HTTP/1.1 503 Busy\r\nX-Server-Time: 1767225600000\r\nRetry-After: \xb2\r\n"
    b"Content-Length: 0\r\n\r\n",
    "odd headers": b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n",
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_what_is_not_the_server_s_answer_says_nothing(
    server: ControlServer, identity: IdentityFolder, tmp_path: Path, answer: bytes
) -> None:
    with speaking(server, tmp_path, answer, ssl.TLSVersion.TLSv1_3) as url:
        client = client_of(identity, url)
        with pytest.raises(Unreachable):
            client.post("/agent/jobs/pull", {}, timeout_s=5)
        client.reconnect()


def test_tls_1_2_is_not_spoken(server: ControlServer, identity: IdentityFolder, tmp_path: Path) -> None:
    with (
        speaking(server, tmp_path, b"", ssl.TLSVersion.TLSv1_2) as url,
        pytest.raises(Unreachable, match=r"(?i)version"),
    ):
        client_of(identity, url).post("/agent/jobs/pull", {}, timeout_s=5)


def test_only_https_addresses_are_taken(identity: IdentityFolder) -> None:
    for url in ("http://127.0.0.1:1", "https://", "https://host/?a=b", "file:///etc/passwd"):
        with pytest.raises(ValueError, match="https"):
            client_of(identity, url)


def test_a_waiting_call_can_be_interrupted(server: ControlServer, client: ControlClient) -> None:
    def interrupt() -> None:
        with server.changed:
            server.changed.wait_for(lambda: bool(server.health), 10)
        client.interrupt()

    thread = threading.Thread(target=interrupt)
    thread.start()
    began = time.monotonic()
    with pytest.raises(Unreachable):
        client.post("/agent/jobs/pull", {"wait_s": 20, "most": 1, "health": {}}, timeout_s=25)
    assert time.monotonic() - began < 15
    thread.join()


@given(st.integers(0, 30), st.none() | st.floats(0, 100))
def test_the_wait_grows_has_jitter_and_a_ceiling_and_heeds_the_server(failures: int, asked: float | None) -> None:
    backoff = Backoff()
    for _ in range(failures):
        backoff.next()
    wait = backoff.next(asked)
    least = asked or 0.0
    assert least <= wait <= least + min(60.0, 0.5 * 2**failures)
    backoff.reset()
    assert backoff.next() <= 0.5


def test_the_wait_differs_between_agents() -> None:
    waits: set[float] = set()
    for _ in range(20):
        backoff = Backoff()
        for _ in range(6):
            backoff.next()
        waits.add(round(backoff.next(), 6))
    assert len(waits) > 15


def test_details_are_read_from_problem_documents(server: ControlServer, client: ControlClient) -> None:
    value: dict[str, Any] = {"detail": "x" * 10_000}
    server.hook = lambda *_: (422, value)
    with pytest.raises(Refused) as caught:
        client.post("/agent/jobs/pull", {})
    assert len(str(caught.value)) < 600
    assert json.dumps(value)
