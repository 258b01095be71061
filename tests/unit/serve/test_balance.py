"""The ledger's equations over a lossy channel: whatever is lost on the way, the books balance; one record does not."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.ingest.balance import Balance, SenderBooks, ServerBooks, balance, compare

BALANCED = Balance(0, 0, "")


@dataclass
class Server:
    """Stores each key once, and keeps books of every run, as journal_append does."""

    stored: dict[str, str] = field(default_factory=dict)
    seq: int = 0
    books: dict[str, ServerBooks] = field(default_factory=dict)
    before: dict[str, ServerBooks] = field(default_factory=dict)
    newest: dict[str, SenderBooks] = field(default_factory=dict)

    def take(self, key: str, records: int, run: str) -> tuple[str, int]:
        books = self.books.get(run, ServerBooks())
        if key not in self.stored:
            self.seq += 1
            self.stored[key] = run
            self.books[run] = replace(books, stored=books.stored + records, last_seq=self.seq)
            return "stored", self.seq
        if self.stored[key] == run:
            return "duplicate", self.seq
        self.books[run] = replace(books, elsewhere=books.elsewhere + records)
        return "elsewhere", self.seq

    def state(self, run: str, statement: SenderBooks) -> Balance | None:
        """None for one that is older than what is known."""
        known = self.newest.get(run)
        order = "newer" if known is None else compare(statement, known)
        assert order != "contradictory"
        if order == "older":
            return None
        books = self.books.get(run, ServerBooks())
        verdict = balance(statement, books, self.before.get(run, ServerBooks()))
        self.newest[run], self.before[run] = statement, books
        return verdict


@dataclass
class Batch:
    records: int
    malformed: bool
    unanswered: bool = False


@dataclass
class Sender:
    """A spool with its books; both are durable, as a restart in the middle of anything must leave them."""

    server: Server
    run: str = "run-0"
    spool: dict[str, Batch] = field(default_factory=dict)
    made: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys("ASDERU", 0))
    seen: int = 0

    def accept(self, records: int, malformed: bool) -> None:
        self.made += 1
        self.spool[f"batch-{self.made}"] = Batch(records, malformed)
        self.counts["A"] += records

    def send(self, place: int, fate: str) -> None:
        if not self.spool:
            return
        key = list(self.spool)[place % len(self.spool)]
        batch = self.spool[key]
        if fate in {"request lost", "refused"} or batch.malformed:
            answer, seq = "rejected", 0
        else:
            answer, seq = self.server.take(key, batch.records, self.run)
        if fate in {"request lost", "answer lost"}:
            batch.unanswered = True
            return
        del self.spool[key]
        self.seen = max(self.seen, seq)
        kinds = {"stored": "S", "duplicate": "D", "elsewhere": "DE", "rejected": "RU" if batch.unanswered else "R"}
        for kind in kinds[answer]:
            self.counts[kind] += batch.records

    def lose_books(self) -> None:
        """The spool survives and nothing else does: a new run begins with what is in it."""
        self.run = f"run-{int(self.run[4:]) + 1}"
        self.counts = dict.fromkeys("ASDERU", 0)
        self.seen = 0
        for batch in self.spool.values():
            batch.unanswered = True
            self.counts["A"] += batch.records

    def statement(self, *, tells_apart: bool = True) -> SenderBooks:
        counts = self.counts
        return SenderBooks(
            accepted=counts["A"],
            stored=counts["S"],
            duplicate=counts["D"],
            in_flight=sum(batch.records for batch in self.spool.values()),
            rejected={"malformed": counts["R"]} if counts["R"] else {},
            elsewhere=counts["E"] if tells_apart else None,
            unsettled=counts["U"] if tells_apart else None,
            seen_seq=self.seen,
        )

    def drain(self) -> None:
        while self.spool:
            self.send(0, "answered")


FATES = st.sampled_from(["answered", "answered", "request lost", "answer lost", "refused"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("accept"), st.integers(1, 9), st.sampled_from([False, False, False, True])),
        st.tuples(st.just("send"), st.integers(0, 9), FATES),
        st.tuples(st.just("write a statement"), st.booleans(), st.none()),
        st.tuples(st.just("deliver a statement"), st.integers(0, 9), st.none()),
        st.tuples(st.just("another sender"), st.integers(1, 9), st.none()),
        st.tuples(st.just("lose the books"), st.none(), st.none()),
    ),
    max_size=60,
)


def play(steps: list) -> Sender:
    """Every statement that is delivered on the way balances, however late it comes and however often."""
    sender = Sender(Server())
    written: list[tuple[str, SenderBooks]] = []
    for number, (step, first, second) in enumerate(steps):
        match step:
            case "accept":
                sender.accept(first, second)
            case "send":
                sender.send(first, second)
            case "write a statement":
                written.append((sender.run, sender.statement(tells_apart=first)))
            case "deliver a statement" if written:
                assert sender.server.state(*written[first % len(written)]) in (None, BALANCED)
            case "another sender":
                sender.server.take(f"other-{number}", first, "other")
            case "lose the books":
                sender.lose_books()
    return sender


@settings(max_examples=200)
@given(STEPS)
def test_lost_requests_lost_answers_retries_and_restarts_balance(steps: list) -> None:
    sender = play(steps)
    assert sender.server.state(sender.run, sender.statement()) == BALANCED
    sender.drain()
    assert sender.server.state(sender.run, sender.statement()) == BALANCED


@settings(max_examples=200)
@given(STEPS)
def test_one_record_that_the_server_lost_is_found(steps: list) -> None:
    sender = play(steps)
    sender.accept(2, malformed=False)
    sender.drain()
    books, counts = sender.server.books[sender.run], sender.counts
    # Batches that were stored, never answered, and then refused for ever: the sender cannot know of them.
    unknown = books.stored - (counts["S"] + counts["D"] - counts["E"])
    assert 0 <= unknown <= counts["U"]
    sender.server.books[sender.run] = replace(books, stored=books.stored - unknown - 1)
    assert sender.server.state(sender.run, sender.statement()) == Balance(
        1, 0, "of what was acknowledged, the server's books lack 1 record"
    )


@settings(max_examples=200)
@given(STEPS)
def test_one_record_in_the_sender_s_name_is_found_once_the_sender_has_seen_what_came_after(steps: list) -> None:
    sender = play(steps)
    sender.drain()
    counts = sender.counts
    known = sender.server.books.get(sender.run, ServerBooks()).stored
    room = counts["U"] - (known - (counts["S"] + counts["D"] - counts["E"]))
    sender.server.take("forged", room + 1, sender.run)
    assert sender.server.state(sender.run, sender.statement()) in (None, BALANCED), "it may be on its way"
    sender.accept(1, malformed=False)
    sender.drain()
    verdict = sender.server.state(sender.run, sender.statement())
    assert verdict is not None
    assert (verdict.missing, verdict.excess) == (0, 1)


@settings(max_examples=100)
@given(STEPS, st.integers(1, 5))
def test_records_that_vanish_in_the_sender_are_found(steps: list, lost: int) -> None:
    sender = play(steps)
    statement = sender.statement()
    vanished = balance(replace(statement, accepted=statement.accepted + lost), ServerBooks(), ServerBooks())
    assert vanished.missing >= lost
    named = "1 record" if lost == 1 else f"{lost} records"
    assert f"{named} entered the sender's spool and not any of its counts" in vanished.detail
    invented = replace(statement, in_flight=statement.in_flight + lost)
    assert f"the sender counts {named} more" in balance(invented, ServerBooks(), ServerBooks()).detail


def test_a_sender_that_does_not_tell_its_duplicates_apart_is_believed_as_far_as_the_answers_go() -> None:
    """The same file sent again in a new run: everything is a duplicate of the first run."""
    statement = SenderBooks(accepted=5, stored=0, duplicate=5, in_flight=0)
    assert balance(statement, ServerBooks(stored=0, elsewhere=5), ServerBooks()) == BALANCED
    assert balance(statement, ServerBooks(stored=0, elsewhere=4), ServerBooks()).missing == 1


@pytest.mark.parametrize(
    ("change", "order"),
    [
        ({}, "same"),
        ({"in_flight": 0}, "same"),
        ({"accepted": 11}, "newer"),
        ({"rejected": {"malformed": 1, "too_large": 1}}, "newer"),
        ({"stored": 6}, "older"),
        ({"rejected": {}}, "older"),
        ({"accepted": 11, "stored": 6}, "contradictory"),
        ({"rejected": {"too_large": 1}}, "contradictory"),
    ],
)
def test_a_statement_is_newer_when_no_count_went_back(change: dict, order: str) -> None:
    known = SenderBooks(accepted=10, stored=7, duplicate=1, in_flight=1, rejected={"malformed": 1})
    assert compare(replace(known, **change), known) == order
