"""The advisor as the edge calls it: through a Serve handle, with deadlines, so that it can never hold the edge up."""

from __future__ import annotations

import asyncio
from typing import Any

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from serve.errors import WireError

_STATUS_S = 2.0
_ANSWER_S = 10.0


class AdvisorClient:
    """`handle` is None where the installation runs without an advisor."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    async def status(self) -> dict[str, Any]:
        """What the advisor and its language model are doing; says so when it does not answer."""
        if self._handle is None:
            return {"ready": False, "state": "off", "detail": "this installation runs without an advisor"}
        try:
            status: dict[str, Any] = await asyncio.wait_for(self._handle.status.remote(), _STATUS_S)
        except (RayError, RayServeException, TimeoutError) as error:
            return {"ready": False, "state": "not answering", "detail": type(error).__name__}
        return status

    async def analyze(self, incident: dict[str, Any], wait_s: float, cache_salt: str) -> dict[str, Any]:
        """An advisory for a caller's own incident; WireError 503 while the advisor is not there."""
        if self._handle is None:
            raise WireError(503, "this installation runs without an advisor", retry_after_s=60)
        try:
            asked = self._handle.analyze.remote(incident, wait_s, cache_salt)
            answer: dict[str, Any] = await asyncio.wait_for(asked, wait_s + _ANSWER_S)
        except (RayError, RayServeException, TimeoutError) as error:
            raise WireError(503, "the advisor does not answer: retry later", retry_after_s=5) from error
        if "invalid" in answer:
            raise WireError(422, answer["invalid"])
        if "starting" in answer:
            raise WireError(503, f"the advisor is starting: {answer['starting']}", retry_after_s=5)
        return answer
