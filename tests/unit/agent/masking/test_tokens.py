"""The same name has the same token everywhere, and nobody without the key can find out which."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.masking.key import MaskingKey, MaskingKeyError, read_key
from agent.masking.policy import default_policy
from agent.masking.tokens import Tokens
from detect.link import SHARED_USERS, is_personal
from detect.normalize.entities import entity

KEY = MaskingKey(b"k" * 32)
TOKENS = Tokens(KEY, default_policy().keep_users)
NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9._-]{3,20}[A-Za-z0-9]", fullmatch=True)


@given(NAMES, NAMES)
def test_tokens_are_equal_where_names_are(one: str, two: str) -> None:
    assert (TOKENS.of("user", one) == TOKENS.of("user", two)) == (one == two)


@given(NAMES)
def test_what_differs_only_in_case_has_tokens_that_differ_only_in_case(name: str) -> None:
    upper, lower = TOKENS.of("user", name.upper()), TOKENS.of("user", name.lower())
    assert upper.lower() == lower.lower()


def test_a_token_is_a_name_of_84_bits_without_words_in_it() -> None:
    tokens = [TOKENS.of("user", f"user-{number}") for number in range(2000)]
    assert len(set(tokens)) == 2000
    assert all(len(token) == 19 and token[:2] == "u-" for token in tokens)
    assert not set("".join(token[2:] for token in tokens).lower()) & set("aeiou")
    assert 31**17 > 2**84


def test_a_token_is_still_a_person_to_the_server() -> None:
    """It must weigh in grouping what the name weighed, and survive the server's reading of names."""
    token = TOKENS.of("user", "alice")
    assert is_personal(token)
    found = entity("user", token)
    assert found is not None
    assert found.value == token


def test_no_guess_without_the_key_meets_a_token() -> None:
    """The dictionary attack: another key, however near, has none of the tokens."""
    tokens = {TOKENS.of("user", f"user{number}") for number in range(500)}
    for wrong in (b"k" * 31 + b"l", b"K" * 32, bytes(32)):
        theirs = Tokens(MaskingKey(wrong), ())
        assert not tokens & {theirs.of("user", f"user{number}") for number in range(500)}


def test_kinds_do_not_share_tokens() -> None:
    assert TOKENS.of("user", "web")[2:] != TOKENS.of("host", "web")[2:]


@pytest.mark.parametrize("name", [*sorted(SHARED_USERS), "SYSTEM", "LOCAL SERVICE", "NT AUTHORITY\\SYSTEM", "WEB01$"])
def test_names_that_every_machine_has_are_kept(name: str) -> None:
    assert TOKENS.user(name) == name


def test_a_windows_domain_stays_before_the_token() -> None:
    assert TOKENS.user("CORP\\alice") == "CORP\\" + TOKENS.of("user", "alice")
    assert TOKENS.user("CORP\\\\alice") == "CORP\\\\" + TOKENS.of("user", "alice")


def test_an_email_address_keeps_its_shape_and_its_user_the_users_token() -> None:
    email = TOKENS.user("alice@mail.corp.example")
    assert email is not None
    user, _, domain = email.partition("@")
    assert user == TOKENS.user("alice")
    assert domain.endswith(TOKENS.domain("corp.example"))
    assert domain.count(".") == 2
    assert domain.endswith(".example")


@given(st.lists(st.from_regex(r"[a-z][a-z0-9-]{0,8}[a-z]", fullmatch=True), min_size=2, max_size=5))
def test_a_domain_ends_with_the_token_of_what_it_ended_with(labels: list[str]) -> None:
    whole, end = ".".join(labels), ".".join(labels[1:])
    assert TOKENS.domain(whole).endswith(f".{TOKENS.domain(end)}")


def test_equal_labels_of_different_domains_differ() -> None:
    assert TOKENS.domain("mail.one.example").split(".")[0] != TOKENS.domain("mail.two.example").split(".")[0]


@pytest.mark.parametrize(
    "text", ["${jndi:ldap://x/a}", "' or 1=1 --", "<script>", "a;id", "$(id)", "../../etc/passwd", "", "a|b", "x" * 300]
)
def test_what_no_account_system_takes_is_no_name(text: str) -> None:
    assert TOKENS.user(text) is None


def test_a_sid_keeps_its_form_its_domain_and_its_well_known_ids() -> None:
    one = TOKENS.sid("S-1-5-21-1004336348-1177238915-682003330-1104")
    two = TOKENS.sid("S-1-5-21-1004336348-1177238915-682003330-500")
    assert one is not None and two is not None
    assert one.rpartition("-")[0] == two.rpartition("-")[0] == TOKENS.sid("S-1-5-21-1004336348-1177238915-682003330")
    assert two.endswith("-500")
    assert "1004336348" not in one and not one.endswith("-1104")
    assert TOKENS.sid("S-1-5-18") is None
    assert TOKENS.user("S-1-5-18") == "S-1-5-18"


def test_a_key_is_read_back_from_its_text(tmp_path: Path) -> None:
    file = tmp_path / "masking.key"
    file.write_text(KEY.text + "\n")
    file.chmod(0o600)
    assert read_key(file) == KEY
    assert KEY.secret.hex() not in repr(KEY) and KEY.text not in repr(KEY)
    file.chmod(0o640)
    with pytest.raises(MaskingKeyError, match="chmod 600"):
        read_key(file)
    with pytest.raises(MaskingKeyError, match="cannot read"):
        read_key(tmp_path / "none")


@pytest.mark.parametrize(
    "text", ["", "tsm_1_", "tsm_0_" + "A" * 43, "tss_1_" + "A" * 43, KEY.text[:-1], KEY.text + "A"]
)
def test_a_damaged_key_is_refused(text: str) -> None:
    with pytest.raises(MaskingKeyError):
        MaskingKey.parse(text)
