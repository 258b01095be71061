"""One chaos run: load, strikes, the end of the load, and the verdict over every tenant."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import httpx

from bench.chaos.installation import Installation
from bench.chaos.schedule import Schedule, Struck, strike
from bench.chaos.senders import Books, Sender, attack
from bench.chaos.tail import TailedFile
from bench.chaos.verdict import Verdict, judge
from cluster.postgres import DATABASE, SUPERUSER, EmbeddedPostgres

TENANTS = ("calm", "restless", "crowd", "tail")
_CROWD_SENDERS = 3
_CATCH_UP_S = 240.0

# Without anomalies: the sketches that count distinct values are salted per tenant, so that the estimates of two tenants
# differ where their records do not. That each tenant's own anomalies are the right ones is the verdict's.
_STORY = """SELECT seq, position, time, end_time, kind, rule_id, title, severity, score, matched::text, evidence::text
    FROM events JOIN tenants USING (tenant_id) WHERE name = $1 AND kind <> 'anomaly' ORDER BY 1, 2, 6, 3, 11"""
_MESSAGES = "SELECT message FROM raw_logs JOIN tenants USING (tenant_id) WHERE name = $1"


@dataclass(slots=True)
class Outcome:
    """What was done and what came of it.

    `other_story`: events that only one of the two has, the tenant that got its batches in peace or the one under fire.
    `missing_lines`: lines of the tailed file that are stored nowhere.
    """

    struck: Struck
    books: dict[str, Books]
    verdicts: dict[str, Verdict]
    other_story: list[str]
    written_lines: int
    missing_lines: list[str]
    seconds: float

    @property
    def broken_promises(self) -> list[str]:
        """Everything that is not as promised; empty is the result wanted."""
        broken = [f"{name}: {text}" for name, books in self.books.items() for text in books.broken_promises]
        broken += [f"{name}: {text}" for name, verdict in self.verdicts.items() for text in verdict.differences]
        broken += [f"only one of calm and restless has {text}" for text in self.other_story]
        return broken + [f"lost: {line}" for line in self.missing_lines]


def run(folder: Path, schedule: Schedule, batches: int, progress: Callable[[str], None]) -> Outcome:
    """Tenant `calm` gets `batches` in peace, `restless` the same ones under fire, `crowd` many at once, `tail` a file.

    Everything happens on one machine, in `folder`; the installation is stopped at the end.
    """
    began = time.monotonic()
    installation = Installation(folder)
    installation.start()
    try:
        keys = {name: installation.new_tenant(name) for name in TENANTS}
        origin = time.time_ns() - 86400 * 10**9
        calm = Sender(installation.base_url, keys["calm"], _batches("story", origin, batches), 0)
        calm.start()
        calm.join()
        _await_judged(installation, keys["calm"])
        progress(f"undisturbed: {batches} batches judged")
        load = _Load(installation, keys, origin, batches)
        load.start()

        def told(struck: Struck) -> None:
            progress(f"{time.monotonic() - began:.0f} s: {_told(struck)}")

        struck = strike(installation, schedule, load.tail.processes, told)
        load.finish()
        progress("the load has ended; catching up")
        for key in keys.values():
            _await_judged(installation, key)
        books = {"calm": calm.books, "restless": load.restless.books, "crowd": load.crowd_books, "tail": Books()}
        verdicts = {name: asyncio.run(judge(installation.data, name, books[name].acknowledged)) for name in TENANTS}
        calm_story, restless_story = ({repr(row) for row in _rows(installation, _STORY, name)} for name in TENANTS[:2])
        other = sorted(calm_story ^ restless_story)
        missing = load.tail.missing(row["message"] for row in _rows(installation, _MESSAGES, "tail"))
        return Outcome(struck, books, verdicts, other, load.tail.written, missing, time.monotonic() - began)
    finally:
        installation.stop()


class _Load:
    """Everything that sends while parts are killed."""

    def __init__(self, installation: Installation, keys: dict[str, str], origin: int, batches: int) -> None:
        url = installation.base_url
        self.restless = Sender(url, keys["restless"], _batches("story", origin, batches), 0.5)
        self.crowd = [
            Sender(url, keys["crowd"], _batches(f"crowd-{number}", origin, None), 0.05)
            for number in range(_CROWD_SENDERS)
        ]
        self.tail = TailedFile(installation.folder / "tail", url, keys["tail"])
        self._installation = installation
        self._keys = keys

    @property
    def crowd_books(self) -> Books:
        """The books of all crowd senders as one."""
        books = Books()
        for sender in self.crowd:
            books.acknowledged += sender.books.acknowledged
            books.broken_promises += sender.books.broken_promises
            books.attempts += sender.books.attempts
        return books

    def start(self) -> None:
        """Begins to send."""
        self.tail.start()
        for sender in (self.restless, *self.crowd):
            sender.start()

    def finish(self) -> None:
        """The crowd stops, the story is told to its end, the tailed file is stored to its last line."""
        for sender in self.crowd:
            sender.stop()
        self.tail.stop()
        for sender in (*self.crowd, self.restless):
            sender.join()
        deadline = time.monotonic() + _CATCH_UP_S
        while time.monotonic() < deadline:
            _await_judged(self._installation, self._keys["tail"])
            if not self.tail.missing(row["message"] for row in _rows(self._installation, _MESSAGES, "tail")):
                break
            time.sleep(0.5)
        self.tail.end()


def _batches(name: str, origin: int, count: int | None) -> Iterator[tuple[str, list[tuple[int, str]]]]:
    numbers = itertools.count() if count is None else iter(range(count))
    return ((f"{name}-{number}", attack(number, origin)) for number in numbers)


def _told(struck: Struck) -> str:
    parts = ", ".join(f"{role} {count}" for role, count in sorted(struck.kills.items()))
    return f"{struck.total} kills: {parts}, everything {struck.group_kills}"


def _await_judged(installation: Installation, key: str) -> None:
    """Returns when every durable batch of the key's tenant is judged; raises TimeoutError."""
    deadline = time.monotonic() + _CATCH_UP_S
    counts: object = "no answer"
    with httpx.Client(base_url=installation.base_url, headers={"Authorization": f"Bearer {key}"}) as client:
        while time.monotonic() < deadline:
            with suppress(httpx.TransportError):
                answer = client.get("/api/status", timeout=20)
                counts = answer.json().get("counts") if answer.status_code == 200 else counts
                if isinstance(counts, dict) and counts and counts["judged"] == counts["batches"]:
                    return
            time.sleep(0.1)
    raise TimeoutError(f"not judged in {_CATCH_UP_S:.0f} s: {counts}")


def _rows(installation: Installation, statement: str, tenant: str) -> list[asyncpg.Record]:
    async def fetch() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(EmbeddedPostgres(installation.data).dsn(SUPERUSER, DATABASE))
        try:
            return list(await connection.fetch(statement, tenant))
        finally:
            await connection.close()

    return asyncio.run(fetch())
