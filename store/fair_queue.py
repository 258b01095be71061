"""What waits, by owner, and in which order it is taken: weighted fair queueing by start tags (Goyal, Vin, Cheng 1996).

Every owner has a first-in-first-out line. Serving an item of cost c moves its owner's tag by c / weight, and the owner
with the smallest tag is served next. One that was silent enters at the tag that is being served, so its first item
waits for at most one item of each other owner, however many of theirs wait; owners that never fall silent get service
in the ratio of their weights, off by at most one item each. Pure: no clock, no event loop.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Owner = TypeVar("Owner", bound=Hashable)
Item = TypeVar("Item")


@dataclass(slots=True)
class _Line(Generic[Item]):
    """One owner's items with their costs. `tag` is where its next item starts, in cost per weight."""

    items: deque[tuple[Item, int]] = field(default_factory=deque)
    weight: float = 1.0
    tag: float = 0.0
    ready: bool = False
    held: bool = False


class FairQueue(Generic[Owner, Item]):
    """Groups of items in fair order. The owners of a group are held until release(): their order stays their own.

    Not safe for threads. O(log owners) an item; an idle owner is forgotten once its tag has been passed.
    """

    def __init__(self) -> None:
        self._lines: dict[Owner, _Line[Item]] = {}
        self._ready: list[tuple[float, int, Owner]] = []
        self._idle: list[tuple[float, int, Owner]] = []
        self._now = 0.0
        self._ticket = 0
        self._size = 0
        self._held = 0

    def __len__(self) -> int:
        return self._size

    @property
    def takeable(self) -> bool:
        """Whether take() would find an item now: one whose owner is not held."""
        return bool(self._ready)

    def remembered(self) -> int:
        """How many owners the queue keeps in memory."""
        return len(self._lines)

    def put(self, owner: Owner, item: Item, cost: int, weight: float = 1.0) -> None:
        """Adds to the owner's line. Costs are at least 1; the newest weight (above 0) holds for the whole line."""
        if cost < 1 or weight <= 0:
            raise ValueError(f"a cost of at least 1 and a weight above 0 are needed, not {cost} and {weight}")
        line = self._lines.get(owner)
        if line is None:
            line = self._lines[owner] = _Line()
        line.weight = weight
        line.items.append((item, cost))
        self._size += 1
        self._make_ready(owner, line)

    def take(self, max_items: int, max_cost: int) -> list[tuple[Owner, Item]]:
        """The next group in fair order, at least one item if any is takeable; its owners are held from now on.

        An item that does not fit closes the group and is the first of a later one.
        """
        group: list[tuple[Owner, Item]] = []
        total = 0
        while self._ready and len(group) < max_items:
            tag, _, owner = self._ready[0]
            line = self._lines[owner]
            item, cost = line.items[0]
            if group and total + cost > max_cost:
                break
            heapq.heappop(self._ready)
            line.items.popleft()
            line.ready = False
            line.tag = tag + cost / line.weight
            self._now = max(self._now, tag)
            self._size -= 1
            group.append((owner, item))
            total += cost
            if line.items:
                self._make_ready(owner, line)
        self._hold(owner for owner, _ in group)
        return group

    def release(self, owners: Iterable[Owner]) -> None:
        """Ends the hold of a group's owners; what came for them meanwhile can be taken."""
        for owner in set(owners):
            line = self._lines[owner]
            line.held = False
            self._held -= 1
            if line.items:
                self._make_ready(owner, line)
            else:
                self._ticket += 1
                heapq.heappush(self._idle, (line.tag, self._ticket, owner))
        self._forget()

    def _hold(self, owners: Iterable[Owner]) -> None:
        held = set(owners)
        for owner in held:
            self._lines[owner].held = True
            self._lines[owner].ready = False
        self._held += len(held)
        if held and self._ready:
            self._ready = [entry for entry in self._ready if entry[2] not in held]
            heapq.heapify(self._ready)

    def _make_ready(self, owner: Owner, line: _Line[Item]) -> None:
        if line.ready or line.held:
            return
        line.tag = max(line.tag, self._now)
        line.ready = True
        self._ticket += 1
        heapq.heappush(self._ready, (line.tag, self._ticket, owner))

    def _forget(self) -> None:
        """Drops lines that are empty and whose tag says no more than a new line's would."""
        over = not self._size and not self._held
        while self._idle and (over or self._idle[0][0] <= self._now):
            _, _, owner = heapq.heappop(self._idle)
            line = self._lines.get(owner)
            if line is not None and not line.items and not line.held and (over or line.tag <= self._now):
                del self._lines[owner]
        if over:
            self._now = 0.0
