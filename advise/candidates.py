"""Which ATT&CK techniques an incident may be about: the rules' own tags, always, and what retrieval adds to them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any, Literal

import orjson

from advise.brief import BriefEvent, IncidentBrief
from advise.knowledge import Corpus, Hit
from advise.sanitize import clean
from advise.select import Selection

CANDIDATE_LIMIT = 10
ADDED_TO_TAGS, ADDED_WITHOUT_TAGS = 3, 5
QUERY_LIMIT = 6
RETRIEVED_PER_QUERY = 10
EVIDENCE_PER_CANDIDATE = 4

Basis = Literal["rule_tag", "retrieval", "rule_tag+retrieval"]


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked of the retriever on behalf of these records."""

    text: str
    evidence: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A technique the incident may be about. `evidence` is never empty; `confidence` is in [0, 1]; `why` reads on."""

    id: str
    name: str
    tactics: tuple[str, ...]
    basis: Basis
    confidence: float
    evidence: tuple[str, ...]
    why: str
    url: str
    source_version: str


@dataclass(frozen=True, slots=True)
class TechniqueMapping:
    """The candidates, best first, and what speaks against trusting them."""

    candidates: tuple[Candidate, ...]
    disagreements: tuple[str, ...]


def queries_for(brief: IncidentBrief, selection: Selection) -> tuple[Query, ...]:
    """At most QUERY_LIMIT queries: one for each rule (title and description), then single records where no rule spoke.

    Records are never joined to a rule's text or to each other: that halves the chance of the right answer. Text that
    reads like an instruction asks nothing.
    """
    texts: dict[str, dict[str, None]] = defaultdict(dict)
    for event in brief.events:
        if event.rule_id == "caller" and not event.techniques:
            continue
        title, description = clean(event.title), clean(event.description, 400)
        if not title.tainted:
            texts[query_text(title.text, "" if description.tainted else description.text)].update(
                dict.fromkeys(_anchor(event, selection))
            )
    if not texts:
        for item in selection.items:
            cleaned = clean(item.message)
            if cleaned.text and not cleaned.tainted:
                texts[cleaned.text].setdefault(item.id)
    queries = [Query(text, tuple(evidence)) for text, evidence in texts.items() if evidence]
    return tuple(queries[:QUERY_LIMIT])


def query_text(title: str, description: str) -> str:
    """What is asked for a rule; the rules of a pack can so be asked ahead of the first incident."""
    return f"{title}. {description}" if description else title


def map_techniques(
    brief: IncidentBrief, selection: Selection, corpus: Corpus, found: Sequence[tuple[Query, Sequence[Hit]]]
) -> TechniqueMapping:
    """All rule tags, and a few that only retrieval found, up to CANDIDATE_LIMIT in all; best first.

    A technique that the corpus does not know is kept under its id when a rule tagged it: a rule's word is not lost.
    """
    tagged = _tagged(brief, selection, corpus)
    ranks = _ranks(found, corpus)
    caller = any(item.source == "caller" for item in brief.evidence.values())
    candidates = [_from_tag(key, evidence, ranks, corpus, bool(found), caller) for key, evidence in tagged.items()]
    candidates.sort(key=lambda candidate: -candidate.confidence)  # stable: first seen first among equals
    added = sorted((rank, key) for key, (rank, _) in ranks.items() if key not in tagged and key in corpus.techniques)
    room = min(max(0, CANDIDATE_LIMIT - len(candidates)), ADDED_TO_TAGS if tagged else ADDED_WITHOUT_TAGS)
    for rank, key in added[:room]:
        candidates.append(_from_retrieval(key, rank, ranks[key][1], corpus))
    return TechniqueMapping(tuple(candidates), _disagreements(brief, corpus, tagged, ranks, bool(found)))


def rank_confidence(rank: int) -> float:
    """Confidence of a technique that only retrieval found, by its best rank from 1; 0 beyond the table."""
    return next((value for last, value in _table()["retrieval_rank"] if rank <= last), 0.0)


@lru_cache(maxsize=1)
def _table() -> dict[str, Any]:
    table: dict[str, Any] = orjson.loads(files("advise").joinpath("confidence.json").read_bytes())
    return table


def confidence_origin() -> str:
    """Where the numbers come from, in a sentence for the advisory's reader."""
    return str(_table()["origin"])


