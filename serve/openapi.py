"""The OpenAPI document as it is served: every operation says what its errors look like (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

_PROBLEM = {
    "type": "object",
    "title": "Problem",
    "description": "RFC 9457 problem details; `detail` says what is wrong and what to do next.",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
    },
}
_CONTENT = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
# What FastAPI describes by itself and answer_errors turns into a problem document.
_REPLACED = "422"
_UNUSED = ("HTTPValidationError", "ValidationError")
_ANY_CALL = {
    401: "No key, or one that is unknown, expired or revoked.",
    403: "The key lacks the scope, or belongs to another tenant.",
    503: "The store is unavailable; Retry-After says when to come back.",
}
_ADMINISTRATORS = {403: "The key is not an administrator's."}


def refusals(described: Mapping[int, str] | None = None, *, administrators: bool = False) -> dict[int | str, Any]:
    """The `responses` of a router: what every call may be refused with, and what these may besides, by status."""
    texts = _ANY_CALL | (_ADMINISTRATORS if administrators else {}) | dict(described or {})
    return {status: {"description": texts[status], "content": _CONTENT} for status in sorted(texts)}


def describe_errors(application: FastAPI) -> None:
    """Makes the application's document name the problem document wherever an operation can fail."""

    def described() -> dict[str, Any]:
        if application.openapi_schema is None:
            application.openapi_schema = _described(application)
        return application.openapi_schema

    application.openapi = described  # type: ignore[method-assign] # the way that FastAPI documents


def _described(application: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=application.title,
        version=application.version,
        description=application.description,
        routes=application.routes,
    )
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas["Problem"] = _PROBLEM
    for name in _UNUSED:
        schemas.pop(name, None)
    for operations in document["paths"].values():
        for operation in operations.values():
            responses = operation["responses"]
            if "application/problem+json" not in responses.get(_REPLACED, {}).get("content", {}):
                responses.pop(_REPLACED, None)
            responses["default"] = {"description": "What went wrong.", "content": _CONTENT}
    return document
