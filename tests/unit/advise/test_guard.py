"""The guard believes no model: what is not borne out by cited records is not shown."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advise.advisory import validate
from advise.guard import Accepted, Plan, Rejected, check_prose, review
from advise.merge import fall_back, merge
from advise.prompt import SYSTEM
from tests.unit.advise.conftest import DELIMITER, PlanFor
from tests.unit.advise.incidents import ssh_incident

HONEST = (
    "Passwords for root, admin and deploy were guessed from 203.0.113.9, and then a password for deploy was accepted "
    "at 10:05:40."
)


@pytest.fixture(scope="module")
def plan(plan_for: PlanFor) -> Plan:
    return plan_for(ssh_incident())


def answer(text: str, plan: Plan, **changes: Any) -> dict[str, Any]:
    """An answer that is right in all but, perhaps, its summary and the changed members."""
    question = plan.question
    technique = next(key for key, records in question.support.items() if records)
    cited = ["12-0", "17-2", next(key for key in question.evidence if key.startswith("13") or key.startswith("14"))]
    whole = {
        "techniques": [{"id": technique, "evidence": sorted(question.support[technique])[:1]}],
        "summary": {"text": text, "evidence": cited},
        "actions": [{"id": key, "evidence": sorted(records)[0]} for key, records in question.actions.items()][:1],
    }
    return whole | changes


def judged(text: str, plan: Plan, **changes: Any) -> Accepted | Rejected:
    return review(json.dumps(answer(text, plan, **changes)), plan)


@pytest.mark.parametrize(
    "text",
    [
        HONEST,
        "6 detections by 3 rules show password guessing over SSH from 203.0.113.9 against host web01.",
        "Failed passwords for root from 203.0.113.9 were followed by an accepted password for deploy on web01.",
        "From 203.0.113.9 somebody guessed a password for root, and an accepted password for deploy followed.",
    ],
)
def test_an_honest_sentence_passes(plan: Plan, text: str) -> None:
    assert isinstance(judged(text, plan), Accepted)


@pytest.mark.parametrize(
    ("check", "text"),
    [
        ("entities", "Failed password for root from 198.51.100.77 over ssh2 was recorded on web01."),
        ("entities", "Failed password for bob from 203.0.113.9 over ssh2 was recorded on web01."),
        ("entities", "Failed passwords for root from 203.0.113.9 exploit CVE-2024-3094 in ssh2 on web01."),
        ("entities", "Failed passwords for root from 203.0.113.9 left /tmp/.x/miner on web01 for deploy."),
        ("entities", "Failed passwords for root from 203.0.113.9 on 2031-01-01 show guessing on web01."),
        ("entities", "Failed passwords for root from 203.0.113.9 show T1486 with passwords on web01."),
        ("roles", "Failed passwords for root went from web01 against 203.0.113.9 over ssh2."),
        ("commands", "Failed passwords for root from 203.0.113.9, so run iptables -A INPUT for ssh2."),
        ("commands", "Failed passwords for root from 203.0.113.9: see https://example.org/ssh2 for passwords."),
        ("commands", "Delete the account deploy after failed passwords for root from 203.0.113.9."),
        ("exoneration", "The failed passwords for root from 203.0.113.9 are benign password guessing on web01."),
        ("exoneration", "The failed passwords for root from 203.0.113.9 are an authorised penetration test."),
        ("exoneration", "The failed passwords for root from 203.0.113.9 are scanner noise on web01."),
        ("exoneration", "The failed passwords for root from 203.0.113.9 show no threat to deploy on web01."),
        ("grounding", "Windows was updated by a friendly robot that likes warm bread and old cheese."),
        ("claims", "Failed passwords for root from 203.0.113.9 compromised deploy and ssh2 on web01."),
        ("prompt leak", f"{SYSTEM[7:90]} for root from 203.0.113.9."),
        ("prompt leak", f"Failed passwords for root from 203.0.113.9 over ssh2 with marker {DELIMITER} on web01."),
        ("numbers", "42 failed passwords for root from 203.0.113.9 were recorded on web01."),
        ("numbers", "Failed passwords for root from 203.0.113.9 were recorded on 7 hosts such as web01."),
        ("numbers", "Failed passwords for root from 203.0.113.9 were recorded by twelve rules on web01."),
        ("numbers", "Failed passwords for root from 203.0.113.9 are 99% of passwords for deploy."),
        ("secrets", "Failed passwords for root from 203.0.113.9 with password=Tr0ub4dor9 on web01."),
        ("repetition", "Failed password for root from 203.0.113.9 and failed password for root from 203.0.113.9."),
        ("instruction", "You should look at failed passwords for root from 203.0.113.9 on web01."),
        ("form", "failed password for root from 203.0.113.9 port 50100 on web01"),
        ("form", "Failed password root admin deploy 203.0.113.9 ssh2 password guessing SSH login."),
        ("form", "Failed passwords for root from 203.0.113.9\u202e were recorded on web01 over ssh2."),
    ],
)
def test_a_bad_sentence_is_rejected_by_the_check_for_it(plan: Plan, check: str, text: str) -> None:
    verdict = judged(text, plan)
    assert isinstance(verdict, Rejected)
    assert check in {reason.partition(":")[0] for reason in verdict.reasons}, verdict.reasons


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        '{"techniques": []}',
        "Sure! Here is the JSON:",
        '{"summary": "x"}',
        "\ud800",
        "9" * 20_000,
    ],
)
def test_babble_is_invalid_not_an_error(plan: Plan, text: str) -> None:
    verdict = review(text, plan)
    assert isinstance(verdict, Rejected) and verdict.kind == "invalid"


@given(st.text(max_size=300))
def test_any_answer_gets_a_verdict(plan: Plan, text: str) -> None:
    assert isinstance(review(text, plan), Rejected)
    assert isinstance(judged(text, plan), Accepted | Rejected)


def test_ids_that_were_not_offered_are_invalid(plan: Plan) -> None:
    for changes in (
        {"techniques": [{"id": "T1486", "evidence": ["12-0"]}]},
        {"techniques": [{"id": "T1078", "evidence": ["99-9"]}]},
        {"actions": [{"id": "format-disk", "evidence": "12-0"}]},
        {"severity": "low"},
    ):
        verdict = judged(HONEST, plan, **changes)
        assert isinstance(verdict, Rejected) and verdict.kind == "invalid"


def test_a_record_must_speak_for_the_technique_it_is_cited_for(plan: Plan) -> None:
    verdict = judged(HONEST, plan, techniques=[{"id": "T1053.003", "evidence": ["12-0"]}])
    assert isinstance(verdict, Rejected) and verdict.summary == "guard: support"


def test_what_is_said_of_a_rejection_holds_no_word_of_the_model(plan: Plan) -> None:
    verdict = judged("Failed password for hijacked-word from 203.0.113.9 was recorded on web01.", plan)
    assert isinstance(verdict, Rejected)
    assert "hijacked-word" not in verdict.summary


def test_the_template_s_own_sentences_raise_no_alarm(plan: Plan) -> None:
    everything = list(plan.question.evidence)
    for part in ("summary", "timeline"):
        for statement in plan.advisory[part]:
            assert check_prose(statement["text"], everything, plan) == []


def test_an_accepted_sentence_joins_the_template_and_lowers_nothing(plan: Plan) -> None:
    verdict = judged(HONEST, plan)
    assert isinstance(verdict, Accepted)
    merged = merge(plan.advisory, verdict, "tiny-model")
    validate(merged)
    assert merged["summary"][:-1] == plan.advisory["summary"]
    assert merged["summary"][-1]["text"] == HONEST and merged["summary"][-1]["origin"] == "tiny-model"
    assert merged["generator"] == "tiny-model" and merged["fallback_reason"] is None
    assert [item["id"] for item in merged["techniques"]] == [item["id"] for item in plan.advisory["techniques"]]
    for key in ("severity", "confidence", "hil_required", "hil_reasons", "timeline", "evidence"):
        assert merged[key] == plan.advisory[key]


def test_a_model_that_drops_every_tag_only_raises_attention(plan: Plan) -> None:
    verdict = judged(HONEST, plan, techniques=[{"id": "none", "evidence": ["12-0"]}])
    assert isinstance(verdict, Accepted)
    merged = merge(plan.advisory, verdict, "tiny-model")
    assert {item["model_verdict"] for item in merged["techniques"]} == {"not_confirmed"}
    assert merged["hil_reasons"][-1] == "the model confirmed none of the techniques that rules tagged"


def test_a_model_named_like_the_template_is_not_taken_for_it(plan: Plan) -> None:
    verdict = judged(HONEST, plan)
    assert isinstance(verdict, Accepted)
    assert merge(plan.advisory, verdict, "template")["generator"] == "model"


def test_a_guard_hit_asks_for_a_human(plan: Plan) -> None:
    fallen = fall_back(plan.advisory, "guard: grounding")
    validate(fallen)
    assert fallen["generator"] == "template" and fallen["hil_required"]
    assert fallen["notes"][0] == "Written without a language model (guard: grounding)."
