"""Answers to agents state the server's time, whatever the answer is."""

from __future__ import annotations

import time

import httpx
import pytest
from fastapi import APIRouter, FastAPI

from agent.contract import SERVER_TIME_HEADER
from serve.errors import WireError
from serve.stamped_route import StampedRoute
from store.postgres import StorageUnavailable


@pytest.fixture
def application() -> FastAPI:
    router = APIRouter(route_class=StampedRoute)

    @router.get("/numbers/{number}")
    async def numbers(number: int) -> dict[str, int]:
        if number == 0:
            raise WireError(409, "no")
        if number == 1:
            raise StorageUnavailable("away", 7.0)
        return {"number": number}

    made = FastAPI()
    made.include_router(router)
    return made


@pytest.mark.parametrize(("number", "status"), [("2", 200), ("0", 409), ("1", 503), ("x", 422)])
async def test_every_answer_is_stamped(application: FastAPI, number: str, status: int) -> None:
    before = time.time_ns() // 1_000_000
    async with httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url="http://edge") as client:
        answer = await client.get(f"/numbers/{number}")
    assert answer.status_code == status
    assert before <= int(answer.headers[SERVER_TIME_HEADER]) <= time.time_ns() // 1_000_000
    assert answer.headers.get("Retry-After") == ("7" if status == 503 else None)
    kind = "application/json" if status == 200 else "application/problem+json"
    assert answer.headers["Content-Type"] == kind
