"""The public shape of an advisory, and the check that everything stored or answered has it."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from typing import Any

import orjson
from jsonschema import Draft202012Validator


class InvalidAdvisory(ValueError):
    """An advisory breaks its contract: a fault of ours, never of the caller. `errors` says where, at most ten."""

    def __init__(self, errors: list[str]) -> None:
        self.errors = tuple(errors)
        super().__init__("; ".join(errors))


@lru_cache(maxsize=1)
def advisory_schema() -> dict[str, Any]:
    """The public JSON Schema (2020-12) of an advisory."""
    schema: dict[str, Any] = orjson.loads(files("advise").joinpath("advisory.schema.json").read_bytes())
    return schema


@lru_cache(maxsize=1)
def _validator() -> Draft202012Validator:
    return Draft202012Validator(advisory_schema())


def validate(advisory: dict[str, Any]) -> None:
    """Raises InvalidAdvisory unless the advisory follows the schema and cites only evidence that it lists."""
    errors = [f"{error.json_path}: {error.message[:200]}" for error in _validator().iter_errors(advisory)]
    if not errors:
        listed = {item["id"] for item in advisory["evidence"]}
        for part in ("summary", "timeline", "techniques", "next_checks", "actions"):
            for position, statement in enumerate(advisory[part]):
                missing = [key for key in statement["evidence"] if key not in listed]
                if missing:
                    errors.append(f"$.{part}[{position}]: cites {', '.join(missing)}, which is not listed")
    if errors:
        raise InvalidAdvisory(errors[:10])
