"""What Sigma costs with all public rules loaded, per core: `python -m bench.sigma`.

The events are real (the evaluation data beside the checkout, read in place), each part runs in a process of its own,
nothing is warmed up, and what is counted is processor time. `end to end` is from the bytes of an OTLP request to
detections: decoding, normalising, matching, and making the events of what was found; `matching` is that alone.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil

from actors.rule_cache import RuleCache
from bench.evaluation_records import DataMissing
from bench.figures import Figure, apart, finish
from bench.sigma_correlation import correlation_figures
from bench.windows_events import (
    Shape,
    all_unique,
    kept_requests,
    natural_events,
    process_creations,
    public_rules,
    write_requests,
)
from detect.normalize import default_normalizer
from detect.otlp import decode
from detect.record import LogRecord, TenantId
from detect.sigma import CompiledMatcher, NaiveMatcher, RuleSet, SigmaDetector, load_rule_set
from detect.sigma.codec import CompiledRules
from detect.sigma.expected_logsources import expected_logsources
from detect.sigma.scanner import FinderShelf, usable_engine

COMMAND = "python -m bench.sigma"
EVENTS = 60_000
WORST_EVENTS = 20_000
MEMORY_EVENTS = 200_000
MANY_DOCUMENTS = 100_000
_NAIVE_EVENTS = 60
_PART = 25
_STEPS = 4
_MIB = 1 << 20
_TENANT = TenantId(UUID(int=1))
_MAKERS: dict[str, Callable[[int], Iterator[dict[str, Any]]]] = {
    "natural events": natural_events,
    "unique command lines": process_creations,
    "all values unique": all_unique,
}
_SHAPES: dict[Shape, str] = {"line": "JSON lines", "map": "attribute maps"}


def measure(events: int = EVENTS, memory_events: int = MEMORY_EVENTS) -> list[Figure]:
    """All figures: so many events for the speeds, and so many for the memory."""
    with tempfile.TemporaryDirectory(prefix="trustsoc-bench-") as name:
        folder = Path(name)
        figures = apart(compile_cold, folder)
        figures += apart(load_compiled, folder)
        for kind, count, floor, alone in (
            ("natural events", events, 25_000, 50_000),
            ("unique command lines", min(events, WORST_EVENTS), 8_000, 10_000),
        ):
            for shape in _SHAPES:
                apart(_write, folder, kind, shape, count)
                figures += apart(speed, folder, kind, shape, floor)
                figures += apart(matching, folder, kind, shape, alone)
        for kind in ("natural events", "all values unique"):
            apart(_write, folder, kind, "line", memory_events)
            figures += apart(memory, folder, kind, memory_events)
        figures += apart(many_documents)
    return figures + correlation_figures(COMMAND)


def _write(folder: Path, kind: str, shape: Shape, count: int) -> list[Figure]:
    write_requests(folder / "requests", _MAKERS[kind](count), shape)
    return []


def compile_cold(folder: Path) -> list[Figure]:
    """From YAML to a matcher that is ready for every log source, kept for the parts that follow."""
    sources = public_rules()
    began = time.process_time()
    rules = load_rule_set(sources)
    parsed = time.process_time()
    matcher = CompiledMatcher(rules.rules)
    matcher.prepare(expected_logsources(rules.rules))
    done = time.process_time()
    RuleCache(folder / "rules").write(CompiledRules(rules, matcher.shelf.engine.name, matcher.shelf.dumps()))
    (folder / "digest").write_text(rules.digest)
    return [
        Figure("Sigma rules loaded", len(rules.rules), "rules", None, "higher", COMMAND),
        Figure("Sigma cold start: parsing", parsed - began, "s CPU", None, "lower", COMMAND),
        Figure("Sigma cold start: parsing and compiling", done - began, "s CPU", 10, "lower", COMMAND),
    ]


def load_compiled(folder: Path) -> list[Figure]:
    """From the cache to a matcher."""
    began = time.process_time()
    _compiled(folder)
    return [Figure("Sigma start from the cache", time.process_time() - began, "s CPU", 2, "lower", COMMAND)]


def _compiled(folder: Path) -> tuple[RuleSet, CompiledMatcher]:
    engine = usable_engine()
    compiled = RuleCache(folder / "rules").read((folder / "digest").read_text(), engine.name)
    if compiled is None:
        raise RuntimeError("what was compiled cannot be read: was the program changed meanwhile?")
    return compiled.rules, CompiledMatcher(compiled.rules.rules, FinderShelf(engine, compiled.dumps))


def speed(folder: Path, kind: str, shape: Shape, floor: float) -> list[Figure]:
    """Events per second of processor time from requests to detections, and what decoding and normalising take of it.

    A few records at a time go through all steps, as a detector takes them one by one, so that each step finds them in
    the processor's caches.
    """
    _as_in_a_detector()
    rules, matcher = _compiled(folder)
    matcher.prepare(expected_logsources(rules.rules))
    detector, normalizer, clock = SigmaDetector(_TENANT, rules, lambda _: matcher), default_normalizer(), _clock
    count, decoding, normalising, detecting = 0, 0.0, 0.0, 0.0
    for batch in kept_requests(folder / "requests"):
        started = clock()
        records = decode(batch)
        decoding += clock() - started
        for some in _in_parts(records):
            started = clock()
            normalized = [normalizer.normalize(record) for record in some]
            done = clock()
            for record in normalized:
                detector.observe(record)
            detecting, normalising = detecting + clock() - done, normalising + done - started
        count += len(records)
    name, total = f"{kind} as {_SHAPES[shape]}", decoding + normalising + detecting
    return [
        Figure(f"Sigma end to end, {name}", count / total, "events/CPU s", floor, "higher", COMMAND),
        Figure(f"Sigma decoding, {name}", decoding / count * 1e6, "µs CPU an event", None, "lower", COMMAND),
        Figure(f"Sigma normalising, {name}", normalising / count * 1e6, "µs CPU an event", None, "lower", COMMAND),
        Figure(f"Sigma detecting, {name}, of end to end", 100 * detecting / total, "% of CPU", None, "lower", COMMAND),
    ]


def matching(folder: Path, kind: str, shape: Shape, floor: float) -> list[Figure]:
    """Events per second of processor time that matching alone takes, events of matches not made; and how many times
    the naive matcher's, which judges a few as well."""
    _as_in_a_detector()
    rules, matcher = _compiled(folder)
    matcher.prepare(expected_logsources(rules.rules))
    normalizer, clock = default_normalizer(), _clock
    count, spent, sample = 0, 0.0, []
    for batch in kept_requests(folder / "requests"):
        for some in _in_parts(decode(batch)):
            normalized = [normalizer.normalize(record) for record in some]
            started = clock()
            for record in normalized:
                matcher.match(record)
            spent += clock() - started
            count += len(normalized)
        sample.append(normalized[batch.seq % len(normalized)])
    naive = NaiveMatcher(rules.rules)
    began = clock()
    judged = [naive.match(record) for record in sample[:_NAIVE_EVENTS]]
    naive_s = (clock() - began) / len(judged)
    if judged != [matcher.match(record) for record in sample[:_NAIVE_EVENTS]]:
        raise RuntimeError("the two matchers differ: see python -m bench.sigma_equality")
    name = f"{kind} as {_SHAPES[shape]}"
    return [
        Figure(f"Sigma matching, {name}", count / spent, "events/CPU s", floor, "higher", COMMAND),
        Figure(
            f"Sigma matching, {name}, times the naive matcher", naive_s * count / spent, "x", None, "higher", COMMAND
        ),
    ]


