"""The names that rules go by are those that records get: held against the public rules and the map beside them."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from detect.normalize import default_definitions, default_normalizer
from detect.record import LogRecord, Logsource, RecordRef
from detect.sigma.logsource import applies
from tests.evaluation_data import data_file

pytestmark = pytest.mark.data
NORMALIZER = default_normalizer()
# Public rules for these find nothing unless the sender states what its records are (`sigma.product` and so on): they
# are products without a format of their own, or one that no definition reads.
UNREACHED = {
    *(("", "database", ""), ("django", "application", ""), ("spring", "application", ""), ("sql", "application", "")),
    *(("velocity", "application", ""), ("fortios", "", "sslvpnd"), ("huawei", "", "bgp"), ("juniper", "", "bgp")),
    *(("paloalto", "appliance", "globalprotect"), ("paloalto", "file_event", "globalprotect")),
    ("m365", "", "threat_detection"),
}


def archived(name: str) -> str:
    with tarfile.open(data_file("sigma_rules.tar.gz")) as archive:
        file = archive.extractfile(name)
        assert file is not None
        return file.read().decode()


def event(channel: str, number: int, **fields: Any) -> Logsource:
    body = {"EventID": number, "Channel": channel, "Computer": "WS07", **fields}
    return NORMALIZER.normalize(LogRecord(RecordRef(1, 0), 1, 1, 1, 1, 0, "", body, {}, {})).logsource


def thor() -> dict[str, Any]:
    loaded = yaml.safe_load(archived("logsource/thor.yml"))["logsources"]
    assert isinstance(loaded, dict)
    return loaded


def channels() -> dict[str, list[str]]:
    return {
        entry["service"]: [source.partition(":")[2] for source in entry["sources"]]
        for entry in thor().values()
        if entry.get("product") == "windows" and "service" in entry and "sources" in entry
    }


def test_every_windows_channel_has_its_service() -> None:
    # Rules say microsoft-servicebus-client, the map beside them servicebus-client.
    wrong = {
        (channel, service)
        for service, names in channels().items()
        for channel in names
        if event(channel, 9999).service not in (service, f"microsoft-{service}")
    }
    assert wrong == set()


def test_every_windows_event_number_has_its_category() -> None:
    named, wrong = channels(), []
    for name, entry in thor().items():
        conditions = entry.get("conditions", {})
        if "category" not in entry or "EventID" not in conditions:
            continue
        channel = named[entry["rewrite"]["service"]][0]
        numbers = conditions["EventID"] if isinstance(conditions["EventID"], list) else [conditions["EventID"]]
        extra = {key: value for key, value in conditions.items() if key == "EventType"}
        for number in numbers:
            if not applies(Logsource("windows", entry["category"], ""), event(channel, number, **extra)):
                wrong.append((name, number))
    assert wrong == []


def test_the_log_sources_of_nearly_all_public_rules_are_given_to_some_record() -> None:
    made = set(reachable())
    unreached = {tuple(wanted) for wanted in wanted_logsources() if not any(applies(wanted, item) for item in made)}
    assert unreached == UNREACHED


def reachable() -> Iterator[Logsource]:
    """What the fixtures show, and what the tables of definitions say besides."""
    for definition in default_definitions():
        for fixture in definition.fixtures:
            record = LogRecord(RecordRef(1, 0), 1, 1, 1, 1, 0, "", fixture.line, fixture.attributes, fixture.resource)
            if "sigma.product" not in fixture.attributes:
                yield NORMALIZER.normalize(record).logsource
        yield from (Logsource("windows", "", service) for service in definition.channels.values())
        for key, category in definition.categories.items():
            yield Logsource("windows", category, key.partition("/")[0])
        yield from (Logsource(spec.product, spec.category, spec.service) for spec in definition.sources.values())
        if definition.logsource is not None:
            product, category, service = (definition.logsource.product, definition.logsource.category, "")
            for pattern in definition.patterns:
                yield Logsource(product, pattern.category or category, pattern.service or service)
        for spec in definition.objects:
            own = spec.logsource
            for case in spec.cases:
                for product in (
                    {own.product, case.product, "windows", "linux", "macos"} if "{" in own.product else {own.product}
                ):
                    yield Logsource(product, case.category or own.category, case.service or own.service)
            if own.service == "{_path}":
                yield from (Logsource(own.product, "", log) for log in ("kerberos", "rdp", "x509"))


def wanted_logsources() -> set[Logsource]:
    found = set()
    with tarfile.open(data_file("sigma_rules.tar.gz")) as archive:
        for member in archive:
            if member.name.startswith("rules") and (file := archive.extractfile(member)) is not None:
                text = file.read().decode()
                block = text.partition("\nlogsource:\n")[2]
                parts = dict.fromkeys(("product", "category", "service"), "")
                for line in block.splitlines():
                    if not line.startswith(" "):
                        break
                    key, _, value = line.strip().partition(":")
                    if key in parts:
                        parts[key] = value.partition("#")[0].strip().strip("'\"").lower()
                found.add(Logsource(**parts))
    return found


def test_the_names_that_endpoint_events_get_are_names_of_the_taxonomy() -> None:
    """A spelling mistake in a table of names would make rules blind without a sound."""
    known = json.loads(archived("logsource/fields.json"))
    windows = known["legit"]["windows"]
    names = {name for fields in windows["category"].values() for name in fields} | set(windows["common"])
    names |= {name for fields in known["addon"]["windows"]["category"].values() for name in fields}
    names |= {"Imphash", "md5", "sha1", "sha256", "FileName", "SourceFilename", "QueryResults"}
    (endpoint,) = (item for item in default_definitions() if item.name == "endpoint")
    given = {name for case in endpoint.objects[0].cases for name in case.aliases} | set(endpoint.objects[0].aliases)
    assert given - names == set()
