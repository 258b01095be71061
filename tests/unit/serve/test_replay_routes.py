"""Replays and backtests over HTTP: so many at once together, and what is wrong with a request is named."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, cast
from uuid import UUID

import httpx
from fastapi import FastAPI

from actors.replay import Line
from serve.edge import answer_errors
from serve.replay_stream import ReplayStreams
from serve.routes_backtest import backtest_routes
from serve.routes_replay import replay_routes


class Reader:
    """Lets everybody in, for one tenant."""

    async def tenant_principal(self, _: object, __: str) -> tuple[UUID, None]:
        return UUID(int=1), None


async def nobody_masks(_: object) -> None:
    """How the records of the tenant are masked."""


def client(streams: ReplayStreams, go_on: asyncio.Event) -> httpx.AsyncClient:
    async def lines(_: object) -> AsyncGenerator[Line, None]:
        yield {"type": "start"}
        await go_on.wait()
        yield {"type": "result"}

    application = FastAPI()
    answer_errors(application)
    reader = cast("Any", Reader())
    application.include_router(replay_routes(reader, streams, lines, 10))
    application.include_router(backtest_routes(reader, streams, lines, 10, nobody_masks))
    return httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url="http://edge")


BACKTEST = {"rules": [{"name": "a.yml", "text": "title: A"}], "since": "2026-03-01T00:00:00Z"}


async def test_a_replay_and_a_backtest_take_the_same_places() -> None:
    streams, go_on = ReplayStreams(at_once=1), asyncio.Event()
    async with client(streams, go_on) as http:
        first = asyncio.create_task(http.post("/api/replay", json={"from": 1}))
        while not streams.running:
            await asyncio.sleep(0)
        assert (await http.post("/api/rules/backtest", json=BACKTEST)).status_code == 429
        go_on.set()
        assert (await first).status_code == 200
        while streams.running:
            await asyncio.sleep(0)
        assert (await http.post("/api/rules/backtest", json=BACKTEST)).status_code == 200


async def test_what_is_wrong_with_a_request_is_named() -> None:
    async with client(ReplayStreams(), asyncio.Event()) as http:
        for path, body in (("/api/replay", {"from": 0}), ("/api/rules/backtest", BACKTEST | {"rules": []})):
            refused = await http.post(path, json=body)
            assert (refused.status_code, refused.headers["content-type"]) == (422, "application/problem+json")
            assert refused.json()["detail"].startswith(("from: ", "rules: "))
