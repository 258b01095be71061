"""What rules and indicators name in clear is found in masked records, or is said to be lost."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.rule_check import check_set
from actors.rule_masking import RecordMasks, forms_of, masked_set, masked_sources
from agent.masking import Masker, MaskingKey
from agent.masking.literals import LiteralTokens, Untranslatable
from detect.normalize import default_normalizer
from detect.record import LogRecord, RecordRef
from detect.sigma import NaiveMatcher, RuleSet, load_rule_set, pack_bytes, unpack
from detect.sigma.other_forms import LiteralForms, with_forms

KEY = MaskingKey(b"k" * 32)
OLDER = MaskingKey(b"o" * 32, 2)
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
OFFICE = """
  office: {TargetUserName: alice}
  condition: sel and not office
"""


def rule_set(*items: str) -> RuleSet:
    loaded = load_rule_set(
        [(f"{number}.yml", RULE.format(number=number, item=item)) for number, item in enumerate(items)]
    )
    assert loaded.errors == ()
    return loaded


def matches(rules: RuleSet, fields: dict[str, object], key: MaskingKey | None = None) -> bool:
    """Whether a Windows event with this data matches, as the server reads it; with a key from a host that masks."""
    event = {"Event": {"System": {"EventID": 4624, "Channel": "Security", "Computer": "w"}, "EventData": fields}}
    body = event if key is None else orjson.loads(Masker(key).values.text("", orjson.dumps(event).decode(), []))
    record = LogRecord(RecordRef(1, 0), 1, 1, 1, 1, 9, "", body, {}, {})
    return bool(NaiveMatcher(rules.rules).match(default_normalizer().normalize(record)))


def forms(rules: RuleSet, *keys: MaskingKey, clear: bool = False) -> list[LiteralForms]:
    return forms_of(rules, RecordMasks(keys or (KEY,), clear, "test"))


def lost(rules: RuleSet) -> list[tuple[str | None, str]]:
    """The rules that are said to miss what they look for, with the reason."""
    assert [entry.lost for entry in forms(rules) if entry.lost]
    return [(warning.rule_id, warning.reason) for warning in with_forms(rules, forms(rules)).warnings]


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
        assert lost(clear)  # a wildcard inside a name
        return
    found = forms(clear)
    assert not any(entry.lost for entry in found)
    for rules, key in ((clear, None), (with_forms(clear, found), KEY)):
        assert matches(rules, positive, key)
        assert not matches(rules, negative, key)


def test_records_of_every_key_and_of_doors_that_mask_nothing_are_found() -> None:
    clear = rule_set("TargetUserName: alice", "IpAddress: 203.0.113.7", "TargetUserName: 1234567")
    both = with_forms(clear, forms(clear, KEY, OLDER))
    for field, value in (("TargetUserName", "alice"), ("IpAddress", "203.0.113.7"), ("TargetUserName", "1234567")):
        for key in (None, KEY, OLDER):
            assert matches(both, {field: value}, key), (value, key)
        assert not matches(with_forms(clear, forms(clear, OLDER)), {field: value}, KEY), "tokens of one key only"


def test_what_is_left_out_by_name_is_left_out_in_every_form() -> None:
    clear = load_rule_set(
        [("0.yml", RULE.format(number=0, item="EventID: 4624").replace("condition: sel", OFFICE.strip()))]
    )
    assert clear.errors == ()
    masked = with_forms(clear, forms(clear))
    for key in (None, KEY):
        assert not matches(masked, {"TargetUserName": "alice"}, key)
        assert matches(masked, {"TargetUserName": "bob"}, key)


def test_networks_are_sought_in_clear_only_while_some_records_are_clear() -> None:
    """The tokens of one network are addresses of another, so the clear literal would mean that other one too."""
    clear = rule_set("IpAddress|cidr: 10.1.0.0/16", "IpAddress|startswith: '10.1.'")
    strict, mixed = (with_forms(clear, forms(clear, clear=some)) for some in (False, True))
    for rules, found_clear in ((strict, False), (mixed, True)):
        assert matches(rules, {"IpAddress": "10.1.2.3"}, KEY)
        assert matches(rules, {"IpAddress": "10.1.2.3"}) == found_clear
    taken = next(
        address
        for address in (f"10.{second}.2.3" for second in range(256) if second != 1)
        if MASKER.values.text("", address, []).startswith("10.1.")
    )
    assert not matches(strict, {"IpAddress": taken}, KEY)


def test_a_masked_set_is_a_pack_that_loads_alike_everywhere() -> None:
    """Who loads it needs no key; and the key is nowhere in it."""
    sources = [("own/0.yml", RULE.format(number=0, item="TargetUserName: alice"))]
    masks = RecordMasks((KEY,), False, "1 policy")
    pack, catalog = masked_set(pack_bytes(sources), masks)
    assert masked_set(pack_bytes(sources), masks).pack == pack
    assert masked_set(pack, masks).pack == pack, "what it is made of anew"
    nothing = load_rule_set([])
    assert masked_sources(sources, masks, nothing) == unpack(pack)
    later = RecordMasks((OLDER,), False, "2 policy")
    assert masked_sources(unpack(pack), later, nothing) == unpack(pack), "what has forms keeps them"
    assert masked_sources(sources, masks, load_rule_set(sources)) == sources, "what was there before had none"
    loaded = load_rule_set(unpack(pack))
    assert loaded.errors == ()
    assert matches(loaded, {"TargetUserName": "alice"}, KEY)
    assert check_set(pack) == catalog
    assert catalog.digest == loaded.digest != load_rule_set(sources).digest
    assert masked_set(pack_bytes(sources), RecordMasks((OLDER,), False, "2 policy")).catalog.digest != loaded.digest
    text = str(unpack(pack))
    assert KEY.text not in text
    assert KEY.secret.hex() not in text


def test_a_set_that_names_nobody_is_the_same_set() -> None:
    sources = [("own/0.yml", RULE.format(number=0, item="CommandLine|contains: whoami"))]
    masked = masked_set(pack_bytes(sources), RecordMasks((KEY,), False, "1 policy"))
    assert masked.pack == pack_bytes(sources)
    assert masked.catalog == check_set(pack_bytes(sources))


def test_damaged_forms_are_an_error_of_the_set() -> None:
    loaded = load_rule_set([("own/0.yml", RULE.format(number=0, item="User: alice")), ("!overlay/forms.json", "[{}]")])
    assert [error.path for error in loaded.errors] == ["!overlay/forms.json"]
    assert len(loaded.rules) == 1


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
    [(rule_id, reason)] = lost(rule_set(item))
    assert rule_id == "2f3f6a4e-7d5a-4a57-9d6f-6b0d5f1c0a00"
    assert reason.startswith("masked records never hold what it looks for: ")


def test_rules_that_name_nobody_are_the_same_rules() -> None:
    clear = rule_set("Image|endswith: '\\cmd.exe'", "CommandLine|contains|all: [whoami, ' /all']")
    assert forms(clear) == []
    assert with_forms(clear, []) is clear


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
