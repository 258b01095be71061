"""Our playbooks are whole, ordered, marked where they disrupt, and name only live techniques."""

from __future__ import annotations

import re

import pytest

from rag_corpus.attack import AttackCorpus
from rag_corpus.playbook import PHASES, Playbook, PlaybookError, load_playbooks, read_playbook

PLAYBOOKS = load_playbooks()

GOOD = """---
id: PB-TEST
title: A test
techniques: [T1110]
---
## Triage
1. Look.

## Contain
2. (disruptive) Block it.
"""


def test_there_are_enough_of_them_and_each_id_is_unique() -> None:
    assert len(PLAYBOOKS) >= 14
    assert len({playbook.id for playbook in PLAYBOOKS}) == len(PLAYBOOKS)


def test_every_technique_is_live_in_the_installed_release(attack_corpus: AttackCorpus) -> None:
    for playbook in PLAYBOOKS:
        for technique in playbook.techniques:
            assert attack_corpus.current_id(technique) == technique, f"{playbook.id} names {technique}"


@pytest.mark.parametrize("playbook", PLAYBOOKS, ids=lambda playbook: playbook.id)
def test_each_goes_through_all_phases_in_order(playbook: Playbook) -> None:
    positions = [PHASES.index(step.phase) for step in playbook.steps]
    assert positions == sorted(positions)
    assert set(positions) == set(range(len(PHASES)))


@pytest.mark.parametrize("playbook", PLAYBOOKS, ids=lambda playbook: playbook.id)
def test_looking_never_disrupts_and_something_else_does(playbook: Playbook) -> None:
    assert not any(step.disruptive for step in playbook.steps if step.phase in ("triage", "learn"))
    assert any(step.disruptive for step in playbook.steps)


@pytest.mark.parametrize("playbook", PLAYBOOKS, ids=lambda playbook: playbook.id)
def test_steps_are_short_and_numbered_through(playbook: Playbook) -> None:
    assert [step.id for step in playbook.steps] == [f"{playbook.id}/{n}" for n in range(1, len(playbook.steps) + 1)]
    for step in playbook.steps:
        assert 20 <= len(step.text) <= 320
        assert step.text[-1] in ".!?"


COMMON = """
T1110.001 T1078 T1505.003 T1190 T1053.003 T1136.001 T1548.003 T1059.004 T1105 T1003.001 T1059.001 T1021.002 T1486
T1070.002 T1041 T1496 T1071.004 T1543.002
"""


@pytest.mark.parametrize("technique", COMMON.split())
def test_the_common_techniques_have_a_playbook(technique: str) -> None:
    assert any(technique in playbook.techniques for playbook in PLAYBOOKS)


def test_a_file_is_read_into_steps() -> None:
    playbook = read_playbook(GOOD, "good.md")
    assert (playbook.id, playbook.title, playbook.techniques) == ("PB-TEST", "A test", ("T1110",))
    assert [(step.id, step.phase, step.text, step.disruptive) for step in playbook.steps] == [
        ("PB-TEST/1", "triage", "Look.", False),
        ("PB-TEST/2", "contain", "Block it.", True),
    ]


@pytest.mark.parametrize(
    ("was", "becomes", "reason"),
    [
        ("---\nid", "id", "no front matter"),
        ("title: A test\n", "", "exactly id, title and techniques"),
        ("PB-TEST", "test", "not of the form"),
        ("title: A test", "title: ''", "title is missing"),
        ("[T1110]", "[]", "must be a list"),
        ("[T1110]", "[T111]", "'T111' is not an ATT&CK technique id"),
        ("[T1110]", "[T1110, T1110]", "listed twice"),
        ("[T1110]", "[T1110", "not YAML"),
        ("## Triage", "## Thinking", "bad.md:6: 'thinking' is none of"),
        ("## Triage", "## Recover", "bad.md:9: phase contain comes after recover"),
        ("2. (dis", "3. (dis", "bad.md:10: step 3 should be number 2"),
        ("1. Look.", "Look.", "bad.md:7: neither"),
        ("## Triage\n", "", "bad.md:6: neither"),
        (GOOD[GOOD.index("## Triage") :], "", "has no steps"),
    ],
)
def test_a_malformed_file_is_refused_with_line_and_reason(was: str, becomes: str, reason: str) -> None:
    assert was in GOOD
    with pytest.raises(PlaybookError, match=re.escape(reason)):
        read_playbook(GOOD.replace(was, becomes, 1), "bad.md")
