"""What the server may turn back, and what nobody can."""

from __future__ import annotations

from uuid import UUID

import pytest

from agent.masking import Masker, MaskingKey
from detect.record import TenantId
from serve.masking.keys import masking_key
from serve.masking.reveal import MAX_CANDIDATES, MAX_TOKENS, Revealed, reveal
from serve.signing_masters import MasterKeyError, SigningMasters

ONE, TWO = TenantId(UUID(int=1)), TenantId(UUID(int=2))
MASTERS = SigningMasters({1: bytes(32), 2: bytes(range(32))})
KEY = masking_key(MASTERS, 1, ONE)
MASKER = Masker(KEY)


def masked(text: str, field: str = "") -> str:
    return MASKER.values.text(field, text, [])


def test_keys_are_of_one_tenant_and_one_master_and_always_the_same() -> None:
    assert masking_key(MASTERS, 1, ONE) == KEY
    others = {masking_key(MASTERS, 2, ONE).secret, masking_key(MASTERS, 1, TWO).secret}
    assert len(others | {KEY.secret}) == 3
    assert MaskingKey.parse(KEY.text) == KEY
    with pytest.raises(MasterKeyError, match=r"put 3\.key back"):
        masking_key(MASTERS, 3, ONE)


@pytest.mark.parametrize("address", ["203.0.113.7", "10.1.2.3", "127.0.0.1", "2001:db8::7"])
def test_an_address_is_turned_back_by_the_key(address: str) -> None:
    token = masked(address)
    assert reveal([token], [], [KEY]) == [Revealed(token, "address", address, 1)]


@pytest.mark.parametrize(
    ("clear", "field"),
    [("alice", "user"), ("CORP\\alice", "user"), ("alice@corp.example", ""), ("S-1-5-21-1-2-3-1104", "")],
)
def test_a_name_is_found_among_candidates(clear: str, field: str) -> None:
    token = masked(clear, field)
    assert token != clear
    assert reveal([token], ["bob", clear, "eve"], [KEY]) == [Revealed(token, "candidate", clear, 1)]
    assert reveal([token], ["bob", "eve"], [KEY]) == [Revealed(token, "unknown")]


def test_it_is_found_however_the_log_wrote_its_letters() -> None:
    token = masked("ALICE", "user")
    assert reveal([token], ["alice"], [KEY])[0].clear == "alice"


def test_another_tenants_key_reveals_nothing() -> None:
    theirs = masking_key(MASTERS, 1, TWO)
    token = masked("alice", "user")
    assert reveal([token], ["alice"], [theirs]) == [Revealed(token, "unknown")]
    assert reveal([masked("203.0.113.7")], [], [theirs])[0].clear != "203.0.113.7"


def test_after_a_change_of_keys_old_tokens_are_still_revealed() -> None:
    newer = masking_key(MASTERS, 2, ONE)
    token = masked("alice", "user")
    assert reveal([token], ["alice"], [newer, KEY]) == [Revealed(token, "candidate", "alice", 1)]
    address = masked("203.0.113.7")
    answers = reveal([address], [], [newer, KEY])
    assert {(answer.key, answer.clear == "203.0.113.7") for answer in answers} == {(2, False), (1, True)}


def test_secrets_have_no_answer() -> None:
    token = MASKER.tokens.of("secret", "hunter2")
    assert reveal([token], ["hunter2"], [KEY]) == [Revealed(token, "no token")]


@pytest.mark.parametrize("text", ["", "alice", "u-short", "[redacted:secrets]", "u-" + "0" * 18, "x" * 1000])
def test_what_is_no_token_is_called_so(text: str) -> None:
    assert reveal([text], ["alice"], [KEY]) == [Revealed(text, "no token")]


def test_questions_are_bounded() -> None:
    with pytest.raises(ValueError, match="at most"):
        reveal(["x"] * (MAX_TOKENS + 1), [], [KEY])
    with pytest.raises(ValueError, match="at most"):
        reveal([], ["x"] * (MAX_CANDIDATES + 1), [KEY])
