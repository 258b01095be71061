"""What is masked and how, as the owner of the host writes it: fields, patterns, texts and well-known names.

A field rule is found by the name of the field: of an attribute, of a key in a JSON body, of `key=value` in a line and
of `<Data Name="key">` in an event's XML, so that a name is treated alike wherever it stands. The first rule that fits
counts; what no field rule names is searched for patterns. `default.yml` is a policy to read.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any, Final, Literal, get_args

import yaml

from agent.masking.names import glob

Action = Literal["token", "redact", "keep"]
FieldKind = Literal["user", "email", "address", "domain", "host", "secret", "value"]
PatternKind = Literal["email", "address", "card", "jwt", "secret", "sid"]
FailMode = Literal["closed", "open"]

NAME_FORM: Final = r"(?:\w[\w.+~@\\-]{0,126})?[\w$]"
"""What `<NAME>` means in the regular expression of a text rule."""
_REMEMBERED: Final = 4_096
_MAX_RULES: Final = 200
_MAX_REGEX: Final = 1000
_RULE_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


class PolicyError(ValueError):
    """A masking policy that cannot be used; the message names the place."""


@dataclass(frozen=True, slots=True)
class FieldRule:
    """What happens to the values of fields whose name, or path by dots, fits one of `match` (lower case, with `*`)."""

    name: str
    kind: FieldKind
    action: Action
    match: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PatternRule:
    """What happens to everything of this kind in a text that no field rule names."""

    name: str
    kind: PatternKind
    action: Action


@dataclass(frozen=True, slots=True)
class TextRule:
    """Where a line names someone: `regex` has groups named for a kind (`user`, `user2`, `host`), judged only in texts
    that hold the literal `needs`."""

    name: str
    needs: str
    regex: re.Pattern[str]
    action: Action


@dataclass(frozen=True, slots=True)
class MaskingPolicy:
    """A whole policy. `keep_users` are names that are no secret: in lower case, with `*`.

    `fail`: what becomes of a record that cannot be masked: stored without its content (closed), or as it is (open).
    `odd_names`: a user field's value that no account system would take is searched for patterns like any text (keep),
    so that an attack in the place of a name is still found, or is a token too. `digest`: SHA-256 of the policy's text
    in hex, by which agent and server find out whether they mask alike.
    """

    fields: tuple[FieldRule, ...]
    patterns: tuple[PatternRule, ...]
    texts: tuple[TextRule, ...]
    keep_users: tuple[str, ...]
    fail: FailMode = "closed"
    binary: Literal["redact", "keep"] = "redact"
    odd_names: Literal["keep", "token"] = "keep"
    digest: str = ""


class FieldTable:
    """Finds the rule of a field; remembers what it found."""

    def __init__(self, rules: tuple[FieldRule, ...]) -> None:
        self._exact: dict[str, int] = {}
        self._globs: list[tuple[int, re.Pattern[str]]] = []
        self._rules = rules
        for number, rule in enumerate(rules):
            for name in rule.match:
                if "*" in name:
                    self._globs.append((number, glob(name)))
                else:
                    self._exact.setdefault(name, number)
        self.find = lru_cache(_REMEMBERED)(self._find)

    def _find(self, path: str) -> FieldRule | None:
        """The first rule that fits the path or what follows one of its dots."""
        tails, found = path.lower(), len(self._rules)
        separator = "."
        while separator:
            found = min(found, self._exact.get(tails, found))
            found = min((number for number, form in self._globs if number < found and form.match(tails)), default=found)
            _, separator, tails = tails.partition(".")
        return self._rules[found] if found < len(self._rules) else None


@cache
def default_policy() -> MaskingPolicy:
    """The policy that this package carries: addresses, people, e-mail, cards and secrets."""
    return parse_policy(files("agent.masking").joinpath("default.yml").read_text(encoding="utf-8"))


def parse_policy(text: str) -> MaskingPolicy:
    """Reads a policy in YAML. Raises PolicyError for anything that is not understood: nothing is guessed."""
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise PolicyError(f"the masking policy is no YAML: {error}") from error
    allowed = {"version", "fail", "binary", "odd_names", "fields", "patterns", "texts", "keep_users"}
    found = _mapping("the policy", document, allowed)
    if found.get("version") != 1:
        raise PolicyError("the policy must say `version: 1`")
    fields = tuple(_field(place, item) for place, item in _items("fields", found))
    patterns = tuple(_pattern(place, item) for place, item in _items("patterns", found))
    texts = tuple(_text(place, item) for place, item in _items("texts", found))
    kinds = [pattern.kind for pattern in patterns]
    if len(kinds) != len(set(kinds)):
        raise PolicyError("patterns: a kind comes twice")
    return MaskingPolicy(
        fields,
        patterns,
        texts,
        _words("keep_users", found.get("keep_users", [])),
        _one_of("fail", found.get("fail", "closed"), get_args(FailMode)),
        _one_of("binary", found.get("binary", "redact"), ("redact", "keep")),
        _one_of("odd_names", found.get("odd_names", "keep"), ("keep", "token")),
        hashlib.sha256(text.encode()).hexdigest(),
    )


def _field(place: str, item: Any) -> FieldRule:
    found = _mapping(place, item, {"name", "kind", "action", "match"})
    words = _words(f"{place}.match", found.get("match"))
    if not words:
        raise PolicyError(f"{place}: `match` names no field")
    kind = _one_of(f"{place}.kind", found.get("kind", "value"), get_args(FieldKind))
    return FieldRule(_name(place, found), kind, _action(place, found), words)


def _pattern(place: str, item: Any) -> PatternRule:
    found = _mapping(place, item, {"name", "kind", "action"})
    kind = _one_of(f"{place}.kind", found.get("kind"), get_args(PatternKind))
    return PatternRule(_name(place, found), kind, _action(place, found))


def _text(place: str, item: Any) -> TextRule:
    found = _mapping(place, item, {"name", "needs", "regex", "action"})
    needs, pattern = found.get("needs"), found.get("regex")
    if not isinstance(needs, str) or not needs:
        raise PolicyError(f"{place}: `needs` must be a text that every such line holds")
    if not isinstance(pattern, str) or len(pattern) > _MAX_REGEX:
        raise PolicyError(f"{place}: `regex` must be a text of at most {_MAX_REGEX} characters")
    try:
        regex = re.compile(pattern.replace("<NAME>", NAME_FORM))
    except re.error as error:
        raise PolicyError(f"{place}: the regular expression is wrong: {error}") from error
    odd = [group for group in regex.groupindex if group.rstrip("0123456789") not in get_args(FieldKind)]
    if odd or not regex.groupindex:
        raise PolicyError(f"{place}: the groups must be named for a kind ({', '.join(get_args(FieldKind))})")
    return TextRule(_name(place, found), needs, regex, _action(place, found))


def _action(place: str, found: Mapping[str, Any]) -> Any:
    return _one_of(f"{place}.action", found.get("action"), get_args(Action))


def _name(place: str, found: Mapping[str, Any]) -> str:
    name = found.get("name")
    if not isinstance(name, str) or not _RULE_NAME.fullmatch(name):
        raise PolicyError(f"{place}: `name` must be 1 to 63 of a-z, 0-9, '_', '-'")
    return name


def _items(part: str, found: Mapping[str, Any]) -> list[tuple[str, Any]]:
    items = found.get(part, [])
    if not isinstance(items, list) or len(items) > _MAX_RULES:
        raise PolicyError(f"{part} must be a list of at most {_MAX_RULES} rules")
    return [(f"{part}[{place}]", item) for place, item in enumerate(items)]


def _mapping(place: str, value: Any, allowed: set[str]) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise PolicyError(f"{place} must be a mapping")
    unknown = sorted(str(key) for key in value.keys() - allowed)
    if unknown:
        raise PolicyError(f"{place} has unknown keys: {', '.join(unknown)}")
    return value


def _words(place: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(word, str) and word for word in value):
        raise PolicyError(f"{place} must be a list of texts (quote what YAML takes for something else)")
    return tuple(word.lower() for word in value)


def _one_of(place: str, value: Any, choices: tuple[Any, ...]) -> Any:
    if value not in choices:
        raise PolicyError(f"{place} must be one of {', '.join(choices)}, not {value!r}")
    return value
