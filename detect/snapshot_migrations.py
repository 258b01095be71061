"""Brings the content of an older snapshot up, one format at a time. A step is never changed once it has shipped.

tests/unit/tenant/stored_snapshots holds a snapshot of every format, made by the code of its day.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from detect.event import Evidence
from detect.record import RecordRef
from detect.sigma.group import MAX_TEXT, held_text
from detect.snapshot_evidence import evidence_columns, in_journal_order

Content = dict[str, Any]

# Their places in a contribution (detect/sigma/correlation.py).
_VALUE = 3
_EVIDENCE = 4


def _to_2(content: Content) -> Content:
    """Format 1 kept evidence in every contribution of a correlation, and once more in a table of the windows."""
    sigma, windows = content["sigma"], content["windows"]
    cited = [_window_evidence(row) for row in windows["evidence"]]
    held = set(cited)
    if sigma is not None:
        held |= {_correlation_evidence(entry) for entry in _entries(sigma)}
    ordered = in_journal_order(held)
    numbers = {evidence: number for number, evidence in enumerate(ordered)}
    changed = {"windows": windows | {"evidence": [numbers[evidence] for evidence in cited]}}
    if sigma is not None:
        changed["sigma"] = _numbered(sigma, numbers)
    return content | changed | {"evidence": evidence_columns(ordered)}


def _entries(sigma: Content) -> Iterator[list[Any]]:
    for state in sigma["correlations"].values():
        for *_, contributions in state["groups"]:
            for item in contributions:
                yield from item[_EVIDENCE]


def _numbered(sigma: Content, numbers: Mapping[Evidence, int]) -> Content:
    def changed(item: list[Any]) -> list[Any]:
        cited = [numbers[_correlation_evidence(entry)] for entry in item[_EVIDENCE]]
        return [*item[:_EVIDENCE], cited, *item[_EVIDENCE + 1 :]]

    return sigma | {
        "correlations": {
            rule: state | {"groups": [[*head, [changed(item) for item in items]] for *head, items in state["groups"]]}
            for rule, state in sigma["correlations"].items()
        }
    }


def _window_evidence(row: list[Any]) -> Evidence:
    seq, position, digest, time_ns, message = row
    return Evidence(RecordRef(seq, position), digest, time_ns, message)


def _correlation_evidence(row: list[Any]) -> Evidence:
    ref, digest, time_ns, message = row
    return Evidence(RecordRef.parse(ref), digest, time_ns, message)


def _to_3(content: Content) -> Content:
    """Format 2 knew of no floods that are folded."""
    return content | {"folds": []}


def _to_4(content: Content) -> Content:
    """Format 3 knew only one time at which a group had fired, and kept texts of any length."""
    sigma = content["sigma"]
    if sigma is None:
        return content

    def changed(row: list[Any]) -> list[Any]:
        key, fired_ns, touched_ns, *waiting, contributions = row
        held = [
            [*item[:_VALUE], held_text(item[_VALUE]), *item[_VALUE + 1 :]] if len(item[_VALUE]) > MAX_TEXT else item
            for item in contributions
        ]
        fired = [] if fired_ns is None else [fired_ns]
        return [[held_text(part) for part in key], fired, 0, touched_ns, *waiting, held]

    correlations = {
        rule: state | {"groups": [changed(row) for row in state["groups"]]}
        for rule, state in sigma["correlations"].items()
    }
    return content | {"sigma": sigma | {"correlations": correlations}}


# Format -> how its content becomes that of the next format.
MIGRATIONS: Mapping[int, Callable[[Content], Content]] = {1: _to_2, 2: _to_3, 3: _to_4}


def migrated(content: Content, found: int, wanted: int) -> Content:
    """The content as format `wanted` has it. KeyError when no migration begins at its format."""
    for step in range(found, wanted):
        content = MIGRATIONS[step](content)
    return content
