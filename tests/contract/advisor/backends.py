"""Backends with one behaviour each: what a model may do to the advisor, good and bad."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from serve.llm import BackendUnavailable, EngineState, EngineStateName, Generation

HONEST = "Failed passwords for root from 203.0.113.9 were followed by an accepted password for deploy on web01."


class ScriptedBackend:
    """Answers with `text`, or with an honest answer under the schema when that is None. Counts its calls."""

    name = "scripted"

    def __init__(self, text: str | None = None, state: EngineStateName = "ready") -> None:
        self.text = text
        self.now: EngineStateName = state
        self.users: list[str] = []
        self.salts: list[str] = []
        self.running = 0
        self.most_at_once = 0

    async def state(self) -> EngineState:
        return EngineState(self.now, f"it is {self.now}", "scripted-1")

    async def generate(
        self, system: str, user: str, schema: dict[str, Any], max_tokens: int, deadline_s: float, cache_salt: str
    ) -> Generation:
        self.users.append(user)
        self.salts.append(cache_salt)
        self.running += 1
        self.most_at_once = max(self.most_at_once, self.running)
        try:
            text = await self.answer(schema)
        finally:
            self.running -= 1
        return Generation(text, "scripted-1", 10, 10, 0.01)

    async def answer(self, schema: dict[str, Any]) -> str:
        """The answer's text."""
        await asyncio.sleep(0)
        return honest_answer(schema) if self.text is None else self.text


class DyingBackend(ScriptedBackend):
    """Breaks off, as an engine does that is killed."""

    async def answer(self, schema: dict[str, Any]) -> str:
        raise BackendUnavailable("died", "the engine went away")


class BrokenBackend(ScriptedBackend):
    """Breaks its contract: raises what no backend may raise."""

    async def answer(self, schema: dict[str, Any]) -> str:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


class HangingBackend(ScriptedBackend):
    """Never answers and forgets its deadline."""

    async def answer(self, schema: dict[str, Any]) -> str:
        await asyncio.Event().wait()
        return ""


def honest_answer(schema: dict[str, Any]) -> str:
    """A true sentence about the ssh incident, within this schema."""
    evidence = schema["properties"]["summary"]["properties"]["evidence"]["items"]["enum"]
    cited = [*[key for key in evidence if key.startswith("12-")][:1], "17-2"]
    return json.dumps(
        {
            "techniques": [{"id": "T1078", "evidence": ["17-2"]}],
            "summary": {"text": HONEST, "evidence": list(dict.fromkeys(cited))},
            "actions": [],
        }
    )
