"""The loss ledger's equations: a sender's books and the server's books of one run must agree, or something is lost.

A *run* is the life of a sender's spool: its books begin at zero with the run and are kept with the spool. All counts
are records, cumulative over the run. The sender's books:

    A  accepted     records that entered its spool (counted before they leave the machine)
    S  stored       records of batches whose final answer said that they are new
    D  duplicate    records of batches whose final answer said X-Batch-Duplicate
    E  elsewhere    the part of D whose answer said X-Batch-Elsewhere: an earlier run had stored the batch
    R  rejected     records that the server, or the sender itself, refused for ever, by reason
    U  unsettled    the part of R whose batch had an attempt before that was never answered
    F  in flight    records in the spool: not sent, or sent and not answered

The server's books, written in the transaction that appends to the journal:

    s  stored       records of batches first stored in this run, each batch once however often it came
    e  elsewhere    records of answers "duplicate, stored by an earlier run"; a repeat of such a batch counts again

Each batch leaves the spool once, by its one final answer. When the answer to a first attempt is lost, the batch is
in s and still in F; the retry is answered "duplicate" and moves it from F to D. So lost requests, lost answers,
retries and restarts leave these true at every moment:

    (1)  A = S + D + R + F               every record is somewhere; what is missing here the sender lost
    (2)  s >= S + D - E                  whatever was acknowledged is stored; what is missing here the server lost
    (3)  e >= E                          the same for what an earlier run had stored
    (4)  s <= S + D - E + F + U          whatever is stored was acknowledged, or its answer was lost; what is beyond was
                                         stored in this run's name by somebody else (or by a spool that was copied)

(2) and (3) hold for every moment at which the statement can arrive, since s and e only grow. (4) does not: between the
statement's making and its arrival the sender may have had more stored. So (4) is judged against a value of s that is
no later than the statement: the statement names the highest seq that its sender had seen, and s counts when the
newest batch in it is not beyond that seq. (seq is given in commit order, so whoever has seen seq q speaks after all of
1 to q were stored.) When s has moved on, the value kept from the statement before is taken instead.

While batches are in flight or unsettled, (2) and (4) leave room of F + U between them, in which a loss could hide
behind a stored batch whose answer was lost; the room closes when the spool is empty, and then one record is found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

LEDGER_PATH = "/ingest/ledger"
"""Where statements are posted."""


@dataclass(frozen=True, slots=True)
class SenderBooks:
    """A statement. `elsewhere` is None where the sender does not tell its duplicates apart; `seen_seq` is the highest
    seq in any answer that the sender had when it made the statement (0: it keeps none)."""

    accepted: int
    stored: int
    duplicate: int
    in_flight: int
    rejected: Mapping[str, int] = field(default_factory=dict)
    elsewhere: int | None = None
    unsettled: int | None = None
    seen_seq: int = 0

    @property
    def all_rejected(self) -> int:
        """R."""
        return sum(self.rejected.values())

    @property
    def progress(self) -> dict[str, int]:
        """What can only grow within a run, by name."""
        counts = {"accepted": self.accepted, "stored": self.stored, "duplicate": self.duplicate}
        return counts | {f"rejected {reason}": count for reason, count in self.rejected.items()}


@dataclass(frozen=True, slots=True)
class ServerBooks:
    """What the server knows of a run: s and e, and the seq of the newest batch in s (0 for none)."""

    stored: int = 0
    elsewhere: int = 0
    last_seq: int = 0


@dataclass(frozen=True, slots=True)
class Balance:
    """The verdict. `missing` and `excess` are records; `detail` says which books disagree, empty when they agree."""

    missing: int
    excess: int
    detail: str

    @property
    def balanced(self) -> bool:
        return not (self.missing or self.excess)


def balance(sender: SenderBooks, server: ServerBooks, before: ServerBooks) -> Balance:
    """Judges a statement by (1) to (4). `before` are the server's books as they were at the statement before."""
    elsewhere = min(sender.duplicate, server.elsewhere) if sender.elsewhere is None else sender.elsewhere
    acknowledged = sender.stored + sender.duplicate - elsewhere
    unaccounted = sender.accepted - sender.stored - sender.duplicate - sender.all_rejected - sender.in_flight
    lost = max(0, acknowledged - server.stored) + max(0, elsewhere - server.elsewhere)
    foreign = 0
    known = _not_after(sender.seen_seq, server, before)
    if known is not None:
        unsettled = sender.all_rejected if sender.unsettled is None else sender.unsettled
        foreign = max(0, known.stored - acknowledged - sender.in_flight - unsettled)
    findings = []
    if unaccounted > 0:
        findings.append(f"{_records(unaccounted)} entered the sender's spool and not any of its counts")
    if unaccounted < 0:
        findings.append(f"the sender counts {_records(-unaccounted)} more than entered its spool")
    if lost:
        findings.append(f"of what was acknowledged, the server's books lack {_records(lost)}")
    if foreign:
        findings.append(f"the sender does not know of {_records(foreign)} stored in this run's name")
    return Balance(lost + max(0, unaccounted), foreign + max(0, -unaccounted), "; ".join(findings))


def compare(sender: SenderBooks, known: SenderBooks) -> str:
    """How a statement stands to the newest one known: `newer`, `same`, `older`, or `contradictory` (some counts went
    back while others went on, as after a spool was restored from a copy)."""
    here, there = sender.progress, known.progress
    names = here.keys() | there.keys()
    ahead = any(here.get(name, 0) > there.get(name, 0) for name in names)
    behind = any(here.get(name, 0) < there.get(name, 0) for name in names)
    if ahead and behind:
        return "contradictory"
    if behind:
        return "older"
    return "newer" if ahead else "same"


def _records(count: int) -> str:
    return f"{count:,} record{'' if count == 1 else 's'}"


def _not_after(seq: int, server: ServerBooks, before: ServerBooks) -> ServerBooks | None:
    """The newest of the server's books that hold no batch after `seq`."""
    if server.last_seq <= seq:
        return server
    return before if before.last_seq <= seq else None
