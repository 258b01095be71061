"""The tenants whose state one shard actor holds in memory: bounded, the longest idle one goes first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from actors.judge import TenantJudge
from detect.record import TenantId

_FIRST_WAIT_S = 1.0
_LONGEST_WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Parking:
    """A tenant whose judging failed: it is left alone until then, longer after each failure."""

    until: float
    wait_s: float


class HeldTenants:
    """Judges by tenant, least recently used first, and the tenants that are left alone for a while."""

    def __init__(self, most: int, new_judge: Callable[[TenantId], TenantJudge]) -> None:
        self._most = max(1, most)
        self._new_judge = new_judge
        self._judges: OrderedDict[TenantId, TenantJudge] = OrderedDict()
        self._parked: dict[TenantId, Parking] = {}

    def __len__(self) -> int:
        return len(self._judges)

    @property
    def parked(self) -> int:
        """How many tenants are left alone now."""
        return len(self._parked)

    def get(self, tenant: TenantId) -> TenantJudge:
        """The tenant's judge, made when it is not held; now the most recently used."""
        judge = self._judges.get(tenant)
        if judge is None:
            judge = self._judges[tenant] = self._new_judge(tenant)
        self._judges.move_to_end(tenant)
        return judge

    def in_turn(self, tenants: Iterable[TenantId], now: float) -> list[TenantId]:
        """The order of a round: first those that are held, so that few have to be read; without those left alone."""
        waiting = {tenant for tenant, parking in self._parked.items() if parking.until > now}
        return sorted(
            (tenant for tenant in tenants if tenant not in waiting), key=lambda item: item not in self._judges
        )

    def surplus(self) -> list[TenantId]:
        """The tenants that must go for the bound to hold, longest idle first."""
        return list(self._judges)[: max(0, len(self._judges) - self._most)]

    def of(self, chosen: Callable[[TenantId], bool]) -> list[TenantId]:
        """The held tenants that are so."""
        return [tenant for tenant in self._judges if chosen(tenant)]

    def drop(self, tenant: TenantId) -> TenantJudge | None:
        """Lets go of a tenant's state."""
        return self._judges.pop(tenant, None)

    def leave_alone(self, tenant: TenantId, now: float, *, long: bool = False) -> float:
        """Drops a tenant that failed; the seconds until it is tried again: twice as long each time, up to a minute."""
        self.drop(tenant)
        before = self._parked.get(tenant)
        wait = _LONGEST_WAIT_S if long else _FIRST_WAIT_S if before is None else min(2 * before.wait_s, _LONGEST_WAIT_S)
        self._parked[tenant] = Parking(now + wait, wait)
        return wait

    def went_well(self, tenant: TenantId) -> None:
        """A turn succeeded: the next failure starts again with a short wait."""
        self._parked.pop(tenant, None)
