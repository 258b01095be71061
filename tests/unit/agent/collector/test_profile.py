"""A host's profile: what is refused, what is rendered, and what the program, the rules and the host's policy say."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agent.collector import (
    KEY_VARIABLE,
    CollectorError,
    CollectorProfile,
    ContainerSource,
    FileSource,
    HostProfile,
    JournalSource,
    Mask,
    SyslogSource,
    find_binary,
    render_profile,
)
from agent.collector.__main__ import main
from agent.collector.binary import read_components
from agent.collector.check import check_profile, check_text
from agent.collector.host_config import ProfileError, render_host_profile
from agent.collector.profile import SECRET_MASKS, Build
from agent.collector.profile_file import ProfileFileError, profile_from, read_profile
from agent.collector.rules import rule_problems
from agent.controller.config_check import check_config
from agent.host_policy import ConfigPolicy

SYSTEM = FileSource("system", ("/var/log/syslog", "/var/log/auth.log"), multiline_start=r"^\S")
FULL = HostProfile(
    "web-1",
    (
        SYSTEM,
        ContainerSource(multiline_start=r"^\d{4}-"),
        JournalSource(units=("sshd.service",), directory="/var/log/journal"),
        SyslogSource("devices", "127.0.0.1:5514", octet_counting=True),
        SyslogSource("old", "127.0.0.1:5515", protocol="rfc3164", transport="udp", location="Europe/Berlin"),
    ),
)
SMALL = HostProfile("web-1", (SYSTEM, ContainerSource()), queue="memory")
EVERYWHERE = "0.0.0.0:514"


def rendered(profile: HostProfile = FULL, build: Build = "contrib") -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(render_host_profile(profile, build))
    return document


def test_the_full_profile_keeps_the_rules_and_the_hosts_policy() -> None:
    text = render_host_profile(FULL)
    assert check_profile(FULL).problems == ()
    assert check_config(text, ConfigPolicy()) == []
    assert len(text.encode()) < ConfigPolicy().most_bytes


def test_what_is_stored_where_and_what_is_not() -> None:
    document = rendered()
    storage = "/var/lib/trustsoc-agent/collector"
    folders = {name: config["directory"] for name, config in document["extensions"].items()}
    assert folders == {"file_storage/offsets": f"{storage}/offsets", "file_storage/queue": f"{storage}/queue"}
    assert document["exporters"]["otlphttp"]["sending_queue"]["storage"] == "file_storage/queue"
    stores = {name: config.get("storage") for name, config in document["receivers"].items()}
    assert stores == {
        "filelog/system": "file_storage/offsets",
        "filelog/containers": "file_storage/offsets",
        "journald/journal": "file_storage/offsets",
        "syslog/devices": None,
        "syslog/old": None,
    }
    without = rendered(replace(FULL, queue="none"))
    assert list(without["extensions"]) == ["file_storage/offsets"]
    assert without["exporters"]["otlphttp"]["sending_queue"] == {"enabled": False}


def test_there_is_no_secret_and_nothing_that_would_be_expanded() -> None:
    odd = FileSource("odd", ("/var/log/$x/*.log",), multiline_start="^a$")
    document = rendered(HostProfile("h${env:HOME}", (odd,), (Mask("one", "(a)$", "$1"),)))
    own = document["receivers"]["filelog/odd"]
    assert own["include"][0] == "/var/log/$$x/*.log"
    assert own["resource"] == {"host.name": "h$${env:HOME}"}
    assert own["multiline"] == {"line_start_pattern": "^a$$"}
    assert (own["operators"][0]["regex"], own["operators"][0]["replace_with"]) == ("(a)$$", "$$1")
    assert document["exporters"]["otlphttp"]["headers"] == {"Authorization": f"Bearer ${{env:{KEY_VARIABLE}}}"}


@pytest.mark.parametrize("queue", ["memory", "none"])
def test_the_program_of_the_wheel_validates_its_build(queue: Any) -> None:
    verdict = check_profile(replace(SMALL, queue=queue), "small", find_binary())
    assert (verdict.problems, verdict.validated) == ((), str(find_binary()))


def test_the_program_says_what_it_was_built_without() -> None:
    verdict = check_profile(FULL, "contrib", find_binary())
    assert len(verdict.problems) == 3
    for name in ("journald", "syslog", "file_storage"):
        assert any(f"was built without {name}" in problem for problem in verdict.problems)
    assert "filelog" in read_components(find_binary())["receivers"]


def test_what_only_the_program_knows_it_says(tmp_path: Path) -> None:
    text = render_host_profile(SMALL, "small").replace("preserve_leading_whitespaces", "preserve_nothing")
    assert check_text(text).problems == ()
    verdict = check_text(text, find_binary())
    assert "preserve_nothing" in verdict.problems[0]
    assert verdict.validated == str(find_binary())
    with pytest.raises(CollectorError, match="cannot be run"):
        check_text(text, tmp_path / "nothing")


@pytest.mark.parametrize(
    ("change", "build", "what"),
    [
        ({"host_name": " "}, "contrib", "host_name"),
        ({"sources": ()}, "contrib", "no source"),
        ({"sources": (SYSTEM, SYSTEM)}, "contrib", "two sources"),
        ({"endpoint": "http://soc.example.org:4319"}, "contrib", "endpoint"),
        ({"endpoint": "http://203.0.113.9:4319"}, "contrib", "endpoint"),
        ({"endpoint": "http://127.0.0.1"}, "contrib", "endpoint"),
        ({"storage": "var/lib"}, "contrib", "storage"),
        ({"batch_bytes": 64 << 20}, "contrib", "batch_bytes"),
        ({"queue_bytes": 1 << 20}, "contrib", "queue_bytes"),
        ({"memory_limit_mib": 0}, "contrib", "memory_limit"),
        ({}, "small", "stores nothing"),
        ({"queue": "none"}, "small", "otelcol-contrib"),
        ({"sources": (FileSource("a b", ("/x",)),)}, "contrib", "a name has"),
        ({"sources": (FileSource("a", ()),)}, "contrib", "include is empty"),
        ({"sources": (FileSource("a", ("x.log",)),)}, "contrib", "absolute"),
        ({"sources": (FileSource("a", ("/var/log/../x",)),)}, "contrib", "absolute"),
        ({"sources": (FileSource("a", ("/x",), multiline_start="(?=x)"),)}, "contrib", "RE2"),
        ({"sources": (JournalSource(priority="loud"),)}, "contrib", "priority"),
        ({"sources": (SyslogSource("s", EVERYWHERE),)}, "contrib", "remote"),
        ({"sources": (SyslogSource("s", "localhost:514"),)}, "contrib", "ADDRESS:PORT"),
        ({"sources": (SyslogSource("s", "127.0.0.1:0"),)}, "contrib", "port"),
        ({"sources": (SyslogSource("s", "127.0.0.1:1", transport="udp", octet_counting=True),)}, "contrib", "octet"),
        ({"masks": (Mask("m", "("),)}, "contrib", "mask m"),
        ({"masks": (Mask("m", "x*"),)}, "contrib", "empty text"),
        ({"masks": (Mask("m", r"(x)\1"),)}, "contrib", "RE2"),
        ({"masks": (Mask("m", "(x)", "$2"),)}, "contrib", "groups"),
        ({"masks": (Mask("m", "(x)", "$1x"),)}, "contrib", "groups"),
        ({"masks": (Mask("m", "x"), Mask("m", "y"))}, "contrib", "name of its own"),
    ],
)
def test_a_profile_that_would_lose_or_show_something_is_refused(
    change: dict[str, Any], build: Build, what: str
) -> None:
    with pytest.raises(ProfileError, match=what):
        render_host_profile(replace(FULL, **change), build)


RENDERED = rendered()


def changed(path: str, value: Any) -> dict[str, Any]:
    document = copy.deepcopy(RENDERED)
    *folders, name = path.split(" ")
    inner = document
    for folder in folders:
        inner = inner[folder]
    inner[name] = value
    return document


MASKING = RENDERED["receivers"]["filelog/system"]["operators"]


@pytest.mark.parametrize(
    ("path", "value", "what"),
    [
        ("receivers", [], "must be a mapping"),
        ("exporters otlphttp", "x", "must be a mapping"),
        ("service pipelines", {}, "there is none"),
        ("service pipelines logs receivers", [], "at least one"),
        ("service pipelines logs receivers", ["filelog"], "not defined"),
        ("service extensions", ["file_storage/queue"], "not among"),
        ("service extensions", ["pprof", "file_storage/offsets", "file_storage/queue"], "not defined"),
        ("service pipelines logs processors", ["memory_limiter", "batch"], "kill"),
        ("service pipelines logs processors", [], "memory_limiter"),
        ("service telemetry metrics", {"level": "basic"}, "port"),
        ("receivers filelog/system retry_on_failure", {"enabled": False}, "retry_on_failure"),
        ("receivers filelog/system operators", [], "does not"),
        ("receivers filelog/system operators", [{"type": "json_parser"}, *MASKING], "before the masks"),
        ("receivers filelog/system operators", MASKING + MASKING, "two have the id"),
        ("receivers syslog/old operators", MASKING, "parses by itself"),
        ("receivers journald/journal operators", MASKING, "parses by itself"),
        ("exporters otlphttp retry_on_failure", {"enabled": True}, "retry_on_failure"),
        ("exporters otlphttp logs_endpoint", "https://203.0.113.9/v1/logs", "loopback"),
        ("exporters otlphttp headers", {"Authorization": "Bearer abcdefgh"}, "environment"),
        ("exporters otlphttp sending_queue block_on_overflow", False, "full queue"),
        ("exporters debug", {}, "otlphttp"),
    ],
)
def test_a_configuration_that_would_lose_or_show_something_is_refused(path: str, value: Any, what: str) -> None:
    problems = rule_problems(changed(path, value))
    assert any(what in problem for problem in problems), problems


_anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["retain", "mask-x", "logs", "filelog", "id"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "id", "fields", "operators", "enabled", "headers"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)
_PLACES = """receivers|exporters|extensions|service|service pipelines|service pipelines logs|service extensions
service telemetry|service pipelines logs receivers|receivers syslog/old|receivers syslog/old operators
receivers filelog/system storage|exporters otlphttp|exporters otlphttp headers|exporters otlphttp sending_queue
exporters otlphttp logs_endpoint""".replace("\n", "|").split("|")


@given(st.sampled_from(_PLACES), _anything)
def test_any_document_is_judged_without_an_error(path: str, value: Any) -> None:
    assert all(isinstance(problem, str) for problem in rule_problems(changed(path, value)))


def test_the_profile_of_the_demo_is_not_for_a_host() -> None:
    problems = check_text(render_profile(CollectorProfile(("/var/log/x",), "http://127.0.0.1:1", "h"))).problems
    assert any("batch says" in problem for problem in problems)
    assert check_text("[").problems
    assert check_text("- a").problems == ("the configuration must be a mapping",)


FILE = r"""
host_name: web-1
files: [{name: app, include: [/srv/app/*.log], multiline_start: '^\d{4}-', rotated: false}]
journal: [{units: [sshd.service]}]
syslog: [{name: devices, listen: "0.0.0.0:5514", protocol: rfc3164, transport: udp, remote: true}]
containers: [{}]
masks: [{name: card, pattern: '\b\d{16}\b'}]
queue: none
"""


def test_a_file_states_a_profile(tmp_path: Path) -> None:
    path = tmp_path / "collector.yml"
    path.write_text(FILE)
    profile = read_profile(path)
    assert profile == HostProfile(
        "web-1",
        (
            FileSource("app", ("/srv/app/*.log",), rotated=False, multiline_start=r"^\d{4}-"),
            ContainerSource(),
            JournalSource(units=("sshd.service",)),
            SyslogSource("devices", "0.0.0.0:5514", "rfc3164", "udp", remote=True),
        ),
        (*SECRET_MASKS, Mask("card", r"\b\d{16}\b")),
        queue="none",
    )
    assert check_profile(profile).problems == ()
    assert profile_from({"host_name": "h", "files": [], "secret_masks": False}).masks == ()


@pytest.mark.parametrize(
    ("stated", "what"),
    [
        ([], "mapping"),
        ({}, "host_name is missing"),
        ({"host_name": "h", "file": []}, "file is not a setting"),
        ({"host_name": "h", "files": {}}, "files must be a list"),
        ({"host_name": "h", "files": [{"name": "a"}]}, r"files\[0\].include is missing"),
        ({"host_name": "h", "files": [{"name": "a", "include": "/x"}]}, "include"),
        ({"host_name": "h", "files": [{"name": "a", "include": [1]}]}, r"include\[0\]"),
        ({"host_name": "h", "files": [{"name": "a", "include": [], "rotated": "yes"}]}, "rotated"),
        ({"host_name": "h", "containers": [{"format": "lxc"}]}, "one of"),
        ({"host_name": "h", "queue": "tape"}, "one of"),
        ({"host_name": "h", "queue_bytes": True}, "queue_bytes"),
        ({"host_name": "h", "sources": []}, "sources is not a setting"),
        ({"host_name": "h", "secret_masks": "no"}, "secret_masks"),
    ],
)
def test_a_wrong_file_is_named(stated: Any, what: str) -> None:
    with pytest.raises(ProfileFileError, match=what):
        profile_from(stated)


def test_the_command_renders_what_it_has_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, made = tmp_path / "profile.yml", tmp_path / "collector.yaml"
    path.write_text(FILE)
    assert main(["render", "--profile", str(path)]) == 0
    made.write_text(capsys.readouterr().out)
    assert main(["check", "--config", str(made)]) == 0
    assert "rules alone" in capsys.readouterr().out
    assert main(["check", "--profile", str(path), "--build", "small"]) == 1
    assert "otelcol-contrib" in capsys.readouterr().err
    path.write_text("host_name: h\nfiles: [{name: a, include: [/x/*.log]}]\nqueue: memory\n")
    assert main(["check", "--profile", str(path), "--build", "small"]) == 0
    assert "validated by" in capsys.readouterr().out
    path.write_text("host_name: [\n")
    assert main(["check", "--profile", str(path)]) == 2
    assert main(["check", "--config", str(tmp_path / "nothing")]) == 2
