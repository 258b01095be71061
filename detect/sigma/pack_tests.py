"""Tests inside rule packs: events, and what a rule must say of them.

They stand in the rule's own document under `tests`, or beside it in a file `NAME.test.yml` of documents with `rule`
(an id or name) and `tests`. In short:

    tests:
      positive:                     # each case must be found
        - 'Nov 22 09:00:00 web01 sshd[1]: Accepted password for root from 203.0.113.9 port 22 ssh2'
      negative:                     # something ordinary: no case may be found
        - {EventID: 4624, Channel: Security, LogonType: 2}
      near_miss:                    # almost it: no case may be found
        - ...

A case of a detection rule is one event: a line, or an object as a structured log would hold it. A case of a
correlation is a list of `[second, line or object]`, or `[second, line or object, times, every]` for one that repeats
every so many seconds; `{n}` in a line becomes its number, from 0. In full, with a name and any number of events:

    tests:
      cases:
        - name: five refusals and a login
          expect: match             # or none, or how many times the rule must fire
          events:
            - {at: 0, line: '... Failed password ...', times: 5, every: 2}
            - {at: 30, fields: {Image: /bin/sh}, logsource: {product: linux, category: process_creation}}
            - {at: 31, body: {EventID: 1, ...}, attributes: {service.name: x}, resource: {host.name: y}}

`line` and `body` go through the normaliser as records do; `fields` are what it would have made, in the rule's own log
source unless one is given. One event can stand as `event` instead of `events`. For a detection rule the expected
number counts events, for a correlation firings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from detect.record import Logsource
from detect.sigma.documents import RuleDocument, documents_of

KINDS: Final[tuple[tuple[str, Literal["match", "none"]], ...]] = (
    ("positive", "match"),
    ("negative", "none"),
    ("near_miss", "none"),
)
MAX_EVENTS: Final = 100_000
_EVENT_KEYS: Final = frozenset(
    {"at", "line", "body", "fields", "logsource", "attributes", "resource", "times", "every", "message"}
)
_CASE_KEYS: Final = frozenset({"name", "expect", "event", "events"})


@dataclass(frozen=True, slots=True)
class PackTestEvent:
    """One event of a test, `at_s` seconds after the test's beginning: a body, or else fields."""

    at_s: float
    body: str | dict[str, Any] | None = None
    fields: dict[str, Any] | None = None
    logsource: Logsource | None = None
    message: str = ""
    attributes: dict[str, Any] | None = None
    resource: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class PackTest:
    """One case. `expect`: "match" (at least once), "none", or exactly so many."""

    path: str
    line: int
    rule: str
    name: str
    expect: Literal["match", "none"] | int
    events: tuple[PackTestEvent, ...]


@dataclass(frozen=True, slots=True)
class PackTestProblem:
    """A test that is not written as it must be."""

    path: str
    line: int
    rule: str
    reason: str


class _BadTest(ValueError):
    """Why a test cannot be read."""


def tests_of(
    sources: Sequence[tuple[str, str]], test_sources: Sequence[tuple[str, str]] = ()
) -> Iterator[PackTest | PackTestProblem]:
    """The tests in rule documents, then those in files of tests, in order of paths."""
    for path, text in sorted(sources):
        for document in documents_of(path, text):
            if "tests" in document.content:
                yield from _document_tests(document, document.rule_id)
    for path, text in sorted(test_sources):
        for document in documents_of(path, text):
            rule = document.content.get("rule")
            if not isinstance(rule, str) or "tests" not in document.content:
                reason = "a file of tests holds documents with `rule` (an id or name) and `tests`"
                yield PackTestProblem(path, document.line, str(rule or ""), reason)
            else:
                yield from _document_tests(document, rule)


def _document_tests(document: RuleDocument, rule: str) -> Iterator[PackTest | PackTestProblem]:
    tests = document.content["tests"]
    known = {kind for kind, _ in KINDS} | {"cases"}
    if not isinstance(tests, dict) or not all(isinstance(cases, list) for cases in tests.values()):
        reason = f"`tests` must map some of {', '.join(sorted(known))} to lists"
        yield PackTestProblem(document.path, document.line_of("tests"), rule, reason)
        return
    for kind in tests:
        if kind not in known:
            line = document.line_of(f"tests.{kind}", "tests")
            yield PackTestProblem(document.path, line, rule, f"tests.{kind} is none of {', '.join(sorted(known))}")
    for kind, expect in KINDS:
        for number, case in enumerate(tests.get(kind, ()), start=1):
            yield _test(document, rule, f"{kind} {number}", kind, {"expect": expect, "short": case})
    for number, case in enumerate(tests.get("cases", ()), start=1):
        name = str(case.get("name") or f"case {number}") if isinstance(case, dict) else f"case {number}"
        yield _test(document, rule, name, "cases", case)


