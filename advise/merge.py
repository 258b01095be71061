"""Puts an accepted answer into the template advisory. A model adds and raises; nothing is taken away or lowered."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from advise.guard import Accepted
from advise.sanitize import defang, plain
from advise.template import TEMPLATE, generator_note

_MODEL_NAME_LIMIT = 120


def merge(advisory: Mapping[str, Any], accepted: Accepted, model: str) -> dict[str, Any]:
    """A new advisory: the template with the model's sentence, its verdict on techniques and its choice of actions.

    A technique that the model did not confirm stays, marked so; when it confirmed none of the techniques that rules
    tagged, that is one more reason for a human to look. Severity and confidence are the template's.
    """
    name = plain(model, _MODEL_NAME_LIMIT) or "model"
    if name == TEMPLATE:
        name = "model"
    merged = copy.deepcopy(dict(advisory))
    merged["generator"] = name
    merged["fallback_reason"] = None
    merged["summary"].append(
        {"text": defang(accepted.summary), "evidence": list(accepted.evidence), "quotes": [], "origin": name}
    )
    for technique in merged["techniques"]:
        technique["model_verdict"] = "confirmed" if technique["id"] in accepted.confirmed else "not_confirmed"
    for action in merged["actions"]:
        action["suggested_by_model"] = action["id"] in accepted.actions
    merged["notes"] = [
        "All is computed from the records, the rules and ATT&CK, save the summary sentence marked with a model's name.",
        *merged["notes"][1:],
    ]
    tagged = {item["id"] for item in merged["techniques"] if item["basis"] != "retrieval"}
    if tagged and not tagged & accepted.confirmed.keys():
        merged["hil_reasons"].append("the model confirmed none of the techniques that rules tagged")
    merged["hil_required"] = bool(merged["hil_reasons"])
    return merged


def fall_back(advisory: Mapping[str, Any], reason: str) -> dict[str, Any]:
    """The template with the reason why no model's text is in it. A guard hit asks for a human as well."""
    fallen = copy.deepcopy(dict(advisory))
    fallen["fallback_reason"] = plain(reason, 300)
    fallen["notes"] = [generator_note(fallen["fallback_reason"]), *fallen["notes"][1:]]
    if reason.startswith("guard"):
        fallen["hil_reasons"].append("a model's text was rejected by the guard")
        fallen["hil_required"] = True
    return fallen