def _clock() -> float:
    return time.process_time()


def _in_parts(records: Sequence[LogRecord]) -> Iterator[Sequence[LogRecord]]:
    return (records[start : start + _PART] for start in range(0, len(records), _PART))


def many_documents(count: int = MANY_DOCUMENTS) -> list[Figure]:
    """A pack of far more documents than may be in force: the rest is refused by name, in bounded time and memory."""
    sources = [
        (
            f"{place}.yml",
            f"title: rule {place}\nlogsource: {{product: x}}\ndetection: {{a: {{f: v{place}}}, condition: a}}\n",
        )
        for place in range(count)
    ]
    began = time.process_time()
    rules = load_rule_set(sources)
    CompiledMatcher(rules.rules).prepare(expected_logsources(rules.rules))
    spent = time.process_time() - began
    named = f"{len(rules.rules):,} of {count:,} documents in force, {len(rules.errors):,} faults named"
    if len(rules.rules) == count or not rules.errors:
        raise RuntimeError(f"nothing bounds a rule set: {named}")
    used = psutil.Process().memory_info().rss / _MIB
    return [
        Figure(f"Sigma, {named}", spent, "s CPU", None, "lower", COMMAND),
        Figure(f"Sigma, {count:,} documents, the process", used, "MiB RSS", None, "lower", COMMAND),
    ]


def memory(folder: Path, kind: str, count: int) -> list[Figure]:
    """What a worker's process takes, after every quarter of the events: it must level off."""
    _as_in_a_detector()
    rules, matcher = _compiled(folder)
    detector, normalizer = SigmaDetector(_TENANT, rules, lambda _: matcher), default_normalizer()
    process, figures, seen = psutil.Process(), [], 0
    for batch in kept_requests(folder / "requests"):
        for record in decode(batch):
            detector.observe(normalizer.normalize(record))
            seen += 1
            if seen % (count // _STEPS) == 0:
                used = process.memory_info().rss / _MIB
                figures.append(Figure(f"Sigma worker after {seen:,}, {kind}", used, "MiB RSS", 500, "lower", COMMAND))
    return figures


def _as_in_a_detector() -> None:
    """The pace of garbage collection that detector processes have."""
    gc.set_threshold(100_000, 20, 20)


def main() -> int:
    """Measures, prints the table and keeps the figures; 1 when one is on the wrong side of its floor."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--events", type=int, default=EVENTS, help="for each speed")
    parser.add_argument("--memory-events", type=int, default=MEMORY_EVENTS, help="for the memory of a worker")
    chosen = parser.parse_args()
    try:
        figures = measure(chosen.events, chosen.memory_events)
    except DataMissing as missing:
        sys.stderr.write(f"{missing}\n")
        return 2
    return finish(figures)


if __name__ == "__main__":
    sys.exit(main())
