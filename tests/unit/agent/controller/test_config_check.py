"""A configuration from afar may name only what the host's owner allows."""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agent.collector import CollectorError, CollectorProfile, find_binary, render_profile
from agent.controller.config_check import check_config, plain_config
from agent.controller.service import ChildService
from agent.host_policy import ConfigPolicy

POLICY = ConfigPolicy(storage=("/var/lib/agent",), environment=("TRUSTSOC_INGEST_KEY",))
GOOD: dict[str, Any] = {
    "receivers": {
        "filelog": {"include": ["/var/log/*.log", "/var/log/nginx/**/*.log"], "start_at": "end"},
        "syslog": {"tcp": {"listen_address": "127.0.0.1:5514"}, "protocol": "rfc5424"},
        "otlp/local": {"protocols": {"http": {"endpoint": "localhost:4318"}}},
    },
    "processors": {"batch": {}, "memory_limiter": {"check_interval": "1s", "limit_mib": 100}},
    "exporters": {
        "otlphttp": {
            "endpoint": "http://127.0.0.1:4319",
            "headers": {"Authorization": "Bearer ${env:TRUSTSOC_INGEST_KEY}"},
            "retry_on_failure": {"enabled": True},
        }
    },
    "extensions": {"file_storage": {"directory": "/var/lib/agent/offsets"}},
    "service": {
        "telemetry": {"metrics": {"level": "none"}, "logs": {"level": "info"}},
        "extensions": ["file_storage"],
        "pipelines": {"logs": {"receivers": ["filelog"], "processors": ["batch"], "exporters": ["otlphttp"]}},
    },
}


def problems(value: Any) -> list[str]:
    return check_config(yaml.safe_dump(value), POLICY)


def changed(path: str, value: Any) -> dict[str, Any]:
    document = copy.deepcopy(GOOD)
    *folders, name = path.split(".")
    inner = document
    for folder in folders:
        inner = inner.setdefault(folder, {})
    inner[name] = value
    return document


