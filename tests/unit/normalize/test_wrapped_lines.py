"""Lines inside the objects that shippers make of them, and syslog without stamp and host, are known like any other."""

from __future__ import annotations

import json
from typing import Any

import pytest

from detect.normalize import default_normalizer
from detect.record import LogRecord, NormalizedRecord, RecordRef

NORMALIZER = default_normalizer()
FAILED = "Failed password for root from 203.0.113.7 port 38926 ssh2"


def normalized(body: Any, **resource: str) -> NormalizedRecord:
    return NORMALIZER.normalize(LogRecord(RecordRef(1, 0), 0, 0, 0, 0, 0, "", body, {}, dict(resource)))


@pytest.mark.parametrize(
    ("shipper", "document"),
    [
        ("filebeat", {"message": f"Dec 10 06:55:48 web-1 sshd[24200]: {FAILED}", "host": {"name": "shipper"}}),
        ("fluent bit", {"log": f"<38>Dec 10 06:55:48 web-1 sshd[24200]: {FAILED}\n"}),
        ("vector's syslog source", {"appname": "sshd", "procid": 24200, "hostname": "web-1", "message": FAILED}),
        ("ecs", {"process": {"name": "sshd", "pid": 24200}, "host": {"name": "web-1"}, "message": FAILED}),
    ],
)
@pytest.mark.parametrize("as_text", [True, False])
def test_a_shippers_object_hides_no_line(shipper: str, document: dict[str, Any], as_text: bool) -> None:
    record = normalized(json.dumps(document) if as_text else document)
    assert (record.logsource.service, record.activity, record.outcome) == ("sshd", "authentication", "failure"), shipper
    assert (record.entity("ip"), record.entity("host"), record.entity("user")) == ("203.0.113.7", "web-1", "root")
    assert record.fields["procid"] == "24200"
    assert record.message.rstrip() in (document.get("message"), document.get("log", "").rstrip())


def test_the_objects_own_fields_stay_beside_those_of_the_line() -> None:
    line = '203.0.113.7 - - [10/Dec/2025:06:55:48 +0000] "GET /etc/passwd HTTP/1.1" 404 12 "-" "curl/8"'
    record = normalized(json.dumps({"message": line, "fields": {"env": "prod"}, "host": "proxy-1"}))
    assert (record.logsource.category, record.fields["sc-status"]) == ("webserver", 404)
    assert (record.fields["fields.env"], record.entity("host")) == ("prod", "proxy-1")


def test_an_audit_line_in_an_object_is_known() -> None:
    line = 'type=USER_LOGIN msg=audit(1765349748.123:77): pid=1 acct="root" addr=203.0.113.7 res=failed'
    record = normalized(json.dumps({"message": line, "host": {"name": "web-1"}}))
    assert (record.logsource.service, record.outcome, record.entity("host")) == ("auditd", "failure", "web-1")


def test_an_object_whose_message_is_no_line_stays_what_it_is() -> None:
    record = normalized(json.dumps({"level": "info", "msg": "user logged in", "user": "bob"}))
    assert (record.message, record.entity("user"), record.logsource.service) == ("user logged in", "bob", "")


@pytest.mark.parametrize("tag", ["sshd[24200]: ", "/usr/sbin/sshd[24200]: "])
def test_syslog_with_a_tag_only_takes_its_host_from_the_resource(tag: str) -> None:
    record = normalized(f"<38>{tag}{FAILED}", **{"host.name": "192.0.2.9"})
    assert (record.logsource.service, record.outcome) == ("sshd", "failure")
    assert (record.entity("host"), record.entity("ip")) == ("192.0.2.9", "203.0.113.7")


@pytest.mark.parametrize("line", ["<38>", "<38>no tag here", "<tag>: text", "<9999>tag: text"])
def test_what_only_looks_like_a_tag_is_none(line: str) -> None:
    assert "appname" not in normalized(line).fields
