"""An operator's STIX bundle is read strictly: what is no ATT&CK bundle is refused by name and reason."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_corpus.attack import CorpusError
from rag_corpus.corpus import corpus_of
from rag_corpus.stix import read_bundle
from rag_corpus.update import load_bundle_file, refuse_downgrade


def _technique(number: str, attack_id: str, **more: Any) -> dict[str, Any]:
    return {
        "type": "attack-pattern",
        "id": f"attack-pattern--{number}",
        "name": f"Name of {attack_id}",
        "description": f"Text of {attack_id}.(Citation: Report)",
        "external_references": [
            {"source_name": "some-report"},
            {"source_name": "mitre-attack", "external_id": attack_id, "url": f"https://example.test/{attack_id}"},
        ],
        "kill_chain_phases": [
            {"kill_chain_name": "mitre-attack", "phase_name": "persistence"},
            {"kill_chain_name": "mitre-attack", "phase_name": "execution"},
        ],
        "x_mitre_platforms": ["Linux"],
    } | more


def _relationship(kind: str, source: str, target: str, **more: Any) -> dict[str, Any]:
    return {"type": "relationship", "relationship_type": kind, "source_ref": source, "target_ref": target} | more


def _bundle(*objects: dict[str, Any], version: str | None = "19.0") -> bytes:
    collection = [] if version is None else [{"type": "x-mitre-collection", "x_mitre_version": version}]
    return json.dumps({"type": "bundle", "objects": [*collection, *objects]}).encode()


FULL = _bundle(
    _technique("1", "T9001"),
    _technique("2", "T9002", revoked=True),
    _technique("3", "T9003", x_mitre_deprecated=True),
    _technique("4", "T9004", revoked=True),
    _relationship("revoked-by", "attack-pattern--2", "attack-pattern--4"),
    _relationship("revoked-by", "attack-pattern--4", "attack-pattern--1"),
    {
        "type": "course-of-action",
        "id": "course-of-action--1",
        "name": "Filter",
        "external_references": [{"source_name": "mitre-attack", "external_id": "M9001"}],
    },
    _relationship("mitigates", "course-of-action--1", "attack-pattern--1", description="Filter [it](https://x.test)."),
    _relationship("uses", "malware--1", "attack-pattern--2", description="Bad runs it."),
    _relationship("uses", "malware--2", "attack-pattern--1", description="Worse runs it."),
    _relationship("uses", "malware--3", "attack-pattern--1", description="Withdrawn.", revoked=True),
    {
        "type": "x-mitre-analytic",
        "id": "x-mitre-analytic--1",
        "description": "Watch it.",
        "external_references": [{"source_name": "mitre-attack", "external_id": "AN9001"}],
        "x_mitre_log_source_references": [
            {"name": "auditd:SYSCALL", "channel": "execve"},
            {"name": "auditd:SYSCALL", "channel": "execve"},
            {"name": "Process", "channel": "None"},
        ],
    },
    {
        "type": "x-mitre-detection-strategy",
        "id": "x-mitre-detection-strategy--1",
        "name": "Watch execution",
        "x_mitre_analytic_refs": ["x-mitre-analytic--1", "x-mitre-analytic--missing"],
    },
    _relationship("detects", "x-mitre-detection-strategy--1", "attack-pattern--1"),
)


def test_a_bundle_becomes_a_corpus_with_all_its_links() -> None:
    corpus = corpus_of(read_bundle(FULL, "test"), None)
    assert corpus.version == "19.0"
    assert list(corpus.techniques) == ["T9001"]
    technique = corpus.techniques["T9001"]
    assert technique.tactics == ("execution", "persistence")
    assert technique.description == "Text of T9001."
    assert [(item.id, item.name, item.text) for item in technique.mitigations] == [("M9001", "Filter", "Filter it.")]
    (analytic,) = technique.analytics
    assert (analytic.id, analytic.name, analytic.text) == ("AN9001", "Watch execution", "Watch it.")
    assert analytic.log_sources == ("auditd:SYSCALL: execve", "Process")


def test_revocations_are_followed_to_the_end_and_deprecated_ids_lead_nowhere() -> None:
    corpus = corpus_of(read_bundle(FULL, "test"), None)
    assert corpus.current_id("t9002") == "T9001"
    assert corpus.current_id("T9004") == "T9001"
    assert corpus.current_id("T9003") is None


def test_report_sentences_of_a_revoked_technique_count_for_its_successor() -> None:
    corpus = corpus_of(read_bundle(FULL, "test"), None)
    assert corpus.procedures == {"T9001": ("Bad runs it.", "Worse runs it.")}


def test_a_circle_of_revocations_ends() -> None:
    circle = _bundle(
        _technique("1", "T9001", revoked=True),
        _technique("2", "T9002", revoked=True),
        _technique("3", "T9003"),
        _relationship("revoked-by", "attack-pattern--1", "attack-pattern--2"),
        _relationship("revoked-by", "attack-pattern--2", "attack-pattern--1"),
    )
    assert corpus_of(read_bundle(circle, "test"), None).current_id("T9001") is None


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a STIX bundle"),
        (b"[]", "not a STIX bundle"),
        (b'{"objects": [{"id": "no type"}]}', "not a STIX bundle"),
        (b'{"objects": [{"type": "attack-pattern", "x_mitre_platforms": "Linux"}]}', "not a STIX bundle"),
        (b'{"objects": []}', "no ATT&CK version"),
        (_bundle(), "no ATT&CK techniques"),
        (_bundle(_technique("1", "T1"), version=None), "no ATT&CK version"),
    ],
)
def test_what_is_no_bundle_is_refused_with_its_origin(data: bytes, reason: str) -> None:
    with pytest.raises(CorpusError, match=f"some-file.*{reason}"):
        read_bundle(data, "some-file")


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_and_nothing_else_happens(data: bytes) -> None:
    with pytest.raises(CorpusError):
        read_bundle(data, "some-file")


def test_a_compressed_file_is_read_and_its_name_gives_the_version(tmp_path: Path) -> None:
    path = tmp_path / "enterprise-attack-19.2.json.gz"
    path.write_bytes(gzip.compress(_bundle(_technique("1", "T9001"), version=None)))
    assert load_bundle_file(path).version == "19.2"


def test_a_truncated_file_and_a_bomb_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truncated = tmp_path / "attack-1.json.gz"
    truncated.write_bytes(gzip.compress(FULL)[:-20])
    with pytest.raises(CorpusError, match="cannot read"):
        load_bundle_file(truncated)
    bomb = tmp_path / "attack-2.json.gz"
    bomb.write_bytes(gzip.compress(b" " * 3_000_000))
    monkeypatch.setattr("rag_corpus.update._MAXIMUM_BYTES", 2 * 2**20)
    with pytest.raises(CorpusError, match="larger than 2 MiB"):
        load_bundle_file(bomb)
    with pytest.raises(CorpusError, match="cannot read"):
        load_bundle_file(tmp_path / "missing.json")


def test_an_older_release_is_a_downgrade() -> None:
    refuse_downgrade("18.1", "18.1")
    refuse_downgrade("18.1", "18.10")
    refuse_downgrade("none", "15")
    with pytest.raises(CorpusError, match=r"17\.2 is older than 18\.1"):
        refuse_downgrade("18.1", "17.2")
