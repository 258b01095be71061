"""What is masked in lines of many kinds, what is left alone, and that nothing can stop it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.masking import Masker, MaskingKey

Masked = Callable[..., str]

NAMED = [
    "Failed password for invalid user {} from 203.0.113.7 port 22 ssh2",
    "Failed password for {} from 203.0.113.7 port 22 ssh2",
    "Accepted publickey for {} from 203.0.113.7 port 22 ssh2: ED25519 SHA256:abc",
    "Invalid user  {} from 203.0.113.7",
    "input_userauth_request: invalid user {} [preauth]",
    "Connection closed by authenticating user {} 203.0.113.7 port 22 [preauth]",
    "pam_unix(sshd:session): session opened for user {}(uid=1000) by (uid=0)",
    "pam_unix(su:session): session opened for user root by {}(uid=1000)",
    "pam_unix(sshd:auth): authentication failure; logname= uid=0 euid=0 tty=ssh ruser= rhost=203.0.113.7  user={}",
    "sudo:    {} : TTY=pts/0 ; PWD=/srv ; USER=root ; COMMAND=/bin/ls",
    "sudo[77]: {} : 3 incorrect password attempts ; TTY=pts/0 ; PWD=/srv ; USER=root ; COMMAND=/bin/ls",
    "su: (to root) {} on pts/0",
    "su[1]: Successful su for root by {}",
    "CRON[100]: ({}) CMD (run-parts /etc/cron.hourly)",
    "useradd[9]: new user: name={}, UID=1001, GID=1001",
    "userdel[9]: delete user '{}'",
    'type=USER_LOGIN msg=audit(1.2:3): pid=1 uid=0 acct="{}" exe="/usr/sbin/sshd" res=failed',
    'type=SYSCALL msg=audit(1.2:3): auid=1000 AUID="{}" UID="root"',
    '192.0.2.1 - {} [10/Oct/2000:13:55:36 -0700] "GET / HTTP/1.0" 200 1',
    "GET /login?user={}&next=/home HTTP/1.1",
    "C:\\Users\\{}\\AppData\\Local\\Temp\\x.exe",
    "cat /home/{}/.ssh/id_rsa",
    "arn:aws:iam::123456789012:user/{}",
    "Account Name:\t\t{}\r\nAccount Domain:\t\tCORP",
    "net user {} /add",
    "useradd -m {}",
    "<EventData><Data Name='TargetUserName'>{}</Data></EventData>",
    'Nov 14 22:00:00 h app[1]: {{"level":"info","user":"{}"}}',
    "CEF:0|v|p|1|100|login|3|suser={} src=203.0.113.7",
]


@pytest.mark.parametrize("line", NAMED)
def test_a_person_has_one_token_wherever_lines_name_them(line: str, masked: Masked) -> None:
    token = masked("alice.w", "user")
    found = masked(line.format("alice.w"))
    assert "alice" not in found
    assert token in found
    assert masked(line.format("root")).count("root") == line.format("root").count("root")


def test_an_address_has_one_token_wherever_it_stands(masked: Masked) -> None:
    token = masked("203.0.113.7")
    for text in ("{}", "from {}.", "[{}]", "{}:443", "http://{}/a", "({},x)", "src={} dst=1", '"{}"', "outside/{}(80)"):
        assert masked(text.format("203.0.113.7")) == text.format(token)
    assert masked("::ffff:203.0.113.7") == f"::ffff:{token}"


def test_an_address_with_a_port_as_tcpdump_writes_it(masked: Masked) -> None:
    one, two = masked("203.0.113.7"), masked("10.0.0.2")
    assert masked("IP 203.0.113.7.443 > 10.0.0.2.51000: Flags") == f"IP {one}.443 > {two}.51000: Flags"
    assert masked("oid 1.3.6.1.4 and 10.0.0.2.51000.7: x") == "oid 1.3.6.1.4 and 10.0.0.2.51000.7: x"


def test_version_six_in_lines(masked: Masked) -> None:
    token = masked("2001:db8::7")
    assert token != "2001:db8::7"
    for text in ("from {} port 22", "[{}]:443", "{}%eth0", "addr={},", "to {}: reset"):
        assert masked(text.format("2001:db8::7")) == text.format(token)
    assert masked("2001:0db8:0000:0000:0000:0000:0000:0007") == token


@pytest.mark.parametrize(
    "text",
    [
        "Mozilla/5.0 Chrome/120.0.0.0 Safari/537.36",
        "snmp 1.3.6.1.4.1.311 and 3.5.30729.4926",
        "Version=4.0.0.0, Culture=neutral",
        "agent v1.2.3.4 started",
        "[Convert]::FromBase64String($a); std::string a::",
        "link 00:1b:44:11:3a:b7 up, key 16:27:ac:a5:76:28:2d:36:63:1b:56:4d:eb:df:a6:48",
        "10:20:30 done in 00:00:01",
        "user@1000.service: Succeeded. getty@tty1.service",
        "number 4111111111111112 and order 9111111111111111",
        "GUID {92b6f6d2-9c4e-5f9b-4500-000000000700} and {4111-1111-1111-1111-1111}",
        "pam_unix: check pass; user unknown",
        "GET /home/index.html HTTP/1.1",
        "user=${jndi:ldap://evil/a}",
        "[System.Environment]::UserName; $user=Get-Content x; $userName = New-Object y",
        "Disconnected by user",
        "Invalid user  from 127.0.0.1",
        "PWD=/srv USER=root uid=1000",
    ],
)
def test_what_names_nobody_is_left_alone(text: str, masked: Masked) -> None:
    assert masked(text) == text


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("password=hunter2 next", "hunter2"),
        ("Pwd=hunter2;Server=x", "hunter2"),
        ('{"client_secret": "hunter2"}', "hunter2"),
        ("https://bob:hunter2@example.com/", "hunter2"),
        ("Authorization: Bearer abcdefghijklmnopqrstuvwxyz", "abcdefghijklmnopqrstuvwxyz"),
        ("id eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.sig-nature", "eyJzdWIiOiIxIn0"),
        ("key AKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPLE"),
        ("push ghp_0123456789abcdefghijABCDEFGHIJ012345", "ghp_0123"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIEow\n-----END RSA PRIVATE KEY-----", "MIIEow"),
        ("key tsk_0a1b2c_0123456789abcdefghijABCDEFGHIJ", "0123456789abcdef"),
        ("card 4111 1111 1111 1111.", "1111 1111"),
        ("card-4111111111111111", "4111"),
        ("amex 3782 822463 10005", "822463"),
        ("pan=5555-5555-5555-4444", "5555-4444"),
    ],
)
def test_secrets_are_gone(text: str, secret: str, masked: Masked) -> None:
    found = masked(text)
    assert secret not in found
    assert "[redacted:" in found


def test_what_is_found_once_is_not_masked_twice(masked: Masked) -> None:
    """A token may look like an address or a name: what was put in is never searched again."""
    assert masked("user=alice@203.0.113.7 from alice@203.0.113.7").count(masked("203.0.113.7")) == 2
    assert masked("password=4111111111111111") == "password=[redacted:secrets]"


def test_hits_name_the_rules_that_replaced_something(masker: Masker) -> None:
    hits: list[str] = []
    masker.values.text("", "sudo: alice : TTY=1 ; USER=root ; 203.0.113.7 127.0.0.1", hits)
    assert sorted(hits) == ["addresses", "sudo"]


@given(st.text(max_size=200))
def test_any_text_can_be_masked(text: str) -> None:
    masker = Masker(MaskingKey(bytes(32)))
    first = masker.values.text("", text, [])
    assert first == masker.values.text("", text, [])


PIECES = st.sampled_from(
    ["203.0.113.9", "2001:db8::9", "user=", "alice", "bob@corp.example", "::", ".", "=", '"', "'", "{", "}", "\\", " ",
     '"user":"x"', "from ", "for ", "invalid user ", "eyJ", "4111111111111111", "</a>", "<a>", "password=", "$", "\n"]
)  # fmt: skip


@given(st.lists(PIECES, max_size=30).map("".join))
def test_no_mixture_of_what_is_sought_leaves_an_address_that_stands_alone(text: str) -> None:
    masker = Masker(MaskingKey(bytes(32)))
    found = masker.values.text("", f"{text} 203.0.113.9 ", [])
    assert "203.0.113.9" not in f" {found} ".split(" ")[-2:]


@pytest.mark.parametrize(
    "unit",
    ["=", '="', "eyJ", "a@", "1", "1.", "::", ":a", "<a>", "user ", "invalid user ", "/home/", "\\Users\\", "4 ",
     "(to ", "-----BEGIN PRIVATE KEY-----", "tss_", "://", '"a":', "user=a ", "1.2.3.4 ", "x", "%40", "S-1-5-21-1"],
)  # fmt: skip
def test_long_hostile_texts_cost_no_more_than_their_length(unit: str, masked: Masked) -> None:
    """Each is a quarter of a megabyte; a quadratic search would run into the time limit of the suite."""
    masked(unit * (262_144 // len(unit)))
