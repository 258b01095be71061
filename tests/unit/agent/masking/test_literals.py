"""What rules and indicators name in clear is found in masked records, or is said to be lost."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.masking import Masker, MaskingKey
from agent.masking.literals import LiteralTokens, Untranslatable, tokenised_literals
from detect.normalize import default_normalizer
from detect.record import LogRecord, RecordRef
from detect.sigma import NaiveMatcher, RuleSet, load_rule_set
from serve.masking.rules import tokenised_rules

KEY = MaskingKey(b"k" * 32)
MASKER = Masker(KEY)
TOKENS = LiteralTokens(MASKER)

RULE = """
title: Someone we look for
id: 2f3f6a4e-7d5a-4a57-9d6f-6b0d5f1c0a{number:02}
status: stable
level: low
logsource: {{product: windows}}
detection:
  sel:
    {item}
  condition: sel
"""


def rule_set(*items: str) -> RuleSet:
    loaded = load_rule_set(
        [(f"{number}.yml", RULE.format(number=number, item=item)) for number, item in enumerate(items)]
    )
    assert loaded.errors == ()
    return loaded


def matches(rules: RuleSet, fields: dict[str, object]) -> bool:
    """Whether a Windows event with this data matches, as the server reads it."""
    event = {"Event": {"System": {"EventID": 4624, "Channel": "Security", "Computer": "w"}, "EventData": fields}}
    body = orjson.loads(MASKER.values.text("", orjson.dumps(event).decode(), [])) if rules.digest in MASKED else event
    record = LogRecord(RecordRef(1, 0), 1, 1, 1, 1, 9, "", body, {}, {})
    return bool(NaiveMatcher(rules.rules).match(default_normalizer().normalize(record)))


MASKED: set[str] = set()


def masked_rules(rules: RuleSet) -> RuleSet:
    found = tokenised_rules(rules, MASKER)
    assert found.lost == ()
    MASKED.add(found.rules.digest)
    assert found.rules.digest != rules.digest
    return found.rules


@pytest.mark.parametrize(
    ("item", "positive", "negative"),
    [
        ("TargetUserName: alice", {"TargetUserName": "ALICE"}, {"TargetUserName": "bob"}),
        ("TargetUserName: root", {"TargetUserName": "root"}, {"TargetUserName": "bob"}),
        ("SubjectUserName|endswith: '$'", {"SubjectUserName": "WEB01$"}, {"SubjectUserName": "alice"}),
        ("User|contains: 'AUTHORI'", {"User": "NT AUTHORITY\\SYSTEM"}, {"User": "CORP\\alice"}),
        ("User|endswith: '\\alice'", {"User": "CORP\\alice"}, {"User": "CORP\\malice"}),
        ("User|startswith: 'CORP\\'", {"User": "CORP\\alice"}, {"User": "OTHER\\alice"}),
        ("TargetUserName: 'alic*er@corp.example'", {}, {"TargetUserName": "x"}),
        ("IpAddress: 203.0.113.7", {"IpAddress": "203.0.113.7"}, {"IpAddress": "203.0.113.8"}),
        ("IpAddress|cidr: 203.0.113.0/24", {"IpAddress": "203.0.113.7"}, {"IpAddress": "203.0.114.7"}),
        ("IpAddress|cidr: 10.0.0.0/8", {"IpAddress": "10.1.2.3"}, {"IpAddress": "11.1.2.3"}),
        ("IpAddress|cidr: 2001:db8::/32", {"IpAddress": "2001:db8::7"}, {"IpAddress": "2001:db9::7"}),
        ("IpAddress|startswith: '203.0.'", {"IpAddress": "203.0.113.7"}, {"IpAddress": "203.1.113.7"}),
        ("IpAddress|startswith: '192.168.'", {"IpAddress": "192.168.1.7"}, {"IpAddress": "192.169.1.7"}),
        ("IpAddress: ['127.0.0.1', '::1']", {"IpAddress": "::1"}, {"IpAddress": "1.2.3.4"}),
        (
            "CommandLine|contains: 'http://203.0.113.7/'",
            {"CommandLine": "curl http://203.0.113.7/x"},
            {"CommandLine": "curl http://203.0.113.8/x"},
        ),
        (
            "CommandLine: '*mail to=bob@corp.example*'",
            {"CommandLine": "mail to=bob@corp.example x"},
            {"CommandLine": "mail to=eve@corp.example x"},
        ),
    ],
)
def test_a_rule_finds_in_masked_events_what_it_finds_in_clear_ones(
    item: str, positive: dict[str, object], negative: dict[str, object]
) -> None:
    clear = rule_set(item)
    if not positive:
        assert tokenised_rules(clear, MASKER).lost  # a wildcard inside a name
        return
    for rules in (clear, masked_rules(clear)):
        assert matches(rules, positive)
        assert not matches(rules, negative)


@pytest.mark.parametrize(
    "item",
    [
        "TargetUserName|contains: 'malic'",
        "TargetUserName|startswith: 'alic'",
        "TargetUserName|re: 'ali.e'",
        "CommandLine|re: 'http://203\\.0\\.113\\.7/'",
        "CommandLine|contains: '203.0.'",
    ],
)
def test_a_literal_without_a_masked_form_is_named(item: str) -> None:
    [lost] = tokenised_rules(rule_set(item), MASKER).lost
    assert lost.rule_id.startswith("2f3f6a4e")
    assert lost.reason


def test_rules_that_name_nobody_are_the_same_rules() -> None:
    clear = rule_set("Image|endswith: '\\cmd.exe'", "CommandLine|contains|all: [whoami, ' /all']")
    found = tokenised_rules(clear, MASKER)
    assert found.changed == 0
    assert all(one is two for one, two in zip(found.rules.rules, clear.rules, strict=True))


@given(st.integers(0, 2**32 - 1), st.integers(0, 32), st.integers(0, 2**32 - 1))
def test_an_address_is_in_a_network_masked_exactly_if_it_is_in_clear(network: int, length: int, address: int) -> None:
    near = network ^ (address >> min(31, length))
    clear = ip_network((network, length), strict=False)
    token = ip_network(TOKENS.network(str(clear)))
    for one in (address, near):
        text = str(ip_address(one))
        assert (ip_address(MASKER.values.text("", text, [])) in token) == (ip_address(text) in clear)


def test_indicators_have_the_forms_that_records_have() -> None:
    def text(value: str) -> str:
        return MASKER.values.text("", value, [])

    assert TOKENS.indicator("ip", "203.0.113.7") == (text("203.0.113.7"),)
    assert TOKENS.indicator("cidr", "203.0.113.0/24") == (MASKER.tokens.addresses.network("203.0.113.0/24"),)
    assert TOKENS.indicator("email", "a@evil.example") == (text("a@evil.example"),)
    assert TOKENS.indicator("url", "http://203.0.113.7/x") == (text("http://203.0.113.7/x"),)
    assert TOKENS.indicator("user", "alice") == (MASKER.values.text("user", "alice", []),)
    clear, token = TOKENS.indicator("domain", "evil.example")
    assert clear == "evil.example"
    assert text("a@evil.example").endswith(f"@{token}")
    assert TOKENS.indicator("file_hash", "a" * 64) == ("a" * 64,)
    for kind, value in (("ip", "x"), ("cidr", "x"), ("email", "x"), ("user", "${x}")):
        with pytest.raises(Untranslatable):
            TOKENS.indicator(kind, value)  # type: ignore[arg-type]


def test_lists_of_values_and_what_they_lose() -> None:
    masked, odd = tokenised_literals(MASKER, "user", ["alice", "root"])
    assert masked == [MASKER.tokens.user("alice"), "root"]
    assert odd == []
