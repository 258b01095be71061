"""Rows of the store in the shape of the public API (serve/schemas.py)."""

from __future__ import annotations

from typing import Any

from detect.record import RecordRef
from store.values import iso_time, timestamp

_LOG_FIELDS = ("time", "received", "time_mark", "severity", "logsource", "entities", "message", "record", "digest")


def event_view(row: dict[str, Any]) -> dict[str, Any]:
    """A detection event: seq and position become the record's id, evidence times become RFC 3339."""
    view = {name: value for name, value in row.items() if name not in {"seq", "position"}}
    shown = {name: _evidence(row[name]) for name in ("evidence", "repeat_evidence") if name in row}
    return view | shown | {"record": str(RecordRef(row["seq"], row["position"]))}


def _evidence(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "record": item["ref"],
            "digest": item["digest"],
            "time": iso_time(timestamp(item["time_ns"])),
            "message": item["message"],
        }
        for item in items
    ]


def incident_view(row: dict[str, Any]) -> dict[str, Any]:
    """An incident; its timeline, when it has one, with the events in their public shape."""
    if "timeline" not in row:
        return row
    timeline = [
        {
            "position": member["place"],
            "time": member["event"]["time"],
            "stage": member["stage"],
            "reason": member["reason"],
            "event": event_view(member["event"]) | {"incident_id": row["incident_id"]},
        }
        for member in row["timeline"]
    ]
    return row | {"timeline": timeline}


def log_view(row: dict[str, Any]) -> dict[str, Any]:
    """A stored record under its id."""
    return {"record_id": row["ref"]} | {name: row[name] for name in _LOG_FIELDS}
