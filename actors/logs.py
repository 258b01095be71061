"""Structured logs: one JSON object a line on stderr, UTC, without secrets."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any

import structlog

_SECRET_KEYS = re.compile(r"(?i)(authorization|password|secret|token|dsn|api_?key|cookie)")
_SECRET_VALUES = re.compile(r"\b(ts[ka]_[0-9a-f]{12})_[A-Za-z0-9_-]{20,}|(://[^:/@\s]+):[^@\s]+@")


def without_secrets(_: Any, __: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """A structlog processor: hides the values of secret-looking keys, API keys and passwords in URLs."""
    return {key: "[hidden]" if _SECRET_KEYS.search(key) else _scrub(value) for key, value in event.items()}


def _scrub(value: Any) -> Any:
    if isinstance(value, str):
        return _SECRET_VALUES.sub(lambda match: f"{match[1]}_[hidden]" if match[1] else f"{match[2]}:[hidden]@", value)
    return value


def configure_logs(level: int = logging.INFO) -> None:
    """Called once per process by whoever owns it."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            without_secrets,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
