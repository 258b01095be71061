"""Prompts and a schema of the advisor's shape: ten candidates, evidence ids, one bounded sentence."""

from __future__ import annotations

from typing import Any

SYSTEM = "You are a security analyst. You answer with one JSON object. The summary is one plain English sentence."
CANDIDATES = {
    "T1110.001": "Password Guessing",
    "T1078": "Valid Accounts",
    "T1548.003": "Sudo and Sudo Caching",
    "T1053.003": "Cron",
    "T1505.003": "Web Shell",
    "T1105": "Ingress Tool Transfer",
    "T1136.001": "Local Account",
    "T1059.004": "Unix Shell",
    "T1070.002": "Clear Linux or Mac System Logs",
    "T1190": "Exploit Public-Facing Application",
}
EVIDENCE = ("e1", "e2", "e3")
STORIES = (
    "the same address failed to log in to ssh as root forty times",
    "a login as deploy succeeded after many failures",
    "deploy ran sudo and became root",
    "root added a line to the crontab that runs every minute",
    "the web server wrote a new php file into its upload folder",
    "curl fetched a program from an unknown host into /tmp",
    "a new local account was created and put into the group wheel",
    "the web server started a shell",
    "the authentication log was emptied",
    "a request held a path traversal and was answered with 200",
)


def schema(longest: int = 280) -> dict[str, Any]:
    """``longest`` is that of the summary, in characters; a small model uses all of it, so it sets the time taken."""
    return {
        "type": "object",
        "properties": {
            "technique": {"enum": [*CANDIDATES]},
            "evidence": {"type": "array", "items": {"enum": [*EVIDENCE]}, "minItems": 1, "maxItems": 3},
            "summary": {"type": "string", "minLength": 40, "maxLength": longest},
        },
        "required": ["technique", "evidence", "summary"],
        "additionalProperties": False,
    }


def prompt(number: int) -> str:
    lines = [f"{name}: {STORIES[(number + offset) % len(STORIES)]}" for offset, name in enumerate(EVIDENCE)]
    names = [f"{technique} {name}" for technique, name in CANDIDATES.items()]
    return "\n".join(["Evidence:", *lines, "Candidates:", *names, "Which technique is it, and what happened?"])