def _anchor(event: BriefEvent, selection: Selection) -> tuple[str, ...]:
    """The event's records, the quoted ones first, so that an advisory's references lead to quotations."""
    quoted = [key for key in event.evidence if key in selection.ids]
    return (*quoted, *(key for key in event.evidence if key not in selection.ids))


def _tagged(brief: IncidentBrief, selection: Selection, corpus: Corpus) -> dict[str, tuple[str, ...]]:
    evidence: dict[str, dict[str, None]] = defaultdict(dict)
    for event in brief.events:
        for tag in event.techniques:
            evidence[corpus.current_id(tag) or tag].update(dict.fromkeys(_anchor(event, selection)))
    return {key: _quoted_first(ids, selection) for key, ids in evidence.items() if ids}


def _quoted_first(ids: Mapping[str, None], selection: Selection) -> tuple[str, ...]:
    ordered = sorted(ids, key=lambda key: key not in selection.ids)
    return tuple(ordered[:EVIDENCE_PER_CANDIDATE])


def _ranks(found: Sequence[tuple[Query, Sequence[Hit]]], corpus: Corpus) -> dict[str, tuple[int, tuple[str, ...]]]:
    """Best rank over the queries, and the evidence of the query that gave it."""
    ranks: dict[str, tuple[int, tuple[str, ...]]] = {}
    for query, hits in found:
        for rank, hit in enumerate(hits[:RETRIEVED_PER_QUERY], start=1):
            key = corpus.current_id(hit.technique_id)
            if key is not None and (key not in ranks or rank < ranks[key][0]):
                ranks[key] = (rank, query.evidence[:EVIDENCE_PER_CANDIDATE])
    return ranks


def _family(technique_id: str) -> str:
    return technique_id.partition(".")[0]


def _from_tag(
    key: str,
    evidence: tuple[str, ...],
    ranks: Mapping[str, tuple[int, tuple[str, ...]]],
    corpus: Corpus,
    asked: bool,
    caller: bool,
) -> Candidate:
    table = _table()
    known = corpus.techniques.get(key)
    supported = key in ranks or any(_family(key) == _family(other) for other in ranks)
    if caller:
        confidence = table["caller_tag"]
    elif supported:
        confidence = table["tag_supported"]
    else:
        confidence = table["tag_refuted"] if asked else table["tag"]
    why = "tagged by the caller" if caller else "tagged by the rules that matched"
    if asked:
        why += "; retrieval over ATT&CK agrees" if supported else "; retrieval over ATT&CK does not list it"
    return Candidate(
        id=key,
        name=known.name if known else "",
        tactics=known.tactics if known else (),
        basis="rule_tag+retrieval" if supported else "rule_tag",
        confidence=confidence,
        evidence=evidence,
        why=why if known else f"{why}; the installed ATT&CK release does not know this id",
        url=known.url if known else "",
        source_version=known.source_version if known else "",
    )


def _from_retrieval(key: str, rank: int, evidence: tuple[str, ...], corpus: Corpus) -> Candidate:
    known = corpus.techniques[key]
    return Candidate(
        id=key,
        name=known.name,
        tactics=known.tactics,
        basis="retrieval",
        confidence=rank_confidence(rank),
        evidence=evidence,
        why=f"found by retrieval over ATT&CK at rank {rank}; no rule names it",
        url=known.url,
        source_version=known.source_version,
    )


def _disagreements(
    brief: IncidentBrief,
    corpus: Corpus,
    tagged: Mapping[str, tuple[str, ...]],
    ranks: Mapping[str, tuple[int, tuple[str, ...]]],
    asked: bool,
) -> tuple[str, ...]:
    unknown = [key for key in tagged if key not in corpus.techniques]
    found = [f"{key} is unknown to ATT&CK {corpus.version}" for key in unknown]
    families = {_family(key) for key in ranks}
    if asked and tagged and not families & {_family(key) for key in tagged}:
        found.append("retrieval supports none of the tagged techniques")
    for event in brief.events:
        names = {tactic for tag in event.techniques for tactic in _tactics(corpus, tag)}
        if names and event.tactics and not names & set(event.tactics):
            found.append(f"a rule's tactics ({', '.join(event.tactics)}) do not fit its techniques")
    return tuple(dict.fromkeys(found))


def _tactics(corpus: Corpus, tag: str) -> tuple[str, ...]:
    known = corpus.techniques.get(corpus.current_id(tag) or tag)
    return known.tactics if known else ()
