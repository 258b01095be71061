"""Sharing a bounded room so that nobody can fill it: an owner may add while it holds no more than is still free.

One greedy owner therefore stops at half of the room, two at a third each, n at 1/(n+1); what they leave is there for
whoever comes next, and no share has to be configured (dynamic thresholds, Choudhury and Hahne 1998, with alpha 1).
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, Literal, TypeVar

Owner = TypeVar("Owner", bound=Hashable)
Refusal = Literal["full", "share"]


class FairShare(Generic[Owner]):
    """Room for `capacity` units of anything. Not safe for threads; memory is one number an owner that holds some."""

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"a room holds at least one unit, not {capacity}")
        self._capacity = capacity
        self._used = 0
        self._held: dict[Owner, int] = {}

    @property
    def used(self) -> int:
        """Units held by all owners together."""
        return self._used

    def held(self, owner: Owner) -> int:
        """Units that this owner holds."""
        return self._held.get(owner, 0)

    def refusal(self, owner: Owner, amount: int) -> Refusal | None:
        """Why the owner may not take so much now; None when it may.

        An amount larger than the whole room may be taken when nobody holds anything, or it could never be.
        """
        if self._used == 0:
            return None
        if self._used + amount > self._capacity:
            return "full"
        return "share" if self.held(owner) > self._capacity - self._used else None

    def take(self, owner: Owner, amount: int) -> None:
        """Holds so much for the owner, whatever refusal() says."""
        self._used += amount
        self._held[owner] = self.held(owner) + amount

    def give(self, owner: Owner, amount: int) -> None:
        """Gives back what take() held."""
        rest = self.held(owner) - amount
        if rest < 0:
            raise ValueError("more is given back than was taken")
        self._used -= amount
        if rest:
            self._held[owner] = rest
        else:
            self._held.pop(owner, None)
