"""A policy is understood whole or refused; the one that ships covers what it promises."""

from __future__ import annotations

import pytest

from agent.masking import Masker, MaskingKey, PolicyError, default_policy, parse_policy
from agent.masking.names import name_filter
from agent.masking.policy import FieldTable
from detect.link import SHARED_USERS


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", "the policy must be a mapping"),
        ("[]", "the policy must be a mapping"),
        ("version: 2", "version: 1"),
        ("version: 1\nfail: ajar", "fail must be one of"),
        ("version: 1\nspelling: x", "unknown keys: spelling"),
        ("version: 1\nfields: {}", "fields must be a list"),
        ("version: 1\nfields: [{name: a, action: token, match: []}]", "names no field"),
        ("version: 1\nfields: [{name: A b, action: token, match: [x]}]", "`name` must be"),
        ("version: 1\nfields: [{name: a, action: hide, match: [x]}]", "action must be one of"),
        ("version: 1\nfields: [{name: a, action: token, match: [true]}]", "list of texts"),
        ("version: 1\npatterns: [{name: a, kind: phone, action: token}]", "kind must be one of"),
        (
            "version: 1\npatterns: [{name: a, kind: email, action: token}, {name: b, kind: email, action: keep}]",
            "twice",
        ),
        ("version: 1\ntexts: [{name: a, needs: '', regex: '(?P<user>a)', action: token}]", "`needs`"),
        ("version: 1\ntexts: [{name: a, needs: x, regex: '(?P<user>a', action: token}]", "is wrong"),
        ("version: 1\ntexts: [{name: a, needs: x, regex: 'a', action: token}]", "groups must be named"),
        ("version: 1\ntexts: [{name: a, needs: x, regex: '(?P<who>a)', action: token}]", "groups must be named"),
        ("version: 1\nkeep_users: [root, null]", "list of texts"),
        ("a: [", "no YAML"),
        ("!!python/object/apply:os.system ['true']", "no YAML"),
    ],
)
def test_a_policy_that_is_not_understood_is_refused_with_its_place(text: str, place: str) -> None:
    with pytest.raises(PolicyError, match=place):
        parse_policy(text)


def test_the_first_rule_that_fits_a_name_or_the_end_of_its_path_counts() -> None:
    policy = parse_policy(
        "version: 1\nfields:\n"
        "  - {name: first, action: keep, match: ['app.user']}\n"
        "  - {name: second, kind: user, action: token, match: [user, '*name']}\n"
    )
    table = FieldTable(policy.fields)

    def found(path: str) -> str | None:
        rule = table.find(path)
        return None if rule is None else rule.name

    assert found("app.user") == found("x.App.User") == "first"
    assert found("user") == found("web.user") == found("Host.SurName") == "second"
    assert found("users") is None
    assert found("user.id") is None


def test_a_policys_digest_is_of_its_text() -> None:
    one, other = parse_policy("version: 1"), parse_policy("version: 1\nfail: open")
    assert one.digest == parse_policy("version: 1").digest != other.digest
    assert len(default_policy().digest) == 64


def test_a_bracket_in_a_name_is_only_a_bracket() -> None:
    table = FieldTable(parse_policy("version: 1\nfields: [{name: a, action: keep, match: ['x[0]*']}]").fields)
    assert table.find("x[0]y") is not None
    assert table.find("x0y") is None


def test_the_shipped_policy_fails_closed_and_keeps_the_servers_shared_names() -> None:
    policy = default_policy()
    assert policy.fail == "closed"
    keeps = name_filter(policy.keep_users)
    assert all(keeps(name) for name in SHARED_USERS)


@pytest.mark.parametrize(
    "field",
    ["user", "User", "username", "user.name", "enduser.id", "SubjectUserName", "TargetUserName", "SourceUser",
     "userIdentity.userName", "acct", "Detection User", "samAccountName", "k8s.user.username", "suser"],
)  # fmt: skip
def test_fields_that_name_people_are_masked(field: str) -> None:
    masker = Masker(MaskingKey(bytes(32)))
    assert masker.values.text(field, "alice", []).startswith("u-")


@pytest.mark.parametrize(
    "field", ["user_agent", "userAgent", "UserAgent.name", "service", "host.name", "Image", "users"]
)
def test_fields_that_do_not_are_not(field: str) -> None:
    masker = Masker(MaskingKey(bytes(32)))
    assert masker.values.text(field, "alice", []) == "alice"


def test_each_action_of_each_kind() -> None:
    masker = Masker(
        MaskingKey(bytes(32)),
        parse_policy(
            "version: 1\nfields:\n"
            "  - {name: h, kind: host, action: token, match: [host]}\n"
            "  - {name: d, kind: domain, action: token, match: [domain]}\n"
            "  - {name: v, kind: value, action: token, match: [case]}\n"
            "  - {name: a, kind: address, action: token, match: [peer]}\n"
            "  - {name: e, kind: email, action: token, match: [mail]}\n"
            "  - {name: k, action: keep, match: [free]}\n"
            "  - {name: r, action: redact, match: [gone]}\n"
            "patterns: [{name: addresses, kind: address, action: redact}]\n"
        ),
    )

    def of(field: str, text: str) -> str:
        return masker.values.text(field, text, [])

    assert of("host", "web-1.corp.example").startswith("h-") and of("host", "web-1.corp.example").endswith(".example")
    assert of("domain", "corp.example").startswith("d-") and of("domain", "corp.example").endswith(".example")
    assert of("case", "anything at all").startswith("v-")
    assert of("peer", "203.0.113.7") == of("other", "203.0.113.7") == "[redacted:addresses]"
    assert of("mail", "a@b.example").startswith("u-")
    assert of("free", "203.0.113.7") == "203.0.113.7"
    assert of("gone", "x") == "[redacted:r]"
    assert masker.values.number("case", 12, []) == of("case", "12")


def test_odd_names_are_searched_or_replaced_as_the_policy_says() -> None:
    text = "version: 1\nodd_names: {}\nfields: [{{name: u, kind: user, action: token, match: [user]}}]"
    attack = "${jndi:ldap://x}"
    for choice, kept in (("keep", True), ("token", False)):
        masker = Masker(MaskingKey(bytes(32)), parse_policy(text.format(choice)))
        assert (masker.values.text("user", attack, []) == attack) is kept
