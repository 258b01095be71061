"""A Windows event as rules see it: what few ask for is worked out when it is asked for.

Most events match no rule, and a rule looks at a handful of fields. So a view is made of the event's fields under all
their names and no more; whom the event names, how it ended, and values that are lists or maps wait until they are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

from msgspec.structs import force_setattr

from detect.normalize.draft import MAX_LIST, field_value, host_of
from detect.normalize.entities import distinct, read_entity, url_entities
from detect.normalize.message import EventMessage, storable
from detect.normalize.naming import Naming, Namings
from detect.normalize.windows_shapes import Fields, text_of_element
from detect.record import Entity, EntityRole, FieldValue, Logsource, MessageSource, NormalizedRecord, Outcome

NESTED_VALUES: Final[frozenset[type]] = frozenset({list, dict, bytes, tuple})
_TEXTS: Final[frozenset[type]] = frozenset({str})
_HOST: Final = read_entity("host", "")


class Plan(NamedTuple):
    """What to do with every event of the same names, channel and number.

    `hashes` is the field with the hashes, empty for none; `decisive` are the fields whose values decide what becomes
    of others.
    """

    number: FieldValue
    name: str
    logsource: Logsource
    by_event_type: Mapping[str, Logsource]
    activity: str
    aliases: tuple[tuple[str, tuple[str, ...]], ...]
    join: tuple[str, str, str] | None
    naming: Naming | None
    urls: tuple[tuple[str, EntityRole], ...]
    hashes: str
    decisive: tuple[str, ...]
    audited: bool
    levelled: bool
    message: MessageSource | None
    title: str


class EventView(NormalizedRecord, frozen=True, gc=False, eq=False, kw_only=True):
    """The view of a Windows event. The first `own` fields are its own; `line` is its body, where that is a line beside;
    `read_from` is what it was read from, where that is known (LogRecord.sent).

    The inherited attributes that are properties here hold nothing.
    """

    line: str
    read_from: str | bytes
    quick_fields: dict[str, Any]
    own: int
    plan: Plan
    namings: Namings
    is_settled: bool = False
    known: tuple[tuple[Entity, ...], Outcome, str | MessageSource] | None = None

    @property  # type: ignore[misc]  # nobody assigns to a frozen struct, so a property does for an attribute
    def fields(self) -> dict[str, FieldValue]:
        """The event's fields and the sender's attributes, every value as rules read it."""
        if not self.is_settled:
            settle(self.quick_fields)
            force_setattr(self, "is_settled", True)
        return self.quick_fields

    @property  # type: ignore[misc]  # as above
    def entities(self) -> tuple[Entity, ...]:
        """Whom and what the event names."""
        return (self.known or self._work_out())[0]

    @property  # type: ignore[misc]  # as above
    def outcome(self) -> Outcome:
        """What its audit keywords say."""
        return (self.known or self._work_out())[1]

    @property  # type: ignore[misc]  # as above
    def text(self) -> str | MessageSource:
        """The line beside the event, or how to make one of its fields."""
        return (self.known or self._work_out())[2]

    @property
    def own_text(self) -> str:
        """The line beside the event; empty for none."""
        return storable(self.line) if self.line else ""

    @property
    def sent(self) -> str | bytes:
        """What the event was read from, where nothing is in its fields but what that says: none of the sender's, no
        joined path."""
        return self.read_from if self.own == len(self.quick_fields) and self.plan.join is None else ""

    def _work_out(self) -> tuple[tuple[Entity, ...], Outcome, str | MessageSource]:
        plan, fields = self.plan, self.fields
        entities = entities_of(plan, fields, self.namings)
        text: str | MessageSource = storable(self.line) or plan.message or ""
        if not text or (text is plan.message and not is_text(fields["Message"])):
            text = EventMessage(plan.title, self.own)
        outcome: Outcome = outcome_of(fields["Keywords"]) if plan.audited else "unknown"
        if not is_text(fields.get("Computer")) and (host := _HOST(host_of(self.record))) is not None:
            entities = distinct((host, *entities))
        known = entities, outcome, text
        force_setattr(self, "known", known)
        return known


def settle(fields: dict[str, Any]) -> None:
    """Makes every value one that rules can read: an element its text, a map its JSON."""
    # Most values are texts, which are told apart quicker than they are looked up.
    nested = [name for name, value in fields.items() if type(value) is not str and type(value) in NESTED_VALUES]
    for name in nested:
        value = fields[name]
        if not _is_settled(value):
            fields[name] = field_value(text_of_element(value))


def _is_settled(value: Any) -> bool:
    return value.__class__ is list and len(value) <= MAX_LIST and _TEXTS.issuperset(map(type, value))


def entities_of(plan: Plan, fields: Fields, namings: Namings) -> tuple[Entity, ...]:
    """Whom and what the fields of an event name, each once."""
    entities = namings.read(plan.naming, fields) if plan.naming is not None else ()
    for name, role in plan.urls:
        value = fields[name]
        if isinstance(value, str) and "://" in value:
            entities = distinct((*entities, *url_entities(value, role)))
    return entities


def is_text(value: FieldValue) -> bool:
    """Whether there is something to read."""
    return isinstance(value, str) and value != ""


@lru_cache(maxsize=1024)
def _outcome_of_text(keywords: str) -> Outcome:
    lowered = keywords.lower()
    if "audit failure" in lowered:
        return "failure"
    if "audit success" in lowered:
        return "success"
    try:
        return outcome_of(int(keywords, 0))
    except ValueError:
        return "unknown"


def outcome_of(keywords: FieldValue) -> Outcome:
    """The audit keywords: bit 52 stands for failure, bit 53 for success."""
    if isinstance(keywords, list):
        keywords = " ".join(map(str, keywords))
    if isinstance(keywords, str):
        return _outcome_of_text(keywords[:256])
    if isinstance(keywords, int):
        return "failure" if keywords >> 52 & 1 else "success" if keywords >> 53 & 1 else "unknown"
    return "unknown"