def _test(document: RuleDocument, rule: str, name: str, kind: str, case: Any) -> PackTest | PackTestProblem:
    line = document.line_of(f"tests.{kind}", "tests")
    try:
        if not isinstance(case, dict):
            raise _BadTest("it must be a map with `expect` and `events`")
        events = _short_events(case["short"]) if "short" in case else _long_events(case)
        if not 0 < len(events) <= MAX_EVENTS:
            raise _BadTest(f"it must hold 1 to {MAX_EVENTS} events")
        return PackTest(document.path, line, rule, name, _expected(case.get("expect")), tuple(events))
    except _BadTest as error:
        return PackTestProblem(document.path, line, rule, f"{name}: {error}")


def _expected(value: Any) -> Literal["match", "none"] | int:
    if value in ("match", "none"):
        return "match" if value == "match" else "none"
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise _BadTest("`expect` must be match, none or a number")


def _short_events(case: Any) -> list[PackTestEvent]:
    if not isinstance(case, list):
        return [PackTestEvent(0.0, _body(case))]
    events: list[PackTestEvent] = []
    for item in case:
        match item:
            case [int() | float() as at_s, body]:
                events.extend(_repeated(PackTestEvent(float(at_s), _body(body)), 1, 0.0))
            case [int() | float() as at_s, body, int() as times, int() | float() as every]:
                events.extend(_repeated(PackTestEvent(float(at_s), _body(body)), times, float(every)))
            case _:
                raise _BadTest("an event of a list must be [second, line or object] or [second, ..., times, every]")
    return events


def _long_events(case: dict[str, Any]) -> list[PackTestEvent]:
    if odd := set(map(str, case)) - _CASE_KEYS:
        raise _BadTest(f"it holds {', '.join(sorted(odd))}; known are {', '.join(sorted(_CASE_KEYS))}")
    items = case.get("events", [case["event"]] if "event" in case else [])
    if not isinstance(items, list):
        raise _BadTest("`events` must be a list")
    events: list[PackTestEvent] = []
    for item in items:
        if isinstance(item, dict) and _EVENT_KEYS.issuperset(item) and {"line", "body", "fields"} & item.keys():
            events.extend(_long_event(item))
        else:
            events.append(PackTestEvent(0.0, _body(item)))
    return events


def _long_event(item: dict[str, Any]) -> list[PackTestEvent]:
    at_s, times, every = item.get("at", 0), item.get("times", 1), item.get("every", 0)
    if not (isinstance(at_s, int | float) and isinstance(times, int) and isinstance(every, int | float)):
        raise _BadTest("`at` and `every` are seconds, `times` is a whole number")
    fields, logsource = _map(item, "fields"), _map(item, "logsource")
    body = item.get("line", item.get("body"))
    event = PackTestEvent(
        float(at_s),
        None if fields is not None else _body(body),
        fields,
        None if logsource is None else _logsource(logsource),
        str(item.get("message", "")),
        _map(item, "attributes"),
        _map(item, "resource"),
    )
    return _repeated(event, times, float(every))


def _map(item: dict[str, Any], key: str) -> dict[str, Any] | None:
    value = item.get(key)
    if value is None:
        return None
    if not isinstance(value, dict):
        raise _BadTest(f"`{key}` must be a map")
    return {str(name): part for name, part in value.items()}


def _logsource(parts: dict[str, Any]) -> Logsource:
    return Logsource(*(str(parts.get(part, "")).lower() for part in ("product", "category", "service")))


def _body(value: Any) -> str | dict[str, Any]:
    if isinstance(value, dict):
        return {str(name): part for name, part in value.items()}
    if isinstance(value, str):
        return value
    raise _BadTest("an event must be a line or an object")


def _repeated(event: PackTestEvent, times: int, every_s: float) -> list[PackTestEvent]:
    if not 0 < times <= MAX_EVENTS:
        raise _BadTest(f"`times` must be 1 to {MAX_EVENTS}")
    return [
        PackTestEvent(
            event.at_s + number * every_s,
            event.body.replace("{n}", str(number)) if isinstance(event.body, str) else event.body,
            event.fields,
            event.logsource,
            event.message,
            event.attributes,
            event.resource,
        )
        for number in range(times)
    ]
