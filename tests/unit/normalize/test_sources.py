"""Where a record's parts come from: the line, the collector's attributes, the resource."""

from __future__ import annotations

from typing import Any

import pytest

from detect.normalize import default_normalizer
from detect.normalize.entities import canonical_ip, entity
from detect.record import Entity, LogRecord, Logsource, NormalizedRecord, RecordRef

NORMALIZER = default_normalizer()


def view(
    body: Any, attributes: dict[str, Any] | None = None, resource: dict[str, Any] | None = None
) -> NormalizedRecord:
    return NORMALIZER.normalize(LogRecord(RecordRef(1, 0), 1, 1, 1, 1, 0, "", body, attributes or {}, resource or {}))


def test_the_host_that_a_line_names_stands_above_the_collectors_own() -> None:
    line = "Nov 22 09:14:03 web01 sshd[4211]: Failed password for root from 203.0.113.9 port 1 ssh2"
    assert view(line, resource={"host.name": "relay"}).entity("host") == "web01"
    assert view("hello", resource={"host.name": "Relay"}).entity("host") == "relay"


def test_a_message_without_envelope_is_read_by_the_program_in_its_attributes() -> None:
    seen = view(
        "Failed password for root from 203.0.113.9 port 1 ssh2",
        {"appname": "sshd", "proc_id": 7},
        {"host.name": "web01"},
    )
    assert seen.logsource == Logsource("linux", "", "sshd")
    assert (seen.outcome, seen.fields["procid"], seen.entity("ip", "source")) == ("failure", "7", "203.0.113.9")


def test_a_journald_body_is_read_like_its_line() -> None:
    seen = view(
        {
            "MESSAGE": "Accepted password for ann from 10.0.0.9 port 1 ssh2",
            "SYSLOG_IDENTIFIER": "sshd",
            "_HOSTNAME": "db1",
        }
    )
    assert (seen.activity, seen.outcome, seen.entity("host"), seen.entity("user")) == (
        "authentication",
        "success",
        "db1",
        "ann",
    )


@pytest.mark.parametrize(
    ("name", "logsource"),
    [
        ("auth.log", Logsource("linux", "", "auth")),
        ("/var/log/secure", Logsource("linux", "", "auth")),
        ("syslog.1", Logsource("linux", "", "syslog")),
        ("nginx/site-access.log", Logsource("", "webserver", "")),
        ("other.log", Logsource()),
    ],
)
def test_a_line_of_no_known_shape_takes_its_logsource_from_the_name_of_its_file(
    name: str, logsource: Logsource
) -> None:
    assert view("what is this", {"log.file.path": name}).logsource == logsource


def test_the_senders_own_attributes_stand_beside_the_parsed_fields_and_never_replace_them() -> None:
    line = "Nov 22 09:14:03 web01 sshd[4211]: Failed password for root from 203.0.113.9 port 1 ssh2"
    fields = view(line, {"user": "forged", "mark": "m-1", "log.file.name": "auth.log"}).fields
    assert (fields["user"], fields["mark"]) == ("root", "m-1")
    assert "log.file.name" not in fields


def test_a_json_line_is_flattened_and_its_own_message_is_the_message() -> None:
    seen = view(
        '{"msg":"login ok","user":{"name":"ann"},"tags":["a","b"],"parts":[{"n":1},{"n":2}],"client_ip":"10.0.0.1:5"}'
    )
    assert seen.message == "login ok"
    assert seen.fields["user.name"] == "ann"
    assert seen.fields["tags"] == ["a", "b"]
    assert seen.fields["parts.n"] == [1, 2]
    assert seen.entities == (Entity("user", "ann", "actor"), Entity("ip", "10.0.0.1", "source"))


def test_cloudtrail_and_kubernetes_audit_are_known_by_their_shape() -> None:
    trail = view(
        {
            "eventSource": "signin.amazonaws.com",
            "eventName": "ConsoleLogin",
            "awsRegion": "eu-central-1",
            "sourceIPAddress": "203.0.113.9",
            "userIdentity": {"type": "IAMUser", "userName": "ann", "arn": "arn:aws:iam::111111111111:user/ann"},
            "responseElements": {"ConsoleLogin": "Failure"},
        }
    )
    assert trail.logsource == Logsource("aws", "", "cloudtrail")
    assert (trail.activity, trail.outcome, trail.entity("user")) == ("authentication", "failure", "ann")
    audit = view(
        {
            "kind": "Event",
            "apiVersion": "audit.k8s.io/v1",
            "verb": "create",
            "user": {"username": "eve"},
            "sourceIPs": ["203.0.113.9"],
            "objectRef": {"resource": "pods", "subresource": "exec"},
            "responseStatus": {"code": 403},
        }
    )
    assert audit.logsource == Logsource("kubernetes", "application", "audit")
    assert (audit.outcome, audit.fields["objectRef.resource"], audit.entity("ip")) == ("failure", "pods", "203.0.113.9")


def test_a_line_with_nul_has_a_message_that_the_database_can_hold() -> None:
    assert view("a\x00b").message == "a\ufffdb"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("203.0.113.9:4711", "203.0.113.9"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("[2001:DB8::0:1]:443", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("::", ""),
        ("host.example.org", ""),
        ("1.2.3", ""),
    ],
)
def test_addresses_have_one_form(text: str, address: str) -> None:
    assert canonical_ip(text) == address


@pytest.mark.parametrize("value", ["-", "", "(null)", "SYSTEM", "x" * 513, "a\x00b"])
def test_a_placeholder_is_no_user(value: str) -> None:
    assert entity("user", value) is None
