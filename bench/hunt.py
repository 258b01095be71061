"""What `trustsoc hunt` costs with all public rules loaded, per core: `python -m bench.hunt`.

Real Windows events (the evaluation data beside the checkout, read in place) as JSON lines in a plain file, from its
bytes to findings that are written out. What is counted is the processor time of all processes that take part; rules
come from the cache that a first hunt leaves. The floor of every such tool is to parse the same lines and do nothing
with them, which is measured in the same run, before and after.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from bench.evaluation_records import DataMissing
from bench.figures import Figure, apart, finish
from bench.windows_events import natural_events, public_rules
from detect.sigma.expected_logsources import expected_logsources
from hunt.blocks import line_blocks
from hunt.books import HuntBooks
from hunt.found import JsonLinesWriter
from hunt.inputs import InputFile, open_inputs
from hunt.rule_book import RuleChoice
from hunt.rule_cache import LoadedRules, load_rules
from hunt.run import Hunt, HuntOptions

COMMAND = "python -m bench.hunt"
EVENTS = 60_000
FLOOR = 20_000
_NOW_NS = 1_795_338_000 * 10**9


def measure(events: int = EVENTS) -> list[Figure]:
    """Events per second of processor time by one process and by one a core, and how much of it is parsing."""
    with tempfile.TemporaryDirectory(prefix="trustsoc-bench-") as name:
        folder = Path(name)
        _write_lines(folder / "events.jsonl", natural_events(events))
        apart(fill_cache, folder)
        parsing = [apart(parse_only, folder)]
        start_s = apart(start, folder)
        alone = apart(hunt_alone, folder, events)
        parsing.append(apart(parse_only, folder))
        cores = len(os.sched_getaffinity(0))
        together = apart(hunt_together, folder, events, cores)
    parse_s = sum(parsing) / len(parsing)
    return [
        _figure("Hunt, JSON lines, one process", events / alone, "events/CPU s", FLOOR),
        Figure("Hunt, start with compiled rules", start_s, "CPU s", None, "lower", COMMAND),
        _figure(f"Hunt, JSON lines, {cores} workers and their start", events / together, "events/CPU s", None),
        _figure("Hunt ÷ parse only, JSON lines", parse_s / alone, "ratio", None),
    ]


def _figure(name: str, value: float, unit: str, floor: float | None) -> Figure:
    return Figure(name, value, unit, floor, "higher", COMMAND)


def _write_lines(path: Path, events: Iterator[dict[str, Any]]) -> None:
    with path.open("wb") as file:
        for event in events:
            file.write(orjson.dumps(event) + b"\n")


def fill_cache(folder: Path) -> None:
    """What the first hunt does: it compiles the rules."""
    _rules(folder, public_rules())


def parse_only(folder: Path) -> float:
    """Seconds of processor time to read the file in the blocks of a hunt and to parse every line."""
    began = time.process_time()
    with (folder / "events.jsonl").open("rb") as file:
        for block in line_blocks(file):
            for line in block.data.splitlines():
                orjson.loads(line)
    return time.process_time() - began


def start(folder: Path) -> float:
    """Seconds of processor time from the compiled rules on the disk to a judge that is ready for any record."""
    sources = public_rules()
    began = time.process_time()
    _ready_hunt(folder, sources)
    return time.process_time() - began


def hunt_alone(folder: Path, events: int) -> float:
    """Seconds of processor time of a hunt in this process, its judge made ready before."""
    hunting = _ready_hunt(folder, public_rules())
    began = time.process_time()
    _run(hunting, events)
    return time.process_time() - began


def hunt_together(folder: Path, events: int, jobs: int) -> float:
    """Seconds of processor time of a hunt by so many workers, this process and the start of the workers included."""
    sources = public_rules()
    hunting = _hunt(folder, jobs, sources, _rules(folder, sources))
    began = _spent()
    _run(hunting, events)
    return _spent() - began


def _rules(folder: Path, sources: list[tuple[str, str]]) -> LoadedRules:
    return load_rules(sources, RuleChoice(), folder / "rules", correlate=True)


def _hunt(folder: Path, jobs: int, sources: list[tuple[str, str]], loaded: LoadedRules) -> Hunt:
    inputs, errors = open_inputs([str(folder / "events.jsonl")], _NOW_NS)
    return Hunt(HuntOptions(jobs=jobs, cache=folder / "rules"), sources, loaded, inputs, errors)


def _ready_hunt(folder: Path, sources: list[tuple[str, str]]) -> Hunt:
    loaded = _rules(folder, sources)
    hunting = _hunt(folder, 1, sources, loaded)
    hunting.make_ready(expected_logsources(loaded.rules.rules))
    return hunting


def _run(hunting: Hunt, events: int) -> None:
    """Hunts, and writes what is found to where nobody reads it. Raises RuntimeError for an event that was lost."""
    with Path(os.devnull).open("wb") as nowhere:
        books = hunting.run(JsonLinesWriter(nowhere), _unwatched)
    if books.judged != events:
        raise RuntimeError(f"{books.judged} of {events} events were judged")


def _unwatched(_file: InputFile, _read: int, _books: HuntBooks) -> None:
    return None


def _spent() -> float:
    """Seconds of processor time of this process and of those it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def main() -> int:
    """Measures, prints the table and keeps the figures; 1 when one is on the wrong side of its floor."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--events", type=int, default=EVENTS)
    chosen = parser.parse_args()
    try:
        figures = measure(chosen.events)
    except DataMissing as missing:
        sys.stderr.write(f"{missing}\n")
        return 2
    return finish(figures)


if __name__ == "__main__":
    sys.exit(main())
