"""Evidence in a snapshot, written once: correlations and windows name a record's evidence by number.

A record that meets rules of several correlations and counts in windows stands in each of them with its digest and
message. `share_evidence` moves all of it into one table, in the order of the journal and by columns, which compresses
best; `spread_evidence` undoes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import accumulate, pairwise
from typing import Any

Content = dict[str, Any]
# (seq, position, digest, time_ns, message), the form in which windows keep evidence.
Row = tuple[int, int, str, int, str]

_EVIDENCE = 4  # its place in a contribution (detect/sigma/correlation.py)
_DIGEST_BYTES = 32


def share_evidence(content: Content) -> Content:
    """The content with the evidence of its correlations and windows in one table."""
    sigma, windows = content["sigma"], content["windows"]
    rows = {_window_row(row) for row in windows["evidence"]}
    if sigma is not None:
        rows |= {_correlation_row(row) for row in _correlation_evidence(sigma)}
    ordered = sorted(rows)
    numbers = {row: number for number, row in enumerate(ordered)}
    changed = {"windows": windows | {"evidence": [numbers[_window_row(row)] for row in windows["evidence"]]}}
    if sigma is not None:
        changed["sigma"] = _each_evidence(sigma, lambda held: [numbers[_correlation_row(row)] for row in held])
    return content | changed | {"evidence": _columns(ordered)}


def spread_evidence(content: Content) -> Content:
    """The inverse of share_evidence. KeyError, IndexError, TypeError or ValueError for what is no such content."""
    rows = _rows(content["evidence"])
    sigma, windows = content["sigma"], content["windows"]
    changed = {"windows": windows | {"evidence": [list(rows[number]) for number in windows["evidence"]]}}
    if sigma is not None:
        changed["sigma"] = _each_evidence(
            sigma, lambda numbers: [[f"{rows[n][0]}-{rows[n][1]}", *rows[n][2:]] for n in numbers]
        )
    return {key: value for key, value in content.items() if key != "evidence"} | changed


def _correlation_evidence(sigma: Content) -> Iterator[list[Any]]:
    for state in sigma["correlations"].values():
        for *_, contributions in state["groups"]:
            for item in contributions:
                yield from item[_EVIDENCE]


def _each_evidence(sigma: Content, change: Callable[[list[Any]], list[Any]]) -> Content:
    return sigma | {
        "correlations": {
            rule: state | {"groups": [_group(group, change) for group in state["groups"]]}
            for rule, state in sigma["correlations"].items()
        }
    }


def _group(group: list[Any], change: Callable[[list[Any]], list[Any]]) -> list[Any]:
    *head, contributions = group
    return [
        *head,
        [[*item[:_EVIDENCE], change(item[_EVIDENCE]), *item[_EVIDENCE + 1 :]] for item in contributions],
    ]


def _window_row(row: list[Any]) -> Row:
    seq, position, digest, time_ns, message = row
    return seq, position, digest, time_ns, message


def _correlation_row(row: list[Any]) -> Row:
    ref, digest, time_ns, message = row
    seq, position = ref.split("-")
    return int(seq), int(position), digest, time_ns, message


def _columns(rows: list[Row]) -> dict[str, Any]:
    """Times as differences; digests (SHA-256 in hex) as one run of bytes, for they do not compress."""
    times = [row[3] for row in rows]
    return {
        "seqs": [row[0] for row in rows],
        "positions": [row[1] for row in rows],
        "digests": b"".join(bytes.fromhex(row[2]) for row in rows),
        "times": times[:1] + [after - before for before, after in pairwise(times)],
        "messages": [row[4] for row in rows],
    }


def _rows(columns: dict[str, Any]) -> list[Row]:
    digests = columns["digests"].hex()
    width = 2 * _DIGEST_BYTES
    return [
        (seq, position, digests[number * width : (number + 1) * width], time_ns, message)
        for number, (seq, position, time_ns, message) in enumerate(
            zip(columns["seqs"], columns["positions"], accumulate(columns["times"]), columns["messages"], strict=True)
        )
    ]
