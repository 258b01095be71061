"""Rules name people and addresses in clear, masked records hold tokens: a masking tenant's rules find both."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from actors.backtest import BacktestRequest
from actors.rule_check import RuleCatalog, unpack_catalog
from actors.rule_enforcer import RuleEnforcer
from agent.masking import Masker
from detect.record import TenantId
from detect.sigma.pack import unpack
from serve.errors import WireError
from serve.masking.keys import masking_key
from serve.masking.services import masks_of_records
from serve.signing_keyring import SigningKeyring
from serve.signing_masters import add_master, ensure_master
from store.agents import revoke_agent
from store.journal import JournalWriter
from store.masking import note_masking_of_agent, set_masking
from store.postgres import tenant_transaction
from store.rule_catalogs import get_catalog
from store.rule_choices import RuleChoice, read_choice
from store.rule_sets import get_rule_set
from tests.postgres.agents import enrol
from tests.postgres.fixtures import Database
from tests.postgres.test_detector_worker import START, append, judged, plan, verdict, working
from tests.postgres.test_rules import OWN, STARTER, HereChecks, choose, in_journal, install, told

ALICE = "5a3f6a4e-7d5a-4a57-9d6f-6b0d5f1c0d01"
HOST = "5a3f6a4e-7d5a-4a57-9d6f-6b0d5f1c0d02"
NETWORK = "5a3f6a4e-7d5a-4a57-9d6f-6b0d5f1c0d03"
PART = "5a3f6a4e-7d5a-4a57-9d6f-6b0d5f1c0d04"
RULES = [
    f"""
title: Rule {number}
id: {rule_id}
status: stable
level: low
logsource: {{product: linux, service: sshd}}
detection:
  sel: {{{item}}}
  condition: sel
