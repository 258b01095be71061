"""The order in which correlations can be resolved, and those that refer to themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from graphlib import CycleError, TopologicalSorter


class ResolvingOrder:
    """Correlations level by level: each comes after those that it refers to, and in its level as they were given.

    What `put_off` names is not resolved, so what refers to it never comes.
    """

    def __init__(self, references: Mapping[str, Sequence[str]]) -> None:
        """`references` has the correlations that each refers to, all of them given."""
        self._places = {key: place for place, key in enumerate(references)}
        self._sorter = TopologicalSorter(references)
        with suppress(CycleError):  # those of circles never come
            self._sorter.prepare()
        self._unresolved: set[str] = set()

    def __iter__(self) -> Iterator[str]:
        while ready := sorted(self._sorter.get_ready(), key=self._places.__getitem__):
            yield from ready
            self._sorter.done(*(key for key in ready if key not in self._unresolved))

    def put_off(self, key: str) -> None:
        """The one that came last cannot be resolved."""
        self._unresolved.add(key)


def circular(references: Mapping[str, Sequence[str]]) -> set[str]:
    """Those that refer to themselves, through others or at once. Tarjan's strongly connected components."""
    found: set[str] = set()
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    open_keys: dict[str, None] = {}
    for start in references:
        if start in number:
            continue
        path = [(start, iter(references[start]))]
        number[start] = low[start] = len(number)
        open_keys[start] = None
        while path:
            key, ahead = path[-1]
            target = next(ahead, None)
            if target is None:
                path.pop()
                if path:
                    low[path[-1][0]] = min(low[path[-1][0]], low[key])
                if low[key] == number[key]:
                    found.update(_component(key, open_keys, references))
            elif target not in number:
                path.append((target, iter(references[target])))
                number[target] = low[target] = len(number)
                open_keys[target] = None
            elif target in open_keys:
                low[key] = min(low[key], number[target])
    return found


def _component(key: str, open_keys: dict[str, None], references: Mapping[str, Sequence[str]]) -> list[str]:
    """The component of `key`, taken from those that are open; empty when it is but one that is in no circle."""
    members: list[str] = []
    while key not in members[-1:]:
        members.append(open_keys.popitem()[0])
    return members if len(members) > 1 or key in references[key] else []
