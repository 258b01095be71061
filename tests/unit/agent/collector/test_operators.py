"""What the real collector makes of the chains: masked before it is parsed, or in every field that goes on."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from agent.collector import ContainerSource, FileSource, HostProfile, Mask, SyslogSource
from agent.collector.host_config import render_host_profile
from agent.collector.operators import journal_operators, syslog_operators
from agent.collector.profile import SECRET_MASKS, Source
from tests.unit.agent.collector.conftest import Chain, append

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"
SECRET = "hunter2-Zx9"  # what must never arrive


def profile(chain: Chain, source: Source, *masks: Mask) -> HostProfile:
    return HostProfile(
        "web-1", (source,), (*SECRET_MASKS, *masks), endpoint=chain.endpoint, queue="none", poll_milliseconds=50
    )


def files(chain: Chain, **more: Any) -> FileSource:
    return FileSource("app", (f"{chain.logs}/*.log",), start_at="beginning", **more)


def with_operators(chain: Chain, operators: list[dict[str, Any]]) -> str:
    """The small build has neither journald nor syslog: their chains behind a parser that does the same."""
    document = yaml.safe_load(render_host_profile(profile(chain, files(chain)), "small"))
    document["receivers"]["filelog/app"]["operators"] = operators
    return yaml.safe_dump(document)


def field(record: dict[str, Any], name: str) -> str | None:
    """An attribute of a record, or a key of a body that is a map."""
    entries = record.get("attributes", []) + record["body"].get("kvlistValue", {}).get("values", [])
    return next((entry["value"].get("stringValue") for entry in entries if entry["key"] == name), None)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (f"login password={SECRET} user=a", "login password=[masked] user=a"),
        (f"DB_PASSWORD: '{SECRET}'", "DB_PASSWORD: '[masked]'"),
        (f'{{"user":"a","api_key":"{SECRET}","n":1}}', '{"user":"a","api_key":"[masked]","n":1}'),
        (f"Authorization: Bearer {SECRET}", "Authorization: Bearer [masked]"),
        (f"id {JWT} end", "id [masked] end"),
        (f"GET https://bob:{SECRET}@example.org/x", "GET https://bob:[masked]@example.org/x"),
        (f"card {SECRET} of $HOME ${{env:HOME}}", "card <card> of $HOME ${env:HOME}"),
        ("Failed password for root from 203.0.113.9", "Failed password for root from 203.0.113.9"),
        ("  PWD=/root ; USER=root ; COMMAND=/bin/sh", "  PWD=/root ; USER=root ; COMMAND=/bin/sh"),
    ],
)
def test_the_masks_themselves(line: str, expected: str) -> None:
    """By Python's reader of the same patterns; that the collector's agrees is what the next test shows."""
    for mask in (*SECRET_MASKS, Mask("card", "hunter2-Zx9 of", "<card> of")):
        line = re.sub(mask.pattern, re.sub(r"\$([0-9]+)", r"\\g<\1>", mask.replacement), line)
    assert line == expected


def test_a_line_of_a_file_is_masked_and_otherwise_untouched(chain: Chain) -> None:
    lines = {
        f"login password={SECRET} user=a": "login password=[masked] user=a",
        f"id {JWT} end": "id [masked] end",
        f"GET https://bob:{SECRET}@example.org/x": "GET https://bob:[masked]@example.org/x",
        f"-----BEGIN RSA PRIVATE KEY-----MIIB{'A' * 40}==": "[masked private key]",
        "card 4111 of $HOME ${env:HOME}": "card <card> of $HOME ${env:HOME}",
        "  Failed password for root from 203.0.113.9": "  Failed password for root from 203.0.113.9",
    }
    expected = set(lines.values())
    with chain.collector(profile(chain, files(chain), Mask("card", r"\b4[0-9]{3}\b", "<card>"))):
        append(chain.logs / "app.log", *lines)
        got = chain.wait_lines(expected)
    assert set(got) == expected
    assert SECRET not in chain.everything()


def test_entries_of_several_lines_stay_whole(chain: Chain) -> None:
    entry = f"2026-03-01 ERROR boom\n    at one(password={SECRET}, 1)\n    at two()"
    with chain.collector(profile(chain, files(chain, multiline_start=r"^\d{4}-\d{2}-\d{2} "))):
        append(chain.logs / "app.log", entry, "2026-03-01 INFO next")
        got = chain.wait_lines({"2026-03-01 INFO next"})
    assert set(got) == {entry.replace(SECRET, "[masked]"), "2026-03-01 INFO next"}


def test_containers_are_masked_before_and_after_they_are_unwrapped(chain: Chain) -> None:
    pod = chain.logs / "pods" / "shop_cart-1_49cc7c1fd3702c40b2686ea7486091d6" / "cart"
    pod.mkdir(parents=True)
    pods = f"{chain.logs}/pods/*/*/*.log"
    source = ContainerSource(include=(pods,), start_at="beginning", multiline_start="^(GET|at)")
    docker = {"log": f'say {{"password":"{SECRET}"}}\n', "stream": "stderr", "time": "2026-03-01T08:31:20.5Z"}
    with chain.collector(profile(chain, source)):
        append(pod / "0.log", json.dumps(docker | {"log": "at docker " + str(docker["log"])}))
        append(
            pod / "1.log",
            # The secret is in two parts, so that only the whole line shows it.
            "2026-03-01T10:27:25.813799277Z stdout P GET /login?passwo",
            f"2026-03-01T10:27:25.813799277Z stdout F rd={SECRET} done",
            "2026-03-01T10:27:26.813799277Z stdout F   second line",
            "2026-03-01T10:27:27.813799277Z stdout F GET /next",
        )
        records = chain.wait_records(3)
    bodies = {record["body"]["stringValue"] for record in records}
    assert bodies == {
        'at docker say {"password":"[masked]"}',
        "GET /login?password=[masked] done\n  second line",
        "GET /next",
    }
    assert SECRET not in chain.everything()
    resources = [entry["key"] for record in records for entry in record["resource"]["attributes"]]
    assert {"host.name", "k8s.pod.name", "k8s.namespace.name"} <= set(resources)


def test_of_a_syslog_line_the_masked_text_and_numbers_go_on(chain: Chain) -> None:
    line = f'<165>1 2026-03-01T10:00:00Z web-9 app 77 ID1 [x@1 token="{SECRET}"] password={SECRET} sent'
    octets = f"{len(line)} {line}"
    source = SyslogSource("devices", "127.0.0.1:5514", octet_counting=True)
    parser = {"type": "syslog_parser", "protocol": "rfc5424", "enable_octet_counting": True}
    operators = [parser, *syslog_operators(source, SECRET_MASKS)]
    with chain.collector(with_operators(chain, operators)):
        append(chain.logs / "app.log", octets, "no syslog at all password=" + SECRET)
        records = chain.wait_records(2)
    bodies = {record["body"]["stringValue"] for record in records}
    masked = line.replace(SECRET, "[masked]")
    assert bodies == {masked, "no syslog at all password=[masked]"}
    assert SECRET not in chain.everything()
    parsed = next(record for record in records if record["body"]["stringValue"] == masked)
    assert {entry["key"] for entry in parsed["attributes"]} == {"facility", "priority"}


def test_without_the_last_step_the_secret_would_stand_in_an_attribute(chain: Chain) -> None:
    """The fault that the chain is there against: masking the body alone."""
    line = f"<165>1 2026-03-01T10:00:00Z web-9 app 77 ID1 - password={SECRET} sent"
    chained = syslog_operators(SyslogSource("devices", "127.0.0.1:5514"), SECRET_MASKS)
    only_body = [operator for operator in chained if operator["type"] != "retain"]
    with chain.collector(with_operators(chain, [{"type": "syslog_parser", "protocol": "rfc5424"}, *only_body])):
        append(chain.logs / "app.log", line)
        chain.wait_records(1)
    assert SECRET in chain.everything()


def test_of_the_journal_known_fields_go_on_whatever_their_form(chain: Chain) -> None:
    entries: list[dict[str, Any]] = [
        {"MESSAGE": f"password={SECRET} used", "_CMDLINE": f"/bin/app --key {SECRET}", "_PID": "7", "OWN": SECRET},
        {"MESSAGE": [f"token={SECRET} a", "b"], "SYSLOG_IDENTIFIER": f"x password={SECRET}", "_COMM": "app"},
        {"SYSLOG_IDENTIFIER": "app", "_HOSTNAME": "web-9"},
    ]
    operators = [{"type": "json_parser", "parse_to": "body"}, *journal_operators(SECRET_MASKS)]
    with chain.collector(with_operators(chain, operators)):
        append(chain.logs / "app.log", *(json.dumps(entry) for entry in entries))
        records = chain.wait_records(3)
    assert SECRET not in chain.everything()
    messages = {field(record, "MESSAGE") for record in records}
    assert messages >= {"password=[masked] used", None}
    assert any(message and "token=[masked] a" in message for message in messages)
    assert {field(record, "_PID") for record in records} == {"7", None}
    assert {field(record, "_HOSTNAME") for record in records} == {"web-9", None}
    assert {field(record, "_CMDLINE") for record in records} == {field(record, "OWN") for record in records} == {None}
