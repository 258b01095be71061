"""What to check next and what to do, by id: playbook steps, ATT&CK mitigations, the log sources of ATT&CK analytics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from advise.candidates import Candidate
from advise.knowledge import Analytic, Corpus, Playbook
from advise.wording import listed, opening

CHECK_LIMIT = 5
STEP_LIMIT = 30
MITIGATION_LIMIT = 6
_MITIGATIONS_PER_TECHNIQUE = 2
_CHECKS_PER_TECHNIQUE = 2


def actions_for(candidates: Sequence[Candidate], playbooks: Sequence[Playbook], corpus: Corpus) -> list[dict[str, Any]]:
    """Whole playbooks that answer a trusted technique, at most STEP_LIMIT steps, then mitigations of such techniques.

    Trusted are the techniques that rules tagged; without any, the best one that retrieval found.

    Texts are the playbooks' and ATT&CK's own; a step's evidence is that of the techniques its playbook answers.
    """
    trusted = _trusted(candidates)
    actions: dict[str, dict[str, Any]] = {}
    for playbook in playbooks:
        families = {_family(technique) for technique in playbook.techniques}
        answered = [item for item in trusted if _family(item.id) in families]
        answered = answered or trusted[:1]  # a playbook that names none of them was chosen as the nearest
        if not answered or len(actions) + len(playbook.steps) > STEP_LIMIT:
            continue
        for step in playbook.steps:
            name = step.id if step.id.startswith(playbook.id) else f"{playbook.id}/{step.id}"
            actions[name] = _action(
                name, "playbook_step", step.text, answered, phase=step.phase, disruptive=step.disruptive
            ) | {"source": f"playbook {playbook.title}"}
    mitigations: dict[str, dict[str, Any]] = {}
    for item in trusted:
        known = corpus.techniques.get(item.id)
        for measure in tuple(known.mitigations)[:_MITIGATIONS_PER_TECHNIQUE] if known else ():
            if measure.id not in mitigations and len(mitigations) < MITIGATION_LIMIT:
                text = f"{measure.name}. {opening(measure.text)}".strip()
                mitigations[measure.id] = _action(
                    measure.id, "mitigation", text, [item], phase="harden", disruptive=False
                ) | {"source": f"MITRE ATT&CK {item.source_version}"}
    return [*actions.values(), *mitigations.values()]


def checks_for(candidates: Sequence[Candidate], corpus: Corpus, platforms: Sequence[str]) -> list[dict[str, Any]]:
    """Where to look next: the log sources that ATT&CK's analytics of the likeliest techniques read."""
    checks: list[dict[str, Any]] = []
    for item in _trusted(candidates):
        known = corpus.techniques.get(item.id)
        fitting = [
            entry for entry in (known.analytics if known else ()) if entry.log_sources and _fits(entry, platforms)
        ]
        for analytic in fitting[:_CHECKS_PER_TECHNIQUE]:
            if len(checks) < CHECK_LIMIT:
                checks.append(_check(item, analytic))
    return checks


def _check(item: Candidate, analytic: Analytic) -> dict[str, Any]:
    detail = opening(analytic.text)
    text = f"For {item.id} {item.name} look at {listed(analytic.log_sources, 4)}." + (
        f" {detail.rstrip('.')}." if detail else ""
    )
    return {
        "id": analytic.id,
        "technique": item.id,
        "text": text,
        "log_sources": list(analytic.log_sources)[:10],
        "source": f"MITRE ATT&CK {item.source_version}",
        "evidence": list(item.evidence),
        "origin": "template",
    }


def _fits(analytic: Analytic, platforms: Sequence[str]) -> bool:
    return not platforms or not analytic.platforms or bool(set(platforms) & set(analytic.platforms))


def _action(
    name: str, kind: str, text: str, answered: Sequence[Candidate], *, phase: str, disruptive: bool
) -> dict[str, Any]:
    evidence = dict.fromkeys(key for item in answered for key in item.evidence)
    return {
        "id": name,
        "kind": kind,
        "phase": phase,
        "text": text,
        "disruptive": disruptive,
        "techniques": [item.id for item in answered],
        "evidence": list(evidence)[:4],
        "origin": "template",
        "suggested_by_model": False,
    }


def _trusted(candidates: Sequence[Candidate]) -> list[Candidate]:
    return [item for item in candidates if item.basis != "retrieval"] or list(candidates[:1])


def _family(technique_id: str) -> str:
    return technique_id.partition(".")[0]
