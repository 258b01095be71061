"""Whether a request may come in now, decided before its body is read: our own limits, long before Ray Serve's queue.

Over a quota is 429, too little room on this side is 503; both carry Retry-After, and a refusal costs a few comparisons.
A tenant's quota is divided by the number of edge replicas, because replicas do not ask one another. Buckets may go
into debt by what one request holds more than was foreseen, so a sender is never refused after its body was decoded.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

from actors.metrics import Metrics
from detect.record import TenantId
from serve.errors import WireError
from serve.ingest.head_room import HeadRoom, HeadRoomLimits
from serve.ingest.token_bucket import Rates
from store.fair_share import FairShare
from store.journal import Overloaded
from store.postgres import StorageUnavailable
from store.quotas import Quota

if TYPE_CHECKING:
    from serve.ingest.intake import Sender

MIB = 2**20
_REMEMBERED = 20_000  # tenants, and agents: the ones that were silent longest are forgotten first
_LABELLED_TENANTS = 100
_BUSY_WAIT_S = 1.0
_SHORT_WAIT_S = 0.01  # not worth an answer that costs the sender a second; the debt stays
_LONGEST_WAIT_S = 3600.0
_LONGEST_HOLD_S = 1.0
_HELD_BACK = 64  # refusals that wait at once
_SMOOTHING = 0.2


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """What one replica holds at once: requests, and bytes of their bodies as sent.

    `unknown_bytes` is what a body without a declared length counts as until it is here.
    """

    requests: int = 256
    bytes: int = 256 * MIB
    unknown_bytes: int = 4 * MIB
    replicas: int = 1


class _Account:
    """What a replica knows of one tenant. `records_per_byte` is learnt from its batches, to foresee the next."""

    __slots__ = ("bytes", "quota", "rates", "records", "records_per_byte", "refused", "told_until")

    def __init__(self) -> None:
        self.quota: Quota | None = None
        self.rates = Rates()
        self.records = 0
        self.bytes = 0
        self.refused = 0
        self.records_per_byte = 0.0
        self.told_until = 0.0


@dataclass(frozen=True, slots=True)
class Usage:
    """What one replica took from a tenant since it started, and what it turned away. Waits are seconds from now."""

    records: int
    bytes: int
    refused_requests: int
    requests_in_flight: int
    retry_after_s: float


class Ticket:
    """A request that is being taken in: `async with intake.request(sender, declared) as ticket`, until it is answered.

    Holds its share of the room, and what was charged before the body was read. A refusal of a sender that came back
    before it should is answered late.
    """

    __slots__ = ("_admission", "declared", "held", "prepaid_bytes", "prepaid_records", "sender")

    def __init__(self, admission: Admission, sender: Sender, declared: int | None) -> None:
        self._admission = admission
        self.sender = sender
        self.declared = declared
        self.held = 0
        self.prepaid_bytes = 0
        self.prepaid_records = 0

    async def __aenter__(self) -> Self:
        began = self._admission.told_until(self.sender.tenant)
        try:
            self._admission.enter(self)
        except WireError as error:
            if error.status == 429:
                await self._admission.hold_back(self.sender.tenant, began)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._admission.leave(self)

    def arrived(self, size: int) -> None:
        """The body is here and has so many bytes; a stated length or a guess counts no longer."""
        self._admission.hold(self, size)


class Admission:
    """One replica's gate. Used by one event loop; `clock` is monotonic seconds.

    `full_for` says how long the journal wants a batch of so many bytes to stay away (JournalWriter.full_for).
    """

    def __init__(
        self,
        limits: AdmissionLimits,
        room: HeadRoom,
        metrics: Metrics,
        clock: Callable[[], float],
        full_for: Callable[[TenantId, int], float],
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._limits = limits
        self._room = room
        self._metrics = metrics
        self._clock = clock
        self._full_for = full_for
        self._pause = pause
        self._held_back: FairShare[TenantId] = FairShare(_HELD_BACK)
        self._requests: FairShare[TenantId] = FairShare(limits.requests)
        self._bytes: FairShare[TenantId] = FairShare(limits.bytes)
        self._accounts: OrderedDict[TenantId, _Account] = OrderedDict()
        self._agents: OrderedDict[tuple[TenantId, str], Rates] = OrderedDict()
        self._labels: set[TenantId] = set()

    @classmethod
    def open(cls, metrics: Metrics) -> Admission:
        """One without quotas and head-room, for an intake that stands alone."""
        room = HeadRoom(HeadRoomLimits(), Quota())
        return cls(AdmissionLimits(), room, metrics, lambda: 0.0, lambda tenant, size: 0.0)

    def request(self, sender: Sender, declared: int | None) -> Ticket:
        """A request of `declared` bytes (None: not said). Entering the ticket raises WireError 429 or 503."""
        return Ticket(self, sender, declared)

    def charge(self, sender: Sender, records: int, size: int, ticket: Ticket | None) -> None:
        """Charges a batch that was counted. With a ticket it always passes, less what the ticket has paid; without
        one the sender is judged now. Raises WireError 429 or 503."""
        now = self._clock()
        account = self._account(sender.tenant, now)
        due_records, due_bytes = records, size
        if ticket is None:
            self._judge(sender, account, size, now)
        else:
            paid = min(ticket.prepaid_bytes, size)
            ticket.prepaid_bytes -= paid
            due_bytes -= paid
            due_records -= ticket.prepaid_records
            ticket.prepaid_records = 0
        self._move(sender, account, now, due_records, due_bytes)
        if size:
            ratio = records / size
            learnt = account.records_per_byte
            account.records_per_byte = learnt + _SMOOTHING * (ratio - learnt) if learnt else ratio
        account.records += records
        account.bytes += size
        self._metrics.count("tenant_records", records, tenant=self._label(sender.tenant))

    @contextmanager
    def charged(self, sender: Sender, records: int, size: int, ticket: Ticket | None) -> Iterator[None]:
        """charge() for the storing in the block, given back when the store has no room: the batch will come again."""
        self.charge(sender, records, size, ticket)
        try:
            yield
        except (Overloaded, StorageUnavailable):
            self.refund(sender, records, size)
            raise

    def refund(self, sender: Sender, records: int, size: int) -> None:
        """Gives back what charge() took."""
        now = self._clock()
        account = self._account(sender.tenant, now)
        self._move(sender, account, now, -records, -size)
        account.records -= records
        account.bytes -= size

    def usage(self, tenant: TenantId) -> Usage:
        """What this replica saw of the tenant."""
        now = self._clock()
        account = self._account(tenant, now)
        return Usage(
            account.records, account.bytes, account.refused, self._requests.held(tenant), account.rates.wait_s(now)
        )

    def enter(self, ticket: Ticket) -> None:
        """Takes the ticket's place and charges what can be foreseen; raises WireError 429 or 503."""
        sender, now = ticket.sender, self._clock()
        account = self._account(sender.tenant, now)
        size = self._limits.unknown_bytes if ticket.declared is None else ticket.declared
        self._judge(sender, account, size, now)
        tenant = sender.tenant
        refusal = self._requests.refusal(tenant, 1) or self._bytes.refusal(tenant, size)
        if refusal == "share":
            self._refuse(account, sender, 503, "tenant_busy", _BUSY_WAIT_S, "too many requests of this tenant at once")
        if refusal == "full":
            self._refuse(account, sender, 503, "busy", _BUSY_WAIT_S, "too many requests at once")
        self._requests.take(tenant, 1)
        self._bytes.take(tenant, size)
        ticket.held = size
        ticket.prepaid_bytes = ticket.declared or 0
        ticket.prepaid_records = math.ceil(ticket.prepaid_bytes * account.records_per_byte)
        self._move(sender, account, now, ticket.prepaid_records, ticket.prepaid_bytes)
        self._metrics.count("admission_decisions", decision="admitted")

    def hold(self, ticket: Ticket, size: int) -> None:
        """Makes the ticket hold so many bytes of the room, more or fewer than before."""
        tenant = ticket.sender.tenant
        self._bytes.give(tenant, ticket.held)
        self._bytes.take(tenant, size)
        ticket.held = size

    def told_until(self, tenant: TenantId) -> float:
        """Until when the tenant was last told to stay away."""
        account = self._accounts.get(tenant)
        return 0.0 if account is None else account.told_until

    async def hold_back(self, tenant: TenantId, told_until: float) -> None:
        """Waits before a refusal is answered, when the sender was told to stay away and did not.

        A sender that repeats at once would otherwise cost, refused, as much as one that is let in: now it repeats
        once a second per connection. Bounded, and nothing but a timer is held.
        """
        early = told_until - self._clock()
        if early > 0 and self._held_back.refusal(tenant, 1) is None:
            self._held_back.take(tenant, 1)
            try:
                await self._pause(min(_LONGEST_HOLD_S, early))
            finally:
                self._held_back.give(tenant, 1)

    def leave(self, ticket: Ticket) -> None:
        """Gives the ticket's place back, and records that were foreseen and did not come."""
        tenant, now = ticket.sender.tenant, self._clock()
        self._requests.give(tenant, 1)
        self._bytes.give(tenant, ticket.held)
        if ticket.prepaid_records:
            self._move(ticket.sender, self._account(tenant, now), now, -ticket.prepaid_records, 0)
            ticket.prepaid_records = 0

    def measure(self) -> None:
        """Sets the gauges of what is held now; now and then, because a request should not pay for it."""
        self._metrics.set("admission_requests", self._requests.used)
        self._metrics.set("admission_bytes", self._bytes.used)

    def _judge(self, sender: Sender, account: _Account, size: int, now: float) -> None:
        quota = account.quota or self._room.defaults
        if (wait := account.rates.wait_s(now)) > _SHORT_WAIT_S:
            self._refuse(account, sender, 429, "tenant_rate", wait, "this tenant sends more than its quota allows")
        if (agent := self._agent(sender, quota, now)) and (wait := agent.wait_s(now)) > _SHORT_WAIT_S:
            self._refuse(account, sender, 429, "agent_rate", wait, "this agent sends more than its quota allows")
        if shortage := self._room.shortage(sender.tenant, quota.max_backlog):
            reason, wait = shortage
            text = "the disk is nearly full" if reason == "disk_reserve" else "too much waits to be judged already"
            self._refuse(account, sender, 503, reason, wait, text)
        if wait := self._full_for(sender.tenant, size):
            self._refuse(account, sender, 503, "journal_full", wait, "too many batches wait for the journal")

    def _refuse(self, account: _Account, sender: Sender, status: int, reason: str, wait: float, text: str) -> None:
        account.refused += 1
        self._metrics.count("admission_decisions", decision=reason)
        self._metrics.count("tenant_refused_requests", tenant=self._label(sender.tenant))
        seconds = math.ceil(min(_LONGEST_WAIT_S, max(1.0, wait)))
        if status == 429:
            # Until what it was told, less what its way to us and back may take.
            account.told_until = self._clock() + 0.9 * seconds
        raise WireError(status, f"{text}: retry in {seconds} s", retry_after_s=seconds, reason=reason)

    def _move(self, sender: Sender, account: _Account, now: float, records: float, size: float) -> None:
        account.rates.charge(now, records, size)
        if agent := self._agent(sender, account.quota or self._room.defaults, now):
            agent.charge(now, records, size)

    def _account(self, tenant: TenantId, now: float) -> _Account:
        account = self._accounts.get(tenant)
        if account is None:
            account = self._accounts[tenant] = _Account()
            if len(self._accounts) > _REMEMBERED:
                self._accounts.popitem(last=False)
        else:
            self._accounts.move_to_end(tenant)
        quota = self._room.quota(tenant)
        if account.quota is not quota:
            account.quota = quota
            share = self._limits.replicas
            account.rates.limit(quota.records_per_s / share, quota.bytes_per_s / share, quota.burst_s, now)
        return account

    def _agent(self, sender: Sender, quota: Quota, now: float) -> Rates | None:
        if not quota.agent_records_per_s and not quota.agent_bytes_per_s:
            return None
        share = self._limits.replicas
        key = (sender.tenant, sender.agent)
        rates = self._agents.get(key)
        if rates is None:
            rates = self._agents[key] = Rates()
            if len(self._agents) > _REMEMBERED:
                self._agents.popitem(last=False)
        else:
            self._agents.move_to_end(key)
        rates.limit(quota.agent_records_per_s / share, quota.agent_bytes_per_s / share, quota.burst_s, now)
        return rates

    def _label(self, tenant: TenantId) -> str:
        """The first tenants a replica sees have labels of their own, so that no number of tenants floods the scrape."""
        if tenant in self._labels or len(self._labels) < _LABELLED_TENANTS:
            self._labels.add(tenant)
            return str(tenant)
        return "other"
