"""The guard: decides without any model whether a model's answer may be shown. The model is taken to be compromised.

`review` runs the structural checks on the whole answer and every prose check on its sentence; each check is small,
has a name and gives reasons. One reason is enough to reject the answer; the template is shown then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from jsonschema import Draft202012Validator

from advise import prose
from advise.brief import IncidentBrief
from advise.decoding import NONE
from advise.facts import Facts, facts_for
from advise.prompt import Question
from detect.event import Severity

_ANSWER_LIMIT = 16_384


@dataclass(frozen=True, slots=True)
class Accepted:
    """An answer that passed every check. `confirmed` maps a technique to the records the model gave for it."""

    summary: str
    evidence: tuple[str, ...]
    confirmed: Mapping[str, tuple[str, ...]]
    actions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rejected:
    """Why an answer may not be shown; each reason is `check: detail`. Details never quote the model at length."""

    reasons: tuple[str, ...]

    @property
    def kind(self) -> str:
        """`invalid` when the answer is not even what was asked for, else `guard`."""
        return "invalid" if all(reason.startswith("schema") for reason in self.reasons) else "guard"

    @property
    def summary(self) -> str:
        """The kind and the names of the checks: fit to show, for details may hold words of the model."""
        return f"{self.kind}: {', '.join(dict.fromkeys(reason.partition(':')[0] for reason in self.reasons))}"


@dataclass(frozen=True, slots=True)
class Plan:
    """What an answer is judged against: the incident, the question asked, and the template it would join."""

    brief: IncidentBrief
    question: Question
    advisory: Mapping[str, Any]


ProseCheck = Callable[[str, Facts, Severity, Question], str | None]
PROSE_CHECKS: tuple[tuple[str, ProseCheck], ...] = (
    ("entities", prose.unknown_entity),
    ("roles", prose.wrong_role),
    ("commands", prose.command_or_link),
    ("exoneration", prose.exoneration),
    ("grounding", prose.ungrounded),
    ("claims", prose.unsupported_claim),
    ("prompt leak", prose.prompt_leak),
    ("numbers", prose.wrong_number),
    ("secrets", prose.secret),
    ("repetition", prose.repetition),
    ("instruction", prose.addresses_reader),
    ("form", prose.malformed),
)


def review(text: str, plan: Plan) -> Accepted | Rejected:
    """Judges one answer. Never raises: any text at all gets a verdict."""
    if len(text) > _ANSWER_LIMIT:
        return Rejected((f"schema: the answer has {len(text)} characters",))
    try:
        answer = orjson.loads(text)
    except (orjson.JSONDecodeError, UnicodeEncodeError):
        return Rejected(("schema: the answer is not JSON",))
    problems = list(Draft202012Validator(plan.question.schema).iter_errors(answer))
    if problems:
        return Rejected(tuple(f"schema: {error.json_path} breaks {error.validator}" for error in problems[:5]))
    summary = answer["summary"]
    reasons = [*_references(answer, plan), *check_prose(summary["text"], summary["evidence"], plan)]
    if reasons:
        return Rejected(tuple(reasons))
    confirmed = {
        item["id"]: tuple(dict.fromkeys(item["evidence"])) for item in answer["techniques"] if item["id"] != NONE
    }
    actions = dict.fromkeys(item["id"] for item in answer.get("actions", ()))
    return Accepted(summary["text"].strip(), tuple(dict.fromkeys(summary["evidence"])), confirmed, tuple(actions))


def check_prose(text: str, cited: list[str], plan: Plan) -> list[str]:
    """Every prose check on one text that cites these records; the reasons against it, none when it may be shown."""
    facts = facts_for(plan.brief, plan.question, plan.advisory, cited)
    if not facts.texts:
        return ["grounding: every cited record is withheld"]
    found = ((name, check(text, facts, plan.brief.severity, plan.question)) for name, check in PROSE_CHECKS)
    return [f"{name}: {reason}" for name, reason in found if reason]


def _references(answer: Mapping[str, Any], plan: Plan) -> list[str]:
    """Each confirmed technique and each action must cite a record that speaks for it, not merely one that exists."""
    reasons = []
    for item in answer["techniques"]:
        if item["id"] != NONE and not set(item["evidence"]) <= plan.question.support[item["id"]]:
            reasons.append(f"support: a record cited for {item['id']} does not speak for it")
    for item in answer.get("actions", ()):
        if item["evidence"] not in plan.question.actions[item["id"]]:
            reasons.append(f"support: the record cited for action {item['id']} does not call for it")
    names = [item["id"] for item in answer["techniques"]]
    if NONE in names and len(set(names)) > 1:
        reasons.append("support: none beside named techniques")
    return reasons