def test_the_shipped_profile_and_a_full_one_are_allowed() -> None:
    profile = CollectorProfile(("/var/log/auth.log",), "http://127.0.0.1:4319", "web-1")
    assert check_config(render_profile(profile), POLICY) == []
    assert problems(GOOD) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("receivers.filelog.include", ["/etc/shadow"]),
        ("receivers.filelog.include", ["/var/log/../../etc/shadow"]),
        ("receivers.filelog.include", ["/var/log*/x"]),
        ("receivers.filelog.include", ["/var/logs/x"]),
        ("receivers.filelog.include", ["var/log/x"]),
        ("receivers.filelog.include", ["/var/log/x", "/*"]),
        ("receivers.filelog.include", ["/var/{log,../etc}/x"]),
        ("receivers.filelog.include", ["/var/log/{..}/../etc/x"]),
        ("receivers.filelog.include", ["/var/log/{..}/x"]),
        ("receivers.filelog.include", ["${env:TRUSTSOC_INGEST_KEY}/x"]),
        ("receivers.filelog.include", "/etc/passwd"),
        ("receivers.filelog.delete_after_read", True),
        ("receivers.filelog.operators", [{"type": "file_output", "path": "/var/log/x"}]),
        ("receivers.filelog.operators", [{"type": "add", "field": "x", "value": "/etc/cron.d/x"}]),
        ("receivers.filelog.resource", {"secret": "${file:/etc/shadow}"}),
        ("receivers.filelog.resource", {"secret": "${/etc/shadow}"}),
        ("receivers.filelog.resource", {"secret": "$HOME"}),
        ("receivers.filelog.resource", {"secret": "$${env:X}"}),
        ("receivers.filelog.resource", {"secret": "${env:AWS_SECRET_ACCESS_KEY}"}),
        ("receivers.filelog.resource", {"${env:HOME}": "x"}),
        ("receivers.journald", {"journalctl_path": "/var/log/evil"}),
        ("receivers.journald", {"directory": "/run/secrets"}),
        ("receivers.hostmetrics", {}),
        ("receivers.filelog/2", {"include": ["/root/.ssh/id_rsa"]}),
        ("receivers.syslog.tcp.listen_address", "0.0.0.0:514"),
        ("receivers.otlp/local.protocols.http.endpoint", "0.0.0.0:4318"),
        ("receivers.otlp/local.protocols.http.endpoint", ":4318"),
        ("processors.exec", {}),
        ("exporters.file", {"path": "/var/log/x"}),
        ("exporters.debug", {}),
        ("exporters.otlphttp.endpoint", "http://evil.example:4319"),
        ("exporters.otlphttp.endpoint", "https://127.0.0.1:4319"),
        ("exporters.otlphttp.endpoint", "http://127.0.0.1:4319@evil.example"),
        ("exporters.otlphttp.endpoint", "http://evil.example#http://127.0.0.1:4319"),
        ("exporters.otlphttp.endpoint", "http://127.0.0.1:4319\\@evil.example"),
        ("exporters.otlphttp.endpoint", "${env:TRUSTSOC_INGEST_KEY}"),
        ("exporters.otlphttp.endpoint", "127.0.0.1:4319"),
        ("exporters.otlphttp.logs_endpoint", "http://evil.example/v1/logs"),
        ("exporters.otlphttp.proxy_url", "http://127.0.0.1:4319"),
        ("exporters.otlphttp.auth", {"authenticator": "x"}),
        ("exporters.otlphttp.tls", {"insecure_skip_verify": True}),
        ("exporters.otlphttp.tls", {"ca_file": "/home/x/ca.pem"}),
        ("exporters.otlphttp/second", {"endpoint": "http://10.0.0.1:80"}),
        ("exporters.otlphttp", "http://evil.example"),
        ("extensions.file_storage.directory", "/etc/cron.d"),
        ("extensions.file_storage.directory", "/var/log"),
        ("extensions.pprof", {}),
        ("connectors.count", {}),
        ("service.telemetry.metrics.readers", [{"pull": {}}]),
        ("service.telemetry.metrics.address", "0.0.0.0:8888"),
        ("service.telemetry.logs.output_paths", ["/var/log/x"]),
        ("service.other", {}),
        ("yaml", {}),
        # `a::b` is what the collector reads as b below a.
        ("receivers.syslog", {"tcp::listen_address": "0.0.0.0:514"}),
        ("receivers.otlp/local", {"protocols::http::endpoint": "0.0.0.0:4318"}),
        ("service.telemetry", {"metrics::address": "0.0.0.0:8888"}),
        ("receivers::filelog", {}),
        # The name of a component is part of the names of files that it stores.
        ("receivers.filelog/../../../../tmp/x", {"include": ["/var/log/x"]}),
        ("extensions.file_storage/..", {"directory": "/var/lib/agent/x"}),
        ("receivers.filelog/a b", {"include": ["/var/log/x"]}),
        ("receivers.filelog.include", ["/var/log/.\\./x"]),
        ("processors.resourcedetection", {"consul": {"address": "evil.example:8500", "token": "x"}}),
        ("processors.resourcedetection", {"openshift": {"address": "https://evil.example"}}),
        ("processors.transform", {"endpoint": "evil.example:1"}),
    ],
)
def test_what_the_policy_does_not_name_is_refused(path: str, value: Any) -> None:
    assert problems(changed(path, value))


@pytest.mark.parametrize(
    "text",
    [
        "receivers: {filelog: {include: [!!binary L2V0Yy9zaGFkb3c=]}}",
        "receivers: {filelog: {include: [!!str /var/log/x]}}",
        "receivers: {filelog: {<<: {include: [/etc/shadow]}}}",
        "receivers: {filelog: {start: 2026-01-01}}",
        "receivers: {filelog: {poll: .nan}}",
        "",
        "a",
        "- a",
        "a: [",
        "receivers: &a {}\nprocessors: *a\n",
        "!!python/object/apply:os.system [id]",
        "[" * 5000,
    ],
)
def test_what_is_no_configuration_is_refused(text: str) -> None:
    assert check_config(text, POLICY)


