"""The arguments of the Serve application, as ray_config.yaml carries them: validated once, no secrets."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _known_llm(value: str) -> str:
    if value in {"none", "cpu", "gpu"} or value.startswith(("http://", "https://")):
        return value
    raise ValueError("llm must be none, cpu, gpu or an http(s) URL of an OpenAI-compatible server")


LanguageModel = Annotated[str, AfterValidator(_known_llm)]
"""none, cpu, gpu, or the URL of an OpenAI-compatible server."""


class EdgeArguments(BaseModel):
    """How many of what. `llm` is none, cpu, gpu, or the URL of an OpenAI-compatible server."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    edge_replicas: int = Field(default=1, ge=1)
    detector_actors: int = Field(default=1, ge=1)
    advisor: bool = True
    llm: LanguageModel = "none"
