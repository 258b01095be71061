"""What the agent says of itself with every poll."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Final
from urllib.parse import urlsplit

from agent.controller.collector_configs import CollectorConfigs, ConfigState
from agent.controller.service import Service

_STATUS_S: Final = 2.0
_MOST_STATUS: Final = 65_536
_MOST_COUNTERS: Final = 64
_CLOCK_OFF_MS: Final = 60_000


class HealthReport:
    """Status `failing` when the collector does not run or the forwarder fails, `degraded` when something else is wrong,
    else `ok`.

    `forwarder_status` is the URL of the forwarder's status on loopback, empty where there is none. Whatever the
    forwarder calls its counters (integers) is passed on; `lag_s` is taken from it.
    """

    def __init__(
        self,
        *,
        version: str,
        started_at: int,
        labels: Mapping[str, str],
        configs: CollectorConfigs | None,
        service: Service | None,
        forwarder_status: str,
        offset_ms: Callable[[], int],
    ) -> None:
        self._version = version
        self._started_at = started_at
        self._labels = dict(labels)
        self._configs = configs
        self._service = service
        self._forwarder_status = forwarder_status
        self._offset_ms = offset_ms
        self._troubles: dict[str, str] = {}

    def trouble(self, what: str, detail: str) -> None:
        """Remembers a trouble until it is over (an empty detail)."""
        if detail:
            self._troubles[what] = detail
        else:
            self._troubles.pop(what, None)

    def programs_trouble(self) -> str:
        """Which of the agent's own programs does not run or fails now; empty when all are well."""
        spool, unread = self._forwarder()
        if unread or spool.get("state") == "failing":
            return unread or "the forwarder is failing: see its status"
        return "the collector does not run" if self._collector_is_dead() else ""

    def report(self) -> dict[str, Any]:
        """The object of the poll's `health`."""
        troubles = dict(self._troubles)
        offset = self._offset_ms()
        if abs(offset) > _CLOCK_OFF_MS:
            troubles["clock"] = f"this host's clock is {-offset / 1000:+.0f} s off the server's"
        spool, unread = self._forwarder()
        state = spool.get("state")
        if unread:
            troubles["forwarder"] = unread
        elif state in ("degraded", "failing"):
            troubles["forwarder"] = f"the forwarder is {state}: see its status"
        dead = self._collector_is_dead()
        if dead:
            troubles["collector"] = "the collector does not run"
        config = asdict(self._configs.state if self._configs is not None else ConfigState())
        status = (
            "failing" if dead or state == "failing" else "degraded" if troubles or config["state"] == "failed" else "ok"
        )
        lag = spool.get("lag_s", 0)
        return {
            "version": self._version,
            "started_at": self._started_at,
            "status": status,
            "detail": "; ".join(troubles.values())[:2000],
            "lag_s": max(0, int(lag)) if isinstance(lag, int | float) else 0,
            "spool": dict([(name, value) for name, value in spool.items() if type(value) is int][:_MOST_COUNTERS]),
            "config": config | {"detail": config["detail"][:500]},
            "masking": _masking(spool),
            "labels": self._labels,
        }

    def _forwarder(self) -> tuple[dict[str, Any], str]:
        """Its status, and why that could not be read."""
        if not self._forwarder_status:
            return {}, ""
        try:
            return _fetched(self._forwarder_status), ""
        except (OSError, ValueError) as error:
            return {}, f"the forwarder's status cannot be read: {type(error).__name__}"

    def _collector_is_dead(self) -> bool:
        """One that has no configuration yet is none."""
        expected = self._configs is None or self._configs.state.running
        return bool(expected) and self._service is not None and not self._service.alive()


def _masking(spool: dict[str, Any]) -> dict[str, str]:
    """Whether the forwarder masks what it takes, by its status: by which policy and which key."""
    if "masking" not in spool:
        return {"state": ""}
    names = spool["masking"]
    if not isinstance(names, dict):
        return {"state": "off"}
    return {"state": "on"} | {name: text for name in ("policy", "key") if isinstance(text := names.get(name), str)}


def _fetched(url: str) -> dict[str, Any]:
    from http.client import HTTPConnection, HTTPException

    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname not in ("127.0.0.1", "::1", "localhost"):
        raise ValueError("the forwarder's status must be on loopback")
    connection = HTTPConnection(parts.hostname, parts.port or 80, timeout=_STATUS_S)
    try:
        connection.request("GET", parts.path or "/")
        value = json.loads(connection.getresponse().read(_MOST_STATUS))
    except HTTPException as error:
        raise ValueError("not an answer") from error
    finally:
        connection.close()
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value
