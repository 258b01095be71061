"""Fair order of what waits, and shares of a bounded room: laws that hold for any load."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict, deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from store.fair_queue import FairQueue
from store.fair_share import FairShare


def filled(**waiting: int) -> FairQueue[str, int]:
    queue: FairQueue[str, int] = FairQueue()
    for owner, count in waiting.items():
        for number in range(count):
            queue.put(owner, number, cost=10)
    return queue


def next_group(queue: FairQueue[str, int], items: int, cost: int = 10**9) -> list[tuple[str, int]]:
    group = queue.take(items, cost)
    queue.release(owner for owner, _ in group)
    return group


@pytest.mark.parametrize("waiting", [1, 1000, 50_000])
def test_a_quiet_owner_is_in_the_next_group_whatever_a_noisy_one_has_waiting(waiting: int) -> None:
    queue = filled(noisy=waiting)
    next_group(queue, 256)
    queue.put("quiet", 0, cost=1_000_000)
    assert next_group(queue, 2)[:2].count(("quiet", 0)) == 1


def test_a_heavy_item_of_a_silent_owner_does_not_wait_for_light_ones() -> None:
    queue = filled(noisy=10_000)
    next_group(queue, 100)
    queue.put("quiet", 7, cost=10**9)
    assert ("quiet", 7) in next_group(queue, 2)


def test_owners_that_never_fall_silent_are_served_by_weight() -> None:
    queue: FairQueue[str, int] = FairQueue()
    for number in range(4000):
        queue.put("light", number, cost=10, weight=1)
        queue.put("heavy", number, cost=10, weight=3)
    served = Counter(owner for _ in range(40) for owner, _ in next_group(queue, 50))
    assert abs(served["heavy"] - 3 * served["light"]) <= 4


def test_large_items_pay_for_themselves() -> None:
    queue: FairQueue[str, int] = FairQueue()
    for number in range(1000):
        queue.put("large", number, cost=100)
        queue.put("small", number, cost=10)
    served = Counter(owner for _ in range(11) for owner, _ in next_group(queue, 10))
    assert abs(served["small"] - 10 * served["large"]) <= 11


def test_owners_of_a_group_are_held_so_that_their_order_is_kept() -> None:
    queue = filled(one=3, two=1)
    first = queue.take(1, 100)
    assert first == [("one", 0)]
    assert queue.take(10, 100) == [("two", 0)]
    assert not queue.takeable
    assert queue.take(10, 100) == []
    queue.release(["one"])
    assert queue.take(10, 100) == [("one", 1), ("one", 2)]


def test_an_item_that_does_not_fit_is_the_first_of_the_next_group() -> None:
    queue: FairQueue[str, str] = FairQueue()
    queue.put("a", "small", cost=10)
    queue.put("b", "too large for any group", cost=1000)
    queue.put("a", "later", cost=10)
    groups = []
    while group := queue.take(10, 100):
        groups.append([item for _, item in group])
        queue.release(owner for owner, _ in group)
    assert groups == [["small"], ["too large for any group"], ["later"]]


def test_nothing_is_remembered_of_owners_that_have_gone() -> None:
    queue = filled(noisy=100_000)
    for number in range(5000):
        queue.put(f"passing-{number}", 0, cost=10)
        next_group(queue, 4)
    assert queue.remembered() < 50
    while next_group(queue, 1000):
        pass
    assert (len(queue), queue.remembered()) == (0, 0)


def test_costs_and_weights_that_would_stop_the_queue_are_refused() -> None:
    queue: FairQueue[str, int] = FairQueue()
    for cost, weight in ((0, 1.0), (1, 0.0), (1, -1.0)):
        with pytest.raises(ValueError, match="needed"):
            queue.put("a", 1, cost, weight)


class QueueAgainstLines(RuleBasedStateMachine):
    """The queue against one plain line an owner: nothing lost, doubled or reordered, no held owner taken."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: FairQueue[int, int] = FairQueue()
        self.lines: dict[int, deque[int]] = defaultdict(deque)
        self.groups: list[set[int]] = []
        self.numbers = itertools.count()

    @rule(owner=st.integers(0, 5), cost=st.integers(1, 200), weight=st.sampled_from([0.01, 1.0, 100.0]))
    def put(self, owner: int, cost: int, weight: float) -> None:
        number = next(self.numbers)
        self.queue.put(owner, number, cost, weight)
        self.lines[owner].append(number)

    @rule(items=st.integers(1, 10), cost=st.integers(1, 300))
    def take(self, items: int, cost: int) -> None:
        held = set().union(*self.groups) if self.groups else set()
        group = self.queue.take(items, cost)
        free = {owner for owner, line in self.lines.items() if line} - held
        assert bool(group) == bool(free)
        assert len(group) <= items
        for owner, number in group:
            assert owner not in held
            assert self.lines[owner].popleft() == number
        if group:
            self.groups.append({owner for owner, _ in group})

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if self.groups:
            self.queue.release(self.groups.pop(data.draw(st.integers(0, len(self.groups) - 1))))

    @invariant()
    def nothing_is_lost(self) -> None:
        assert len(self.queue) == sum(map(len, self.lines.values()))
        if not self.groups and not len(self.queue):
            assert self.queue.remembered() == 0


TestQueueAgainstLines = QueueAgainstLines.TestCase
TestQueueAgainstLines.settings = settings(max_examples=60, stateful_step_count=40)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 50)), min_size=20, max_size=300),
    st.integers(1, 8),
)
def test_service_of_waiting_owners_differs_by_one_item_each_at_most(puts: list[tuple[int, int]], rows: int) -> None:
    queue: FairQueue[int, int] = FairQueue()
    lines: dict[int, int] = Counter()
    for owner, cost in puts:
        queue.put(owner, cost, cost)
        lines[owner] += 1
    served: dict[int, int] = Counter()
    largest = max(cost for _, cost in puts)
    while group := queue.take(rows, 10**9):
        for owner, cost in group:
            # Only while all of them still have something waiting is equal service owed.
            if all(lines.values()):
                assert max(served[one] for one in lines) - min(served[one] for one in lines) <= 2 * largest
            served[owner] += cost
            lines[owner] -= 1
        queue.release(owner for owner, _ in group)


@given(st.integers(1, 6), st.integers(10, 2000))
def test_greedy_owners_leave_a_share_for_the_next(greedy: int, capacity: int) -> None:
    room: FairShare[int] = FairShare(capacity)
    moved = True
    while moved:
        moved = False
        for owner in range(greedy):
            if room.refusal(owner, 1) is None:
                room.take(owner, 1)
                moved = True
    assert capacity - room.used >= capacity // (greedy + 1) - 1
    if room.used < capacity:
        assert room.refusal(999, 1) is None
    assert max(room.held(owner) for owner in range(greedy)) - min(room.held(owner) for owner in range(greedy)) <= 1


def test_a_room_names_why_it_refuses_and_is_empty_when_all_is_given_back() -> None:
    room: FairShare[str] = FairShare(10)
    assert room.refusal("a", 50) is None, "one alone is never too large"
    room.take("a", 50)
    assert room.refusal("b", 1) == "full"
    room.give("a", 50)
    room.take("a", 6)
    assert room.refusal("a", 1) == "share"
    assert room.refusal("b", 4) is None
    with pytest.raises(ValueError, match="more is given back"):
        room.give("b", 1)
    room.give("a", 6)
    assert (room.used, room.held("a")) == (0, 0)
