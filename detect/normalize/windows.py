"""Windows events under the field names that Sigma's rules use: what they are, who they are about.

Which names to add, which channel means which service and which event number means which category is data
(`parsers/windows.yml`). All that follows from an event's names, channel and number is worked out once and remembered
as a plan: events come in a few hundred forms, and carrying out a plan is one walk over the handful of fields it names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any, Final, NamedTuple

from detect.normalize.definition import Definition
from detect.normalize.draft import Draft, add_attributes, field_value
from detect.normalize.entities import read_entity
from detect.normalize.event_view import (
    NESTED_VALUES,
    EventView,
    Plan,
    entities_of,
    is_text,
    outcome_of,
    settle,
)
from detect.normalize.message import EventMessage, FieldMessage
from detect.normalize.naming import Namings, Reader
from detect.normalize.windows_shapes import SYSTEM_FIELDS, Fields, read_shape, read_xml, text_of_element
from detect.record import (
    FieldValue,
    LogRecord,
    Logsource,
    NormalizedRecord,
)

MAX_PLANS: Final = 2048
MAX_PLAN_NAMES: Final = 256
MAX_PLAN_CHARACTERS: Final = 4096
_HOST: Final = read_entity("host", "")
_NOT_HERE: Final[dict[str, FieldValue]] = {}
_DECIDING: Final = frozenset({"Level", "OperationType", "EventType", "Message"})
# NXLog writes the kind of record over the kind of registry change, which then stands in the message alone.
_RECORD_KINDS: Final = frozenset({"INFO", "AUDIT_SUCCESS", "AUDIT_FAILURE", "ERROR", "WARNING"})
_EVENT_TYPE: Final = "\nEventType: "
# Names by which `read_shape` may take an object that has `EventID` and `Channel` for another shape than a flat event.
_OTHER_SHAPES: Final = frozenset({
    "EventData", "UserData", "Event", "System", "winlog", "winlog.event_id", "Event.System.EventID",
    "Event.System.EventID.#text",
})  # fmt: skip
_SHIPPED: Final = frozenset({"event_id", "channel"})


class Form(NamedTuple):
    """A form of nested events: the plan for its fields, and those that come from `System`."""

    plan: Plan
    names: tuple[str, ...]
    values: Callable[[Mapping[str, Any]], tuple[Any, ...]]


class WindowsParser:
    """Reads Windows events; channels, categories, names and classes come from the definition file."""

    def __init__(self, definition: Definition) -> None:
        self._definition = definition
        self._plans: dict[tuple[tuple[str, ...], str, object], Plan] = {}
        self._forms: dict[tuple[tuple[str, ...], tuple[str, ...], str, object], Form] = {}
        self._namings = Namings(definition.hashes, definition.hash_entities)
        self._attributes: Mapping[str, Any] = {}
        self._of_attributes: Fields = {}

    def view(self, record: LogRecord, body: dict[str, Any], line: str, sent: str | bytes) -> NormalizedRecord | None:
        """The view of an event of a form seen before; None for any other, which `read` may know. The way most go.

        `body` is the record's body, or a map read from its line, which nobody else needs any more, or its attributes;
        then `line` is its body, where that is a line. `sent` is what the body was read from (LogRecord.sent); empty
        where that is not known.
        """
        event = body.get("Event")
        known = self._flat(body) if event is None else self._nested(event)
        if known is None:
            return None
        plan, fields = known
        if fields is body and (body is record.body or body is record.attributes):
            fields = dict(fields)  # the record stays as it was sent
        if not NESTED_VALUES.isdisjoint(map(type, map(fields.__getitem__, plan.decisive))):
            settle(fields)
        logsource = self._carry_out(plan, fields)
        own = len(fields)
        if record.attributes and body is not record.attributes:
            self._add_attributes(record.attributes, fields)
        return EventView(
            record,
            logsource,
            _NOT_HERE,
            (),
            "",
            plan.activity,
            line=line,
            read_from=sent,
            quick_fields=fields,
            own=own,
            plan=plan,
            namings=self._namings,
        )

    def _add_attributes(self, attributes: Mapping[str, Any], fields: Fields) -> None:
        """Adds the sender's attributes, which many records have in common."""
        if attributes is not self._attributes:
            self._attributes, self._of_attributes = attributes, {}
            add_attributes(self._of_attributes, attributes)
        for name, value in self._of_attributes.items():
            fields.setdefault(name, value)

    def _flat(self, body: dict[str, Any]) -> tuple[Plan, Fields] | None:
        """The plan for a flat event of a form seen before, and the event itself."""
        number, channel = body.get("EventID"), body.get("Channel")
        # The exact types: True and 1.0 would be found under 1.
        if (number.__class__ is not int and number.__class__ is not str) or channel.__class__ is not str:
            return None
        plan = self._plans.get((tuple(body), channel, number))
        return None if plan is None else (plan, body)

    def _nested(self, event: Any) -> tuple[Plan, Fields] | None:
        """The same of an EVTX converter's event, once `read` has seen one of its form."""
        try:
            system, data = event["System"], event["EventData"]
            number, channel = text_of_element(system["EventID"]), system["Channel"]
            if number.__class__ is not int or channel.__class__ is not str or len(event) - ("#attributes" in event) > 2:
                return None
            if data.__class__ is not dict or data.get("Data").__class__ is list:  # whose items may have names
                return None
            form = self._forms[tuple(system), tuple(data), channel, number]
            provider, values = system["Provider"]["#attributes"]["Name"], form.values(system)
            if provider.__class__ is not str or None in values:  # what is null there is no field
                return None
        except (KeyError, TypeError):
            return None
        fields = dict(zip(form.names, values, strict=True))
        fields["Provider_Name"] = provider
        fields.update(data)
        return form.plan, fields

    def read(self, body: Mapping[str, Any], draft: Draft) -> bool:
        """Fills the draft from a Windows event; False when the object is none."""
        fields = read_shape(body)
        if fields is None:
            return False
        names = tuple(fields)
        plan = self._adopt(fields, draft)
        # By this `view` knows the next event of this form.
        if self._plan(tuple(body), body.get("Channel"), body.get("EventID")) is None:
            self._learn(body.get("Event"), names, plan)
        return True

    def _learn(self, event: Any, names: tuple[str, ...], plan: Plan) -> None:
        """Remembers the form of a nested event whose fields are simply those of its two parts, in their order."""
        system, data = (event.get("System"), event.get("EventData")) if isinstance(event, dict) else (None, None)
        if not isinstance(system, dict) or not isinstance(data, dict) or len(names) > MAX_PLAN_NAMES:
            return
        # One that is null is among these and not among the names: nothing is learnt of such an event.
        present = [name for name in SYSTEM_FIELDS if name in system]
        expected = (*present, "EventID", "Provider_Name", *data)
        key = (tuple(system), tuple(data), str(system.get("Channel")), text_of_element(system.get("EventID")))
        if names != expected or key[3].__class__ is not int or len(str(key)) > 2 * MAX_PLAN_CHARACTERS:
            return
        if len(self._forms) >= MAX_PLANS:
            self._forms.clear()
        self._forms[key] = Form(plan, tuple(expected[: len(present) + 1]), itemgetter(*present, "EventID"))

    def read_text(self, line: str, draft: Draft) -> bool:
        """Fills the draft from an event in XML; False when the text is none."""
        fields = read_xml(line)
        if fields is not None:
            self._adopt(fields, draft)
        return fields is not None

    def _adopt(self, fields: Fields, draft: Draft) -> Plan:
        if draft.fields:
            fields.update(draft.fields)
        names, channel, number = tuple(fields), fields.get("Channel"), fields.get("EventID")
        # An odd event (no number, a list for a channel) is one of a kind, and so is its plan.
        plan = self._plan(names, channel, number) or self._make_plan(names, channel, number)
        draft.logsource = self._carry_out(plan, fields)
        draft.entities.extend(entities_of(plan, fields, self._namings))
        draft.fields = fields
        host = fields.get("Computer")
        draft.host = host if isinstance(host, str) and host else draft.host
        draft.name = plan.name
        draft.activity = plan.activity
        if plan.audited:
            draft.outcome = outcome_of(fields["Keywords"])
        if not isinstance(draft.message, str) or not draft.message or draft.message[0] in "{<":
            own = plan.message if is_text(fields.get("Message")) else None
            draft.message = own or EventMessage(plan.title, len(fields))
        return plan

    def _plan(self, names: tuple[str, ...], channel: object, number: object) -> Plan | None:
        """The plan for a flat event of these names; None where it takes more than adding names."""
        if number.__class__ not in (int, str) or channel.__class__ is not str or not _is_plain(names):
            return None
        key = (names, str(channel), number)
        plan = self._plans.get(key)
        if plan is None:
            plan = self._make_plan(names, channel, number)
            if len(names) <= MAX_PLAN_NAMES and sum(map(len, names)) + len(f"{channel}{number}") <= MAX_PLAN_CHARACTERS:
                if len(self._plans) >= MAX_PLANS:
                    self._plans.clear()
                    self._forms.clear()
                    self._namings.forget()
                    plan = self._make_plan(names, channel, number)
                self._plans[key] = plan
        return plan

    def _make_plan(self, names: tuple[str, ...], channel: object, number: object) -> Plan:
        definition = self._definition
        known = frozenset(names)
        if isinstance(number, str) and number.isascii() and number.isdigit() and len(number) < 10:
            number = int(number)
        stated = str(channel or "").lower()
        source = definition.sources.get(stated)
        service = source.service if source else definition.channels.get(stated, "")
        product = source.product if source else "windows"
        key = f"{service}/{number}"
        category = definition.categories.get(key, source.category if source else "")
        aliases = self._aliases(known, product, category, service, key)
        available = known | {target for target, _ in aliases}
        specs = [spec for spec in definition.entities if spec.field in available]
        named = [(spec.field, read_entity(spec.kind, spec.role, account=spec.kind == "user")) for spec in specs
                 if spec.kind != "url"]  # fmt: skip
        # The host first; where hashes are, None marks the place of their entities.
        sources: list[tuple[str, Reader | None]] = [("Computer", _HOST)] if "Computer" in available else []
        sources += named
        hashes = next((name for name in ("Hashes", "Hash") if name in known), "")
        sources += [(hashes, None)] if hashes else []
        join = next((join for join in definition.joins.get(key, ()) if known.issuperset(join[1:])), None)
        return Plan(
            number if isinstance(number, str | int) else field_value(number),
            f"{product}/{service or 'other'}",
            Logsource(product, category, service),
            self._by_event_type(key, product, service),
            definition.activities.get(key, definition.activities.get(category, "other")),
            aliases,
            join,
            self._namings.naming(tuple(sources)),
            tuple((spec.field, spec.role) for spec in specs if spec.kind == "url"),
            hashes,
            _decisive(known, aliases, join, hashes),
            "Keywords" in known,
            "Level" in known,
            FieldMessage("Message") if "Message" in known else None,
            service or "Windows",
        )

    def _aliases(
        self, known: frozenset[str], product: str, category: str, service: str, key: str
    ) -> tuple[tuple[str, tuple[str, ...]], ...]:
        found: dict[str, tuple[str, ...]] = {}
        for group in ("*", product, service, category, key):
            for target, sources in self._definition.aliases.get(group, {}).items():
                present = tuple(source for source in sources if source in known)
                if present:
                    found[target] = present
        return tuple(found.items())

    def _by_event_type(self, key: str, product: str, service: str) -> dict[str, Logsource]:
        """The categories that the kind of registry change decides."""
        prefix = f"{key}/"
        return {
            kind.removeprefix(prefix): Logsource(product, category, service)
            for kind, category in self._definition.categories.items()
            if kind.startswith(prefix)
        }

    def _carry_out(self, plan: Plan, fields: Fields) -> Logsource:
        """Adds to the fields what the plan says, and finds what they are to rules."""
        fields["EventID"] = plan.number
        if plan.aliases:
            _add_names(plan.aliases, fields)
        if plan.join is not None:
            self._join(plan.join, fields)
        if plan.levelled:
            level = fields["Level"]
            if level.__class__ is str:
                fields["Level"] = self._definition.levels.get(str(level).lower(), level)
        if plan.hashes:
            for name, digest in self._namings.digests(fields[plan.hashes]):
                if name not in fields:
                    fields[name] = digest
        return self._changed(plan, fields) if plan.by_event_type else plan.logsource

    def _changed(self, plan: Plan, fields: Fields) -> Logsource:
        kind = fields.get("OperationType") or fields.get("EventType")
        if isinstance(kind, str) and kind in _RECORD_KINDS:
            message = fields.get("Message")
            place = message.find(_EVENT_TYPE, 0, 4096) if isinstance(message, str) else -1
            if place >= 0:
                kind = str(message)[place + len(_EVENT_TYPE) :].partition("\n")[0].strip()
                fields["EventType"] = kind
        return plan.by_event_type.get(str(kind).lower(), plan.logsource)

    def _join(self, join: tuple[str, str, str], fields: Fields) -> None:
        """A key and the value under it as one path, the way Sysmon writes it."""
        target, *parts = join
        path = "\\".join(str(fields[part]) for part in parts if fields[part] not in (None, "", "-"))
        for long, short in self._definition.hives.items():
            if path[: len(long)].lower() == long.lower():
                path = short + path[len(long) :]
                break
        fields.setdefault(target, path)


def _add_names(aliases: tuple[tuple[str, tuple[str, ...]], ...], fields: Fields) -> None:
    for target, others in aliases:
        if not fields.get(target):
            for other in others:
                value = fields[other]
                if value is not None and value != "":
                    fields[target] = value
                    break


def _is_plain(names: tuple[str, ...]) -> bool:
    """Whether a flat event's names are its fields as they are."""
    known = frozenset(names)
    if not {"EventID", "Channel"} <= known or known & _OTHER_SHAPES or known >= _SHIPPED:
        return False
    return not any(" " in name or name.__class__ is not str for name in names)


def _decisive(
    known: frozenset[str], aliases: tuple[tuple[str, tuple[str, ...]], ...], join: tuple[str, ...] | None, hashes: str
) -> tuple[str, ...]:
    named = {name for target, others in aliases for name in (target, *others)}
    named.update(join or (), (hashes,), _DECIDING)
    return tuple(sorted(named & known))
