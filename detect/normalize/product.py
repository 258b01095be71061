"""Objects of known products as data: how one is recognised, what it is to Sigma, which names its rules use for it.

A description's `when` names fields (dotted, or of the resource) with the texts that they must have: `*` for any but
the empty one, `ab*`, `*ab`, `*ab*`, case ignored. Its cases add to it where their own `when` holds; of several cases
the first that states something decides it. Texts of a log source may name a field in braces: `{_path}`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from detect.normalize.definition import CaseSpec, Definition, EntitySpec, ObjectSpec, ParserError
from detect.normalize.derive import DERIVATIONS, Derivation
from detect.normalize.draft import Draft
from detect.normalize.message import FieldMessage, TemplateMessage
from detect.record import FieldValue, Logsource, MessageSource, Outcome

MAX_SHAPES: Final = 1024
MAX_SHAPE_NAMES: Final = 256

_NOTHING: Final[tuple[FieldValue, ...]] = (None, "", [])

Test = Callable[[str], bool]
Lookup = Callable[[str], Any]


class Case(NamedTuple):
    """A compiled CaseSpec."""

    when: tuple[tuple[str, tuple[Test, ...]], ...]
    product: str
    category: str
    service: str
    activity: str
    outcome: Outcome | None
    aliases: tuple[tuple[str, tuple[str, ...]], ...]
    entities: tuple[EntitySpec, ...]


class Product(NamedTuple):
    """A compiled ObjectSpec; `cases` end with what it states itself."""

    name: str
    when: tuple[tuple[str, tuple[Test, ...]], ...]
    unwrap: tuple[str, ...]
    cases: tuple[Case, ...]
    derive: Derivation | None
    message: MessageSource | None


class Products:
    """All products that the definitions describe, by what they need to be there."""

    def __init__(self, definitions: Sequence[Definition]) -> None:
        specs = [(spec, definition.name) for definition in definitions for spec in definition.objects]
        specs.sort(key=lambda item: item[0].rank)
        self._products = tuple(_compile(spec, name) for spec, name in specs)
        self._candidates: dict[tuple[tuple[str, ...], tuple[str, ...]], tuple[Product, ...]] = {}

    def read(self, fields: dict[str, FieldValue], resource: Mapping[str, Any], draft: Draft) -> bool:
        """Fills the draft from the fields of a known product's object; False when it is none."""

        def lookup(name: str) -> Any:
            value = fields.get(name)
            return resource.get(name) if value is None else value

        for product in self._possible(tuple(fields), tuple(resource)):
            if _holds(product.when, lookup):
                _fill(product, fields, lookup, draft)
                return True
        return False

    def _possible(self, names: tuple[str, ...], others: tuple[str, ...]) -> tuple[Product, ...]:
        key = (names, others)
        found = self._candidates.get(key)
        if found is None:
            known = frozenset(names) | frozenset(others)
            found = tuple(item for item in self._products if all(name in known for name, _ in item.when))
            if len(names) + len(others) <= MAX_SHAPE_NAMES and sum(map(len, names + others)) <= 16 * MAX_SHAPE_NAMES:
                if len(self._candidates) >= MAX_SHAPES:
                    self._candidates.clear()
                self._candidates[key] = found
        return found


def _fill(product: Product, fields: dict[str, FieldValue], lookup: Lookup, draft: Draft) -> None:
    for prefix in product.unwrap:
        for name in [name for name in fields if name.startswith(prefix)]:
            fields.setdefault(name[len(prefix) :], fields[name])
    _add_names(product.cases[-1].aliases, fields)
    cases = [case for case in product.cases if _holds(case.when, lookup)]
    draft.name = product.name
    draft.logsource = Logsource(
        *(
            next((_named(text, lookup) for case in cases if (text := getattr(case, part))), "")
            for part in ("product", "category", "service")
        )
    )
    draft.activity = next((case.activity for case in cases if case.activity), "other")
    for case in cases[:-1]:
        _add_names(case.aliases, fields)
    outcome = product.derive(fields) if product.derive is not None else None
    draft.outcome = next((case.outcome for case in cases if case.outcome), outcome or "unknown")
    draft.fields = fields
    for case in cases:
        for spec in case.entities:
            draft.mention(spec)
    # A line that came with the object says more than any template.
    if product.message is not None and not (isinstance(draft.message, str) and draft.message):
        draft.message = product.message


def _add_names(aliases: tuple[tuple[str, tuple[str, ...]], ...], fields: dict[str, FieldValue]) -> None:
    for target, sources in aliases:
        if fields.get(target) in _NOTHING:
            for name in sources:
                value = fields.get(name)
                if value not in _NOTHING:
                    fields[target] = value
                    break


def _named(text: str, lookup: Lookup) -> str:
    if not text.startswith("{"):
        return text
    value = lookup(text[1:-1])
    return value.lower()[:64] if isinstance(value, str) else ""


def _holds(when: tuple[tuple[str, tuple[Test, ...]], ...], lookup: Lookup) -> bool:
    return all(any(test(text) for text in _texts(lookup(name)) for test in tests) for name, tests in when)


def _texts(value: Any) -> Iterator[str]:
    for item in value[:64] if isinstance(value, list) else (value,):
        if isinstance(item, str):
            yield item[:1024].lower()
        elif isinstance(item, bool | int | float):
            yield str(item)[:64].lower()


def _compile(spec: ObjectSpec, definition: str) -> Product:
    name = f"{definition}/{spec.name}"
    if spec.derive and spec.derive not in DERIVATIONS:
        raise ParserError(f"{name}: there is no derivation {spec.derive!r}; known are {', '.join(sorted(DERIVATIONS))}")
    if not spec.when:
        raise ParserError(f"{name}: an object is recognised by something that must be there: write `when`")
    own = CaseSpec(
        when={},
        product=spec.logsource.product,
        category=spec.logsource.category,
        service=spec.logsource.service,
        activity=spec.activity,
        outcome=spec.outcome,
        aliases=spec.aliases,
        entities=spec.entities,
    )
    template = spec.message
    plain = template.startswith("{") and template.count("{") == 1 and template.endswith("}")
    return Product(
        name,
        _when(spec.when),
        spec.unwrap,
        tuple(_case(case) for case in (*spec.cases, own)),
        DERIVATIONS.get(spec.derive),
        None if not template else FieldMessage(template[1:-1]) if plain else TemplateMessage(template),
    )


def _case(spec: CaseSpec) -> Case:
    return Case(
        _when(spec.when),
        spec.product,
        spec.category,
        spec.service,
        spec.activity or "",
        spec.outcome,
        tuple(spec.aliases.items()),
        spec.entities,
    )


def _when(spec: Mapping[str, str | tuple[str, ...]]) -> tuple[tuple[str, tuple[Test, ...]], ...]:
    return tuple(
        (name, tuple(map(_test, (texts,) if isinstance(texts, str) else texts))) for name, texts in spec.items()
    )


def _test(pattern: str) -> Test:
    wanted = pattern.strip("*").lower()
    if not wanted:
        return bool
    if pattern.startswith("*"):
        return (lambda text: wanted in text) if pattern.endswith("*") else (lambda text: text.endswith(wanted))
    return (lambda text: text.startswith(wanted)) if pattern.endswith("*") else (lambda text: text == wanted)
