"""The JSON of masking: a tenant's setting, and questions about tokens."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints

from serve.masking.reveal import MAX_CANDIDATES, MAX_TOKENS
from serve.schemas import Model

Token = Annotated[str, StringConstraints(min_length=1, max_length=400)]
Candidate = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class MaskingChange(Model):
    """Switches masking on or off. `new_key`: by the newest master from now on; tokens of two keys do not compare."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"enabled": True}]})

    enabled: bool
    new_key: bool = False


class MaskingModel(Model):
    """How a tenant masks. Agents that were enrolled under another setting go on as they were (`agents_to_enrol`).

    `key` is the number of the key and of the master that it derives from; `fingerprint` tells whether a host has the
    same, and is null while the master's file is missing. `keys` are all that the tenant has had, the newest first.
    """

    enabled: bool
    key: int | None = None
    fingerprint: str | None = None
    keys: list[int]
    agents_to_enrol: int
    changed_by: str | None = None
    changed_at: str | None = None


class RevealRequest(Model):
    """Tokens, and the names they may stand for. Addresses need no candidates; secrets have no answer."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"tokens": ["u-0123456789bcdfghj"], "candidates": ["alice", "bob"], "reason": "case 4711"}]
        },
    )

    tokens: list[Token] = Field(min_length=1, max_length=MAX_TOKENS)
    candidates: list[Candidate] = Field(default=[], max_length=MAX_CANDIDATES)
    reason: str = Field(min_length=1, max_length=500, pattern=r"\S")


class RevealedModel(Model):
    """What is known of a token by one key: `clear` is empty unless the outcome is `address` or `candidate`."""

    token: str
    outcome: Literal["address", "candidate", "unknown", "no token"]
    clear: str
    key: int


class RevealAnswer(Model):
    """An answer for every token, of addresses one for every key. Keys in `missing_keys` could not be tried."""

    items: list[RevealedModel]
    missing_keys: list[int]
