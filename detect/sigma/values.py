"""What a field value is to a rule: its texts, and whether an atom is true of one. The reference for both matchers.

The decisions, each with a test: case is ignored by `str.lower()` on both sides unless the atom is cased; a regular
expression is a case-sensitive search; `?` is one character; a value that is missing, None or an empty list has no
text; an element of a list counts as a value; True is "true"; 4688.0 is "4688".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

from detect.record import NormalizedRecord
from detect.sigma.regex import found
from detect.sigma.syntax import Atom, FieldReference, Pattern, Regex, Segment, TimePart
from detect.sigma.time_parts import part_holds

_NUMBER = re.compile(r"[+-]?[0-9]{1,40}(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?")
_MAX_ELEMENTS = 1024


def value_of(record: NormalizedRecord, field: str) -> Any:
    """The record's value of a field; `message` falls back to the line that a person would read."""
    value = record.fields.get(field)
    if value is None and field == "message":
        return record.message
    return value


def text_of(value: object) -> str:
    """The text of a scalar: what every atom compares."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    if isinstance(value, int):
        # str() refuses integers of more than 4,300 digits; no rule is written for one.
        return str(value) if value.bit_length() < 4096 else hex(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value)


def texts_of(value: object) -> Iterator[str]:
    """The texts of a value: none for None, one for a scalar, one for each leaf of a list or map (the first 1,024)."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple | dict):
        yield from _leaves(value)
    elif value is not None:
        yield text_of(value)


def _leaves(value: object) -> Iterator[str]:
    stack, count = [value], 0
    while stack and count < _MAX_ELEMENTS:
        item = stack.pop()
        if isinstance(item, dict):
            stack.extend(reversed(list(item.values())[:_MAX_ELEMENTS]))
        elif isinstance(item, list | tuple):
            stack.extend(reversed(item[:_MAX_ELEMENTS]))
        elif item is not None:
            count += 1
            yield text_of(item)


def searchable_texts(record: NormalizedRecord) -> Iterator[str]:
    """Where keywords are sought: the line, if the record is one, and every value, not the JSON around them."""
    yield record.own_text
    for value in record.fields.values():
        yield from texts_of(value)


def number_of(text: str) -> int | float | None:
    """The number that a text writes in decimal, or None: "0x10", "1_000", "nan" and " 5" are no numbers."""
    if len(text) > 90 or not _NUMBER.fullmatch(text):
        return None
    return int(text) if text.lstrip("+-").isdigit() else float(text)


def atom_holds(atom: Atom, text: str) -> bool:
    """Whether the atom is true of one text. A `fieldref` needs two values: see `reference_holds`."""
    match (atom.operator, atom.literal):
        case ("present", _):
            return True
        case ("equals" | "contains" | "startswith" | "endswith" as operator, str(literal)):
            return _string_holds(operator, literal, text if atom.cased else text.lower())
        case ("pattern", Pattern() as pattern):
            return pattern_holds(pattern, text if atom.cased else text.lower())
        case ("regex", Regex() as regex):
            return found(regex, text)
        case ("cidr", str(network)):
            return cidr_holds(network, text)
        case ("number" | "gt" | "gte" | "lt" | "lte" as operator, int(bound) | float(bound)):
            number = number_of(text)
            return number is not None and _number_holds(operator, number, bound)
        case ("timepart", TimePart() as wanted):
            return part_holds(wanted, text)
        case _:
            raise ValueError(f"{atom.operator} cannot be judged on one text with {atom.literal!r}")


def _string_holds(operator: str, literal: str, text: str) -> bool:
    match operator:
        case "equals":
            return text == literal
        case "contains":
            return literal in text
        case "startswith":
            return text.startswith(literal)
        case _:
            return text.endswith(literal)


def _number_holds(operator: str, number: float, bound: float) -> bool:
    match operator:
        case "gt":
            return number > bound
        case "gte":
            return number >= bound
        case "lt":
            return number < bound
        case "lte":
            return number <= bound
        case _:
            return number == bound


def reference_holds(reference: FieldReference, text: str, other: str, *, cased: bool = False) -> bool:
    """Whether a field's text stands in the given relation to the other field's, case ignored unless `cased`."""
    if not cased:
        text, other = text.lower(), other.lower()
    match reference.mode:
        case "equals":
            return text == other
        case "contains":
            return other in text
        case "startswith":
            return text.startswith(other)
        case "endswith":
            return text.endswith(other)


@lru_cache(maxsize=4096)
def _network(text: str) -> IPv4Network | IPv6Network:
    return ip_network(text)


def address_of(text: str) -> IPv4Address | IPv6Address | None:
    """The address that a text writes; an IPv4-mapped IPv6 address is its IPv4 address. None for anything else."""
    if not 2 <= len(text) <= 64:
        return None
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def cidr_holds(network: str, text: str) -> bool:
    """Whether the text is an address inside the network; text that is no plain address is outside of all."""
    address = address_of(text)
    return address is not None and address in _network(network)


def pattern_holds(pattern: Pattern, text: str) -> bool:
    """Ordered search of the segments: linear for plain text, where a translation to `.*a.*b` would backtrack."""
    first, *rest = pattern.segments
    if not rest:
        return _segment_at(first, text, 0) and len(text) == _length(first)
    if not _segment_at(first, text, 0):
        return False
    *middle, last = rest
    position, end = _length(first), len(text) - _length(last)
    for segment in middle:
        found = _find_segment(segment, text, position)
        if found < 0:
            return False
        position = found + _length(segment)
    return position <= end and _segment_at(last, text, end)


def _length(segment: Segment) -> int:
    return sum(len(piece) if isinstance(piece, str) else piece for piece in segment)


def _segment_at(segment: Segment, text: str, position: int) -> bool:
    if position + _length(segment) > len(text):
        return False
    for piece in segment:
        if isinstance(piece, int):
            position += piece
        elif text.startswith(piece, position):
            position += len(piece)
        else:
            return False
    return True


def _find_segment(segment: Segment, text: str, start: int) -> int:
    """The first position from `start` at which the segment stands, or -1."""
    offset, anchor = 0, ""
    for piece in segment:
        if isinstance(piece, str):
            anchor = piece
            break
        offset += piece
    last = len(text) - _length(segment)
    if not anchor:
        return start if start <= last else -1
    found = text.find(anchor, start + offset)
    while found >= 0 and found - offset <= last:
        if _segment_at(segment, text, found - offset):
            return found - offset
        found = text.find(anchor, found + 1)
    return -1
