"""What a sentence about an incident may say: the words, names, numbers and times that its cited records bear out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from advise.brief import BriefEntity, IncidentBrief
from advise.prompt import Question
from advise.sanitize import clean, is_identifier
from detect.record import EntityRole

_NOUNS: dict[str, tuple[str, ...]] = {
    "ip": ("address", "addresses", "ip", "ips", "source", "sources"),
    "user": ("user", "users", "account", "accounts", "username", "usernames", "name", "names"),
    "host": ("host", "hosts", "server", "servers", "machine", "machines", "system", "systems"),
    "process": ("process", "processes", "command", "commands"),
    "file": ("file", "files"),
    "domain": ("domain", "domains"),
}
_WORDS = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a statement citing some records may draw on.

    `texts` are the cited, untainted record texts; `trusted` are words of our own (rule titles of stored incidents,
    technique names); `counts` maps a noun to the numbers that may stand before it, "" to those before any other;
    `clock` holds the times and dates that may be named.
    """

    texts: tuple[str, ...]
    trusted: str
    entities: Mapping[str, frozenset[EntityRole]]
    counts: Mapping[str, frozenset[int]]
    clock: frozenset[str]

    @property
    def everything(self) -> str:
        """Every text in one, lower case."""
        return " ".join((*self.texts, self.trusted, *self.entities)).lower()


def facts_for(brief: IncidentBrief, question: Question, advisory: Mapping[str, Any], cited: Iterable[str]) -> Facts:
    """The facts behind a sentence that cites these records. Records that were withheld from the model bear nothing."""
    ids = [key for key in dict.fromkeys(cited) if question.evidence.get(key)]
    events = [event for event in brief.events if any(key in event.evidence for key in ids)]
    titles = [cleaned.text for event in events if (cleaned := clean(event.title)).promptable]
    names = [f"{item['id']} {item['name']} {' '.join(item['tactics'])}" for item in advisory["techniques"]]
    found = [entity for event in events for entity in event.entities] + list(brief.entities)
    times = [moment for key in ids if (moment := brief.evidence[key].time)]
    times += [moment for moment in (brief.first_time, brief.last_time) if moment]
    times += [moment for event in events for moment in (event.time, event.end_time) if moment]
    return Facts(
        texts=tuple(question.evidence[key] for key in ids),
        trusted=" ".join([*dict.fromkeys(titles), *names, brief.severity]),
        entities=_roles(found),
        counts=_counts(brief),
        clock=frozenset(
            form for moment in times for form in (f"{moment:%H:%M:%S}", f"{moment:%H:%M}", moment.date().isoformat())
        ),
    )


def words(text: str) -> list[str]:
    """Lower-case words of a text; hyphenated words count once and once for each part."""
    found: list[str] = []
    for match in _WORDS.finditer(text.lower()):
        found.append(match[0])
        if "-" in match[0]:
            found += match[0].split("-")
    return found


def stem(word: str) -> str:
    """A word without its commonest English endings, so that `failures` meets `failed` and `logins` meets `login`."""
    for ending in (
        "ations",
        "ation",
        "ings",
        "ing",
        "ures",
        "ure",
        "edly",
        "ers",
        "ies",
        "ied",
        "ed",
        "er",
        "es",
        "s",
        "e",
    ):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


def _roles(entities: Iterable[BriefEntity]) -> dict[str, frozenset[EntityRole]]:
    roles: dict[str, set[EntityRole]] = {}
    for entity in entities:
        if is_identifier(entity.kind, entity.value):
            roles.setdefault(entity.value.lower(), set()).add(entity.role)
    return {value: frozenset(known) for value, known in roles.items()}


def _counts(brief: IncidentBrief) -> dict[str, frozenset[int]]:
    rules = brief.rule_counts()
    kinds = Counter(
        kind
        for kind, _ in {(item.kind, item.value) for event in brief.events for item in event.entities}
        | {(item.kind, item.value) for item in brief.entities}
    )
    happened = frozenset({brief.event_count, *rules.values()})
    counts: dict[str, frozenset[int]] = {
        noun: happened for noun in ("detection", "detections", "event", "events", "alert", "alerts", "time", "times",
                                    "match", "matches", "attempt", "attempts", "failure", "failures")
    }  # fmt: skip
    for noun in ("record", "records", "line", "lines", "message", "messages", "entries", "log", "logs"):
        counts[noun] = frozenset({len(brief.evidence)})
    counts |= {"rule": frozenset({len(rules)}), "rules": frozenset({len(rules)})}
    for kind, nouns in _NOUNS.items():
        counts |= {noun: frozenset({kinds[kind]}) for noun in nouns}
    if brief.first_time and brief.last_time:
        seconds = (brief.last_time - brief.first_time).total_seconds()
        for noun, unit in (("second", 1), ("minute", 60), ("hour", 3600), ("day", 86400)):
            lasting = frozenset({int(seconds // unit), round(seconds / unit)})
            counts |= {noun: lasting, f"{noun}s": lasting}
    return counts | {"": happened}
