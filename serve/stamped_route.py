"""Routes whose answers state the server's time, which is how agents tell an answer of ours from one of some proxy."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from agent.contract import SERVER_TIME_HEADER
from serve.errors import WireError, problem
from serve.ingest.body import invalid_fields
from serve.ingest.doors import wire_response
from store.postgres import StorageUnavailable


class StampedRoute(APIRoute):
    """A route whose every answer, a refusal too, carries the server's time."""

    def answered(self, status: int) -> None:
        """Hears of every answer."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler of FastAPI with the stamp around it."""
        handle = super().get_route_handler()

        async def stamped(request: Request) -> Response:
            try:
                response = await handle(request)
            except WireError as error:
                response = wire_response(problem(error))
            except StorageUnavailable as error:
                wait = max(1, round(error.retry_after_s))
                response = wire_response(problem(WireError(503, "the store is unavailable", retry_after_s=wait)))
            except RequestValidationError as error:
                response = wire_response(problem(invalid_fields(error.errors())))
            self.answered(response.status_code)
            response.headers[SERVER_TIME_HEADER] = str(time.time_ns() // 1_000_000)
            return response

        return stamped
