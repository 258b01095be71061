"""The advisor as a Serve deployment: loads its corpus in the background, then works through the advisory queue."""

from __future__ import annotations

from typing import Any

from actors.logs import configure_logs
from serve.arguments import EdgeArguments


class AdvisorDeployment:
    """Answers at once in every state; `engine` is the handle of the engine's deployment, None without one."""

    def __init__(self, arguments: EdgeArguments, engine: Any) -> None:
        configure_logs()
        self._arguments = arguments
        self._engine = engine

    async def status(self) -> dict[str, Any]:
        """State of corpus, queue and language model."""
        return {"ready": False, "state": "starting", "detail": ""}
