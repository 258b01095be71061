"""What the server refused for ever can be sent anew when the reason is gone: once, as it was, and in the books."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import httpx
import pytest

from agent.forwarder.config import read_config
from agent.forwarder.process import Forwarder
from agent.masking.key import KEY_BYTES, MaskingKey
from agent.spool import Spool
from tests.unit.agent.forwarder.conftest import GZIPPED, PROTOBUF, Host, gzipped, lines_of, request, running, wait_for
from tests.unit.agent.forwarder.server import TinyServer


async def poisoned(forwarder: Forwarder, count: int = 1) -> list[str]:
    """The names in poison/, once there are so many."""
    await asyncio.to_thread(wait_for, lambda: forwarder.spool.poison.count() == count, f"{count} refused batches")
    return sorted(path.stem for path in forwarder.spool.poison.folder.glob("*.json"))


async def resent(client: httpx.AsyncClient, name: str) -> httpx.Response:
    return await client.post(f"/poison/{name}", headers=PROTOBUF)


async def settled(forwarder: Forwarder) -> None:
    assert await asyncio.to_thread(forwarder.spool.wait_empty, 20.0), forwarder.status.status()


async def test_a_refused_batch_is_sent_anew_as_it_was_and_leaves_poison(host: Host, server: TinyServer) -> None:
    server.faults.append("413")
    async with running(host.config(server.port)) as (forwarder, client):
        assert (await client.post("/v1/logs", content=gzipped("one", "two"), headers=GZIPPED)).status_code == 200
        [name] = await poisoned(forwarder)
        assert (await resent(client, name)).status_code == 200
        await settled(forwarder)
        assert forwarder.spool.poison.count() == 0
        assert list(forwarder.spool.poison.folder.iterdir()) == []
        books = forwarder.spool.books()
        assert await asyncio.to_thread(forwarder.bookkeeper.state)
    assert lines_of(server.journal.bodies()) == ["one", "two"]
    assert (books.accepted, books.stored, books.rejected, books.unaccounted) == (4, 2, {"http_413": 2}, 0)
    assert all(verdict.balanced for verdict in server.journal.verdicts)
    [row] = server.journal.rows.values()
    assert row.key != name, "what was final for one key is not asked again under it"


async def test_a_crash_between_the_spool_and_poison_sends_nothing_twice(host: Host, server: TinyServer) -> None:
    server.faults.append("400")
    kept = host.folder / "kept"
    async with running(host.config(server.port)) as (forwarder, client):
        await client.post("/v1/logs", content=request("line"), headers=PROTOBUF)
        [name] = await poisoned(forwarder)
        shutil.copytree(forwarder.spool.poison.folder, kept)
        assert (await resent(client, name)).status_code == 200
        await settled(forwarder)
    shutil.copytree(kept, host.folder / "spool" / "poison", dirs_exist_ok=True)  # as if it had not been removed
    async with running(host.config(server.port)) as (forwarder, client):
        assert (await resent(client, name)).status_code == 200
        await settled(forwarder)
        assert forwarder.spool.poison.count() == 0
    assert lines_of(server.journal.bodies()) == ["line"]
    assert len(server.journal.rows) == 1


async def test_what_is_refused_anew_may_be_sent_anew_again(host: Host, server: TinyServer) -> None:
    server.faults.extend(["413", "415", "422"])
    async with running(host.config(server.port)) as (forwarder, client):
        await client.post("/v1/logs", content=request("line"), headers=PROTOBUF)
        names = set()
        for life in range(3):
            [name] = await poisoned(forwarder)
            note = json.loads((forwarder.spool.poison.folder / f"{name}.json").read_bytes())
            assert note["life"] == life
            names.add(name)
            assert (await resent(client, name)).status_code == 200
            await asyncio.to_thread(server.wait, lambda j, n=life + 2: len(j.attempts) == n, "the next attempt")
        await settled(forwarder)
    assert len(names) == 3
    assert lines_of(server.journal.bodies()) == ["line"]


async def test_what_was_masked_is_not_masked_again_and_what_was_not_is(host: Host, server: TinyServer) -> None:
    """A token of a token would be another one: nothing could be correlated with it."""
    key = host.folder / "masking.key"
    key.write_text(MaskingKey(b"k" * KEY_BYTES).text)
    key.chmod(0o600)
    clear, masked = host.stated(server.port), host.stated(server.port)
    masked["masking"] = {"key": str(key)}
    line = "Failed password for alice from 10.1.2.3 port 22 ssh2"
    server.faults.append("413")
    async with running(read_config(host.write(clear))) as (forwarder, client):
        await client.post("/v1/logs", content=request(line), headers=PROTOBUF)
        [before] = await poisoned(forwarder)
    server.faults.append("413")
    async with running(read_config(host.write(masked))) as (forwarder, client):
        await client.post("/v1/logs", content=request(line, "again"), headers=PROTOBUF)
        names = await poisoned(forwarder, 2)
        for name in names:
            assert (await resent(client, name)).status_code == 200
        await client.post("/v1/logs", content=request(line, "and once more"), headers=PROTOBUF)
        await settled(forwarder)
    lines = [found for found in lines_of(server.journal.bodies()) if found.startswith("Failed")]
    assert before in names
    assert (len(lines), len(set(lines))) == (3, 1)
    assert "alice" not in lines[0]


@pytest.mark.parametrize("name", ["", "..", "x", "../books", "%2e%2e/books", "a" * 32 + "-0", "a" * 32 + "-1"])
async def test_no_other_name_is_looked_for(host: Host, server: TinyServer, name: str) -> None:
    async with running(host.config(server.port)) as (forwarder, client):
        answer = await client.post(f"http://127.0.0.1:{forwarder.port}/poison/{name}", headers=PROTOBUF)
        assert answer.status_code == 404


async def test_it_needs_the_token_and_a_batch_that_can_be_read(host: Host, server: TinyServer) -> None:
    name = "a" * 32 + "-7"
    with_spool = host.folder / "spool"
    spool = Spool(with_spool)
    spool.poison.put(name, b"what nobody can read", {"batch": name, "reason": "unreadable"})
    spool.close()
    async with running(host.config(server.port)) as (forwarder, client):
        assert (await client.post(f"/poison/{name}")).status_code == 401
        assert (
            await client.post(f"/poison/{name}", headers={"Authorization": "Bearer " + "x" * 20})
        ).status_code == 503
        assert (await client.get(f"/poison/{name}", headers=PROTOBUF)).status_code == 405
        assert (await resent(client, name)).status_code == 422
        _broken(forwarder.spool.poison.folder / f"{name}.json")
        assert (await resent(client, name)).status_code == 422
        assert forwarder.spool.books().accepted == 0
        assert forwarder.spool.poison.count() == 1


def _broken(note: Path) -> None:
    note.write_text("[")
