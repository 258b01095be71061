"""A realistic incident as the API answers it: password guessing over ssh, a success, sudo, a new cron file."""

from __future__ import annotations

import hashlib
from typing import Any

DAY = "2026-11-22"
GUESSES = [("root", 14), ("admin", 6), ("deploy", 12)]


def record(seq: int, position: int, time: str, message: str) -> dict[str, Any]:
    """One evidence entry; the digest is that of the content that `content_of` gives for it."""
    key = f"{seq}-{position}"
    return {
        "record": key,
        "digest": hashlib.sha256(content_of(message)).hexdigest(),
        "time": f"{DAY}T{time}.000000Z",
        "message": message,
    }


def content_of(message: str) -> bytes:
    """What stands for a stored record's canonical JSON in these tests."""
    return b'{"body":' + hashlib.sha256(message.encode()).hexdigest().encode().join([b'"', b'"']) + b"}"


def event(title: str, severity: str, time: str, evidence: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """A detection event in the shape of the API."""
    return {
        "event_id": f"event-{title}-{time}",
        "rule_id": title.lower().replace(" ", "-"),
        "title": title,
        "description": more.get("description", ""),
        "severity": severity,
        "time": f"{DAY}T{time}.000000Z",
        "end_time": f"{DAY}T{more.get('end', time)}.000000Z",
        "outcome": more.get("outcome", "unknown"),
        "entities": more.get("entities", []),
        "techniques": more.get("techniques", []),
        "tactics": more.get("tactics", []),
        "evidence": evidence,
    }


def entity(kind: str, value: str, role: str = "") -> dict[str, str]:
    return {"kind": kind, "value": value, "role": role}


SOURCE = entity("ip", "203.0.113.9", "source")
HOST = entity("host", "web01", "target")


def ssh_incident() -> dict[str, Any]:
    """Guessing from 10:00:07, a success at 10:05:40, sudo at 10:07:02, a cron file at 10:09:31."""
    events = []
    for number in range(4):
        user, port = GUESSES[number % 3][0], 50100 + number
        time = f"10:0{number}:07"
        lines = [
            record(12 + number, i, time, f"Failed password for {user} from 203.0.113.9 port {port + i} ssh2")
            for i in range(5)
        ]
        events.append(
            event(
                "SSH password guessing",
                "medium",
                time,
                lines,
                description="Many failed passwords from one address in a short time.",
                end=f"10:0{number}:51",
                outcome="failure",
                techniques=["T1110.001"],
                tactics=["credential-access"],
                entities=[SOURCE, HOST, entity("user", user, "target")],
            )
        )
    events.append(
        event(
            "SSH login after password guessing",
            "high",
            "10:05:40",
            [record(17, 2, "10:05:40", "Accepted password for deploy from 203.0.113.9 port 50222 ssh2")],
            description="An address that guessed passwords logged in.",
            outcome="success",
            techniques=["T1078"],
            tactics=["initial-access"],
            entities=[SOURCE, HOST, entity("user", "deploy", "target")],
        )
    )
    command = "deploy : TTY=pts/0 ; PWD=/home/deploy ; USER=root ; COMMAND=/usr/bin/tee /etc/cron.d/refresh"
    events.append(
        event(
            "File written below cron directories through sudo",
            "high",
            "10:09:31",
            [record(19, 0, "10:09:31", command)],
            description="A cron job made with root rights starts again by itself.",
            techniques=["T1053.003"],
            tactics=["persistence"],
            entities=[HOST, entity("user", "deploy", "actor"), entity("file", "/etc/cron.d/refresh", "target")],
        )
    )
    return incident_of(events, severity="high")


def incident_of(
    events: list[dict[str, Any]], severity: str, title: str = "SSH password guessing on web01"
) -> dict[str, Any]:
    """An incident that holds these events."""
    entities = list({str(item): item for one in events for item in one["entities"]}.values())
    return {
        "incident_id": "5f0c7b0e-58ab-5f0e-9e6a-0f0a7c1c8d11",
        "revision": 3,
        "state": "open",
        "title": title,
        "severity": severity,
        "score": 81.0,
        "first_time": events[0]["time"],
        "last_time": events[-1]["end_time"],
        "event_count": len(events),
        "entities": entities,
        "techniques": sorted({tag for one in events for tag in one["techniques"]}),
        "tactics": sorted({tag for one in events for tag in one["tactics"]}),
        "timeline": [
            {
                "position": position,
                "time": one["time"],
                "stage": (one["tactics"] or [""])[0],
                "reason": "same source",
                "event": one,
            }
            for position, one in enumerate(events)
        ],
    }