_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from(["${file:/x}", "/etc", "http://x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=10,
)


@given(st.sampled_from(["receivers", "exporters", "service", "processors"]), _values)
def test_any_document_is_judged_without_an_error_and_none_reads_a_file(section: str, value: Any) -> None:
    text = yaml.safe_dump({section: value})
    found = check_config(text, POLICY)
    assert found or "${file" not in text


@given(_values)
def test_the_collector_is_given_what_was_judged(value: Any) -> None:
    document = copy.deepcopy(GOOD)
    document["receivers"]["filelog"]["resource"] = value
    text = yaml.safe_dump(document)
    if not check_config(text, POLICY):
        assert yaml.safe_load(plain_config(text).decode()) == json.loads(plain_config(text)) == document


def test_of_a_key_that_comes_twice_the_one_that_was_judged_counts() -> None:
    text = "receivers: {filelog: {include: [/etc/shadow], include: [/var/log/x]}}"
    assert check_config(text, POLICY) == []
    assert json.loads(plain_config(text)) == {"receivers": {"filelog": {"include": ["/var/log/x"]}}}


READS = ('env("HOME")', 'env/**/("HOME")', '"HOME" | env()', 'map(["HOME"], env(#))[0]', 'os_env_func("HOME")')


@pytest.mark.parametrize("expression", [*READS, '$$env.env("HOME")', '1..env("HOME")', "body+env('HOME')"])
def test_an_expression_reads_no_variable(expression: str) -> None:
    """The language of operators has functions for that, which ask nobody about the policy's environment."""
    for operator in (
        {"type": "add", "field": "attributes.x", "value": f"EXPR({expression})"},
        {"type": "filter", "expr": f"{expression} != nil"},
        {"type": "add", "field": "attributes.x", "value": "y", "if": f"{expression} != nil"},
        {"type": "router", "routes": [{"expr": expression, "output": "x"}]},
    ):
        assert problems(changed("receivers.filelog.operators", [operator]))
    assert problems(changed("receivers.filelog.attributes", {"x": f"EXPR({expression})"}))


def test_the_collector_would_have_read_it(tmp_path: Path) -> None:
    """What the refusal is for, by the real program: the value stands in what it says of an operator's error."""
    try:
        binary = find_binary()
    except CollectorError as error:
        pytest.skip(str(error))
    (tmp_path / "a.log").write_text("line\n")
    operators = [{"type": "add", "field": "attributes.x", "value": f"EXPR(int({READS[0]}))"}]
    filelog = {"include": [str(tmp_path / "a.log")], "start_at": "beginning", "operators": operators}
    document = copy.deepcopy(GOOD) | {"receivers": {"filelog": filelog}, "extensions": {}}
    document["service"].pop("extensions")
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(document))
    service = ChildService([str(binary), f"--config={tmp_path}/c.yaml"], {"HOME": "seven", "TRUSTSOC_INGEST_KEY": "x"})
    try:
        service.restart()
        deadline = time.monotonic() + 20
        while not any("[HOME]" in line or "seven" in line for line in service._log) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert any("seven" in line for line in service._log)
    finally:
        service.stop()


def test_an_attribute_may_be_called_env() -> None:
    for expression in ('attributes.env == "prod"', 'resource["env"] == "prod"', "body.environment == 1"):
        operator = {"type": "filter", "expr": expression}
        assert problems(changed("receivers.filelog.operators", [operator])) == []


def test_the_owner_may_allow_more() -> None:
    policy = ConfigPolicy(
        destinations=("https://soc.example:4318",), paths=("/srv/logs",), listen=("0.0.0.0:514",), receivers=("syslog",)
    )
    document = {
        "receivers": {"syslog": {"udp": {"listen_address": "0.0.0.0:514"}}},
        "exporters": {
            "otlphttp": {"endpoint": "https://SOC.example:4318/base", "tls": {"ca_file": "/srv/logs/ca.pem"}}
        },
    }
    # A receiver of tcp and udp says listen_address; what it opens was named by the owner.
    assert check_config(yaml.safe_dump(document), policy) == []