"""
    for number, (rule_id, item) in enumerate(
        {
            ALICE: "user: alice",
            HOST: "src_ip: 203.0.113.7",
            NETWORK: "src_ip|cidr: 198.51.100.0/24",
            PART: "user|contains: alic",
        }.items()
    )
]
LINES = [("alice", "192.0.2.1"), ("bob", "203.0.113.7"), ("bob", "198.51.100.9"), ("bob", "192.0.2.2")]
FOUND = [(0, ALICE), (1, HOST), (2, NETWORK)]
"""Positions of LINES, and the rules that must find them whether they are masked or not; PART finds the clear ones."""


@dataclass
class House:
    """A tenant with the four rules, and an enforcer that derives keys as the edge does."""

    database: Database
    keyring: SigningKeyring
    rules: RuleEnforcer
    tenant: TenantId
    sent: int = 0

    async def mask(self, enabled: bool, *, new_key: bool = False) -> None:
        async with tenant_transaction(await self.database.app(), self.tenant) as tx:
            newest = self.keyring.newest_master()
            await set_masking(tx, enabled=enabled, newest=newest, actor="test", new_key=new_key)

    async def agent(self, name: str, master: int | None) -> None:
        async with tenant_transaction(await self.database.app(), self.tenant) as tx:
            await enrol(tx, name)
            await note_masking_of_agent(tx, name, master)

    async def revoke(self, name: str) -> None:
        async with tenant_transaction(await self.database.app(), self.tenant) as tx:
            await revoke_agent(tx, name, actor="test")

    async def choice(self) -> RuleChoice:
        async with tenant_transaction(await self.database.app(), self.tenant) as tx:
            return await read_choice(tx)

    async def catalog(self) -> RuleCatalog:
        choice = await self.choice()
        async with tenant_transaction(await self.database.app(), self.tenant) as tx:
            return unpack_catalog(await get_catalog(tx, choice.digest or "") or b"")

    async def send(self, master: int | None) -> None:
        """The lines, as an agent with the key of that master sends them (None: one that masks nothing)."""
        request = ExportLogsServiceRequest()
        records = request.resource_logs.add().scope_logs.add().log_records
        for second, (user, address) in enumerate(LINES):
            record = records.add(time_unix_nano=int(START.timestamp() + 60 * self.sent + second) * 10**9)
            record.body.string_value = (
                f"Mar  1 10:{self.sent:02d}:{second:02d} web-1 sshd[{4000 + second}]: "
                f"Failed password for {user} from {address} port {40000 + second} ssh2"
            )
        body = request.SerializeToString()
        if master is not None:
            masters = self.keyring.masters(master)
            body = Masker(masking_key(masters, master, self.tenant)).transform(body, "otlp_protobuf")
            assert b"alice" not in body
            assert b"203.0.113.7" not in body
        await append(self.database, self.tenant, [gzip.compress(body, mtime=0)], first=self.sent)
        self.sent += 1

    async def fired(self) -> list[list[tuple[int, str]]]:
        """By batch that was sent, the positions and ids of the rules that found something."""
        last = len(await in_journal(self.database, self.tenant)) + self.sent
        async with working(self.database, plan()):
            await judged(self.database, self.tenant, last)
        found: dict[int, list[tuple[int, str]]] = {}
        for seq, position, rule_id, *_ in (await verdict(self.database, self.tenant))["events"]:  # type: ignore[misc]
            if rule_id in (ALICE, HOST, NETWORK, PART):
                found.setdefault(seq, []).append((position, rule_id))
        return [sorted(found[seq]) for seq in sorted(found)]


@pytest.fixture
def keyring(tmp_path: Path) -> SigningKeyring:
    ensure_master(tmp_path / "signing")

    async def no_signing_key(*_: object) -> None:
        raise AssertionError("only masters are needed here")

    return SigningKeyring(no_signing_key, tmp_path / "signing", lambda: 0.0, 0)


async def house(database: Database, keyring: SigningKeyring) -> House:
    writer = await database.writer()
    tenant = await database.tenant()
    rules = RuleEnforcer(
        await database.app(),
        writer,
        JournalWriter(writer),
        HereChecks(),
        masks_of=lambda tx: masks_of_records(tx, keyring),
    )
    await rules.enforce_everywhere("test", START)
    await install(rules, "own", *RULES)
    await choose(rules, tenant, 1, [OWN], {})
    return House(database, keyring, rules, tenant)


async def test_a_rule_finds_whom_it_names_in_masked_records_of_a_masking_tenant_only(
    database: Database, keyring: SigningKeyring
) -> None:
    masking, other = await house(database, keyring), await house(database, keyring)
    await masking.mask(True)
    await masking.agent("web-1", 1)
    assert await masking.rules.enforce_due(START) == 1, "the masking tenant's rules, nobody else's"
    for tenant in (masking, other):
        await tenant.send(1)
        await tenant.send(None)
    # A system log that comes in clear through another door names people and addresses as the rules do; of networks,
    # whose tokens are addresses of another network, the tokens alone count while every agent masks.
    clear = sorted([(0, ALICE), (0, PART), (1, HOST)])
    assert await masking.fired() == [FOUND, clear]
    assert await other.fired() == [sorted([*FOUND, (0, PART)])], "tokens mean nothing to a tenant that does not mask"


async def test_while_an_agent_sends_clear_records_both_are_found(database: Database, keyring: SigningKeyring) -> None:
    tenant = await house(database, keyring)
    await tenant.agent("old", None)
    await tenant.mask(True)
    await tenant.agent("new", 1)
    await tenant.rules.enforce_due(START)
    await tenant.send(None)
    await tenant.send(1)
    assert await tenant.fired() == [sorted([*FOUND, (0, PART)]), FOUND]


async def test_rules_follow_the_keys_that_agents_have_until_the_last_is_gone(
    database: Database, keyring: SigningKeyring, tmp_path: Path
) -> None:
    tenant = await house(database, keyring)
    plain = (await tenant.choice()).digest
    states = []

    async def followed() -> None:
        assert await tenant.rules.enforce_due(START) == 1
        assert await tenant.rules.enforce_due(START) == 0, "once"
        states.append((await tenant.choice()).masked)

    await tenant.mask(True)
    await followed()
    await tenant.agent("first", 1)
    assert await tenant.rules.enforce_due(START) == 0, "it masks as expected"
    add_master(tmp_path / "signing")
    await tenant.mask(True, new_key=True)
    await followed()
    await tenant.agent("second", 2)
    await tenant.mask(False)
    assert await tenant.rules.enforce_due(START) == 0, "agents go on masking"
    await tenant.send(1)
    await tenant.send(2)
    await tenant.revoke("first")
    await followed()
    await tenant.send(1)
    await tenant.send(2)
    await tenant.revoke("second")
    await followed()
    assert (await tenant.choice()).digest == plain, "the set as it was before anybody masked"
    assert [None if state is None else state.rpartition(" ")[0] for state in states] == ["1", "1 2", "2", None]
    assert await tenant.fired() == [FOUND, FOUND, FOUND], "of the last agent's key, not of the revoked one's"


async def test_rules_that_cannot_find_what_they_name_say_so(database: Database, keyring: SigningKeyring) -> None:
    tenant = await house(database, keyring)
    assert [warning.rule_id for warning in (await tenant.catalog()).warnings] == []
    await tenant.mask(True)
    await tenant.rules.enforce(tenant.tenant, START)
    [warning] = (await tenant.catalog()).warnings
    assert warning.rule_id == PART
    assert warning.reason.startswith("masked records never hold what it looks for: 'alic' is a part of a value of user")


async def test_a_backtest_looks_for_tokens_too(database: Database, keyring: SigningKeyring) -> None:
    tenant = await house(database, keyring)
    await tenant.agent("web-1", 1)
    await tenant.mask(True)
    await tenant.rules.enforce(tenant.tenant, START)
    await tenant.send(1)
    assert await tenant.fired() == [FOUND]
    bob = RULES[0].replace(ALICE, "5a3f6a4e-7d5a-4a57-9d6f-6b0d5f1c0d09").replace("alice", "bob")
    async with tenant_transaction(await database.app(), tenant.tenant) as tx:
        masks = await masks_of_records(tx, keyring)
    files = (("bob.yml", bob), ("alice.yml", RULES[0]))
    found = await told(database, BacktestRequest(tenant.tenant, files, START, masks=masks))
    assert (found["new"], found["same"], found["lost"], found["changed"]) == (3, 1, 0, 0)


async def test_a_restart_makes_the_same_set_and_the_key_is_nowhere_in_it(
    database: Database, keyring: SigningKeyring
) -> None:
    tenant = await house(database, keyring)
    await tenant.mask(True)
    await tenant.rules.enforce(tenant.tenant, START)
    before = await tenant.choice()
    rows = await in_journal(database, tenant.tenant)
    writer = await database.writer()
    again = RuleEnforcer(
        await database.app(),
        writer,
        JournalWriter(writer),
        HereChecks(),
        masks_of=lambda tx: masks_of_records(tx, keyring),
    )
    await again.enforce_everywhere("test", START)
    await again.enforce(tenant.tenant, START)
    assert (await tenant.choice()).digest == before.digest
    assert await in_journal(database, tenant.tenant) == rows
    key = masking_key(keyring.masters(1), 1, tenant.tenant)
    async with tenant_transaction(await database.app(), tenant.tenant) as tx:
        sources = str(unpack(await get_rule_set(tx, before.digest or "") or b""))
    assert key.text not in sources
    assert key.secret.hex() not in sources
    assert key.fingerprint not in sources


async def test_a_choice_of_a_masking_tenant_is_masked_at_once_and_each_has_tokens_of_its_own(
    database: Database, keyring: SigningKeyring
) -> None:
    one, two = await house(database, keyring), await house(database, keyring)
    for tenant in (one, two):
        await tenant.mask(True)
        chosen = await choose(tenant.rules, tenant.tenant, 2, [OWN, STARTER], {})
        assert chosen.masked is not None
        assert await tenant.rules.enforce_due(START) == 0
    assert (await one.choice()).digest != (await two.choice()).digest


async def test_without_the_key_the_rules_before_go_on(
    database: Database, keyring: SigningKeyring, tmp_path: Path
) -> None:
    tenant = await house(database, keyring)
    plain = (await tenant.choice()).digest
    await tenant.mask(True)
    key_file = tmp_path / "signing" / "1.key"
    secret = key_file.read_bytes()
    key_file.unlink()
    forgetful = SigningKeyring(keyring._fetch, tmp_path / "signing", lambda: 0.0, 0)
    tenant.rules._masks_of = lambda tx: masks_of_records(tx, forgetful)
    with pytest.raises(WireError, match=r"1\.key"):
        await choose(tenant.rules, tenant.tenant, 2, [OWN, STARTER], {})
    assert await tenant.rules.enforce_due(START) == 1
    assert (await tenant.choice()).digest == plain
    key_file.write_bytes(secret)
    key_file.chmod(0o600)
    assert await tenant.rules.enforce_due(START) == 1, "it is tried again"
    assert (await tenant.choice()).digest != plain
