"""Which part dies when: seeded strikes at one or several living parts, and now and then at everything at once."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

from bench.chaos.installation import Installation
from bench.chaos.victims import ROLES, Role, find

_RECOVERY_S = 120.0


@dataclass(frozen=True, slots=True)
class Schedule:
    """`kills` of single parts in all, `group_kills` of the whole family spread among them; pauses in seconds."""

    seed: int
    kills: int
    group_kills: int
    shortest_pause_s: float = 0.2
    longest_pause_s: float = 2.0
    at_once: int = 3


@dataclass(slots=True)
class Struck:
    """What was killed, by role, and how often everything was."""

    kills: Counter[Role] = field(default_factory=Counter)
    group_kills: int = 0

    @property
    def total(self) -> int:
        """Kills of single parts; the whole group counts once."""
        return sum(self.kills.values()) + self.group_kills


def strike(
    installation: Installation,
    schedule: Schedule,
    bystanders: Callable[[], list[psutil.Process]],
    progress: Callable[[Struck], None],
) -> Struck:
    """Carries the schedule out. `bystanders` are processes beside the installation that may die too (a collector).

    Raises TimeoutError when nothing comes back.
    """
    rng = random.Random(schedule.seed)
    struck = Struck()
    share = schedule.kills / (schedule.group_kills + 1)
    group_at = {round(share * (place + 1)) for place in range(schedule.group_kills)}
    last_kill = time.monotonic()
    while sum(struck.kills.values()) < schedule.kills:
        processes = [*installation.processes(), *bystanders()]
        alive = {role: found for role in ROLES if (found := find(role, processes))}
        for role in rng.sample(sorted(alive), k=min(len(alive), rng.randint(1, schedule.at_once))):
            with suppress(psutil.NoSuchProcess):
                rng.choice(sorted(alive[role], key=lambda process: process.pid)).kill()
                struck.kills[role] += 1
                last_kill = time.monotonic()
        if time.monotonic() - last_kill > _RECOVERY_S:
            raise TimeoutError(f"nothing came back to be killed in {_RECOVERY_S:.0f} s; alive: {sorted(alive)}")
        if group_at and sum(struck.kills.values()) >= min(group_at):
            group_at.remove(min(group_at))
            installation.kill()
            installation.start()
            struck.group_kills += 1
        progress(struck)
        time.sleep(rng.uniform(schedule.shortest_pause_s, schedule.longest_pause_s))
    return struck
