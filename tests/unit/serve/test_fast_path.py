"""POSTs to a door take the short way and look to the door, and to the sender, as they do by the framework's route."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

import pytest
from fastapi import FastAPI
from starlette.requests import ClientDisconnect
from starlette.testclient import TestClient
from starlette.types import Message

from serve.errors import WireAnswer
from serve.ingest.fast_path import Door, FastPath, open_door

NOT_SENT_BY_HAND = {"host", "accept", "accept-encoding", "connection", "user-agent"}


class Recorder:
    """A door that remembers what it was given."""

    def __init__(self) -> None:
        self.seen: list[tuple[dict[str, str], bytes]] = []

    async def __call__(self, headers: Mapping[str, str], stream: AsyncIterator[bytes]) -> WireAnswer:
        body = b"".join([part async for part in stream])
        self.seen.append(({name: value for name, value in headers.items() if name not in NOT_SENT_BY_HAND}, body))
        return WireAnswer(202, "text/plain", b"taken", {"X-Batch-Seq": "7"})


def application(door: Door, *, short: bool) -> FastAPI:
    made = FastAPI()
    if short:
        made.add_middleware(FastPath)

    @made.get("/in")
    async def explanation() -> str:
        return "post here"

    open_door(made, "/in", door)
    return made


@pytest.mark.parametrize("short", [True, False], ids=["fast path", "route"])
def test_both_ways_give_the_door_the_same_and_the_sender_the_same(short: bool) -> None:
    door = Recorder()
    client = TestClient(application(door, short=short))
    sent = [(b"x-one", b"first"), (b"x-one", b"second")]
    answer = client.post("/in", content=b"abc" * 1000, headers=sent)
    assert (answer.status_code, answer.content) == (202, b"taken")
    assert (answer.headers["x-batch-seq"], answer.headers["content-length"]) == ("7", "5")
    expected = {"x-one": "first", "content-length": "3000"}
    assert door.seen == [(expected, b"abc" * 1000)]


def test_everything_else_is_the_framework_s() -> None:
    client = TestClient(application(Recorder(), short=True))
    assert client.get("/in").json() == "post here"
    assert client.post("/elsewhere").status_code == 404


def test_a_sender_that_goes_away_is_not_taken_for_the_end_of_its_body() -> None:
    async def door(_: Mapping[str, str], stream: AsyncIterator[bytes]) -> WireAnswer:
        with pytest.raises(ClientDisconnect):
            [part async for part in stream]
        return WireAnswer(503, "text/plain", b"broken off", {})

    parts: list[Message] = [{"type": "http.request", "body": b"half", "more_body": True}, {"type": "http.disconnect"}]
    answers: list[Message] = []

    async def receive() -> Message:
        return parts.pop(0)

    async def send(message: Message) -> None:
        answers.append(message)

    scope = {"type": "http", "method": "POST", "path": "/in", "headers": [], "query_string": b"", "root_path": ""}
    asyncio.run(application(door, short=True)(scope, receive, send))
    assert answers[0]["status"] == 503
