"""What `trustsoc hunt` costs with all public rules loaded, per core: `python -m bench.hunt`.

Real Windows events (the evaluation data beside the checkout, read in place) as JSON lines in a plain file, from its
bytes to findings that are written out. What is counted is the processor time of all processes that take part; rules
come from the cache that a first hunt leaves. The floor of every such tool is to parse the same lines and do nothing
with them, which is measured in the same run, before and after.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import orjson

from bench.figures import Figure, keep, show
from bench.windows_events import DataMissing, natural_events, public_rules
from hunt.blocks import line_blocks
from hunt.books import HuntBooks
from hunt.found import JsonLinesWriter
from hunt.inputs import InputFile, open_inputs
from hunt.rule_book import RuleChoice
from hunt.rule_cache import load_rules
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
        _apart(fill_cache, folder)
        parsing = [_apart(parse_only, folder)]
        alone = _apart(hunt_alone, folder, events)
        parsing.append(_apart(parse_only, folder))
        cores = len(os.sched_getaffinity(0))
        together = _apart(hunt_together, folder, events, cores)
    parse_s = sum(parsing) / len(parsing)
    return [
        _figure("Hunt, JSON lines, one process", events / alone, "events/CPU s", FLOOR),
        _figure(f"Hunt, JSON lines, {cores} workers and their start", events / together, "events/CPU s", None),
        _figure("Hunt ÷ parse only, JSON lines", parse_s / alone, "ratio", None),
    ]


def _figure(name: str, value: float, unit: str, floor: float | None) -> Figure:
    return Figure(name, value, unit, floor, "higher", COMMAND)


def _write_lines(path: Path, events: Iterator[dict[str, Any]]) -> None:
    with path.open("wb") as file:
        for event in events:
            file.write(orjson.dumps(event) + b"\n")


def _apart(part: Callable[..., float], *given: Any) -> float:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
        return fresh.submit(part, *given).result()


def fill_cache(folder: Path) -> float:
    """Seconds of processor time of the first hunt's start, which compiles the rules."""
    began = time.process_time()
    _hunt(folder, jobs=1)
    return time.process_time() - began


def parse_only(folder: Path) -> float:
    """Seconds of processor time to read the file in the blocks of a hunt and to parse every line."""
    began = time.process_time()
    with (folder / "events.jsonl").open("rb") as file:
        for block in line_blocks(file):
            for line in block.data.splitlines():
                orjson.loads(line)
    return time.process_time() - began


def hunt_alone(folder: Path, events: int) -> float:
    """Seconds of processor time of a hunt in this process, its rules loaded before."""
    hunting = _hunt(folder, jobs=1)
    began = time.process_time()
    _run(hunting, events)
    return time.process_time() - began


def hunt_together(folder: Path, events: int, jobs: int) -> float:
    """The same of a hunt by so many workers, this process and the start of the workers included."""
    hunting = _hunt(folder, jobs)
    began = _spent()
    _run(hunting, events)
    return _spent() - began


def _hunt(folder: Path, jobs: int) -> Hunt:
    sources = public_rules()
    options = HuntOptions(jobs=jobs, cache=folder / "rules")
    loaded = load_rules(sources, RuleChoice(), options.cache, correlate=True)
    inputs, errors = open_inputs([str(folder / "events.jsonl")], _NOW_NS)
    return Hunt(options, sources, loaded, inputs, errors)


def _run(hunting: Hunt, events: int) -> None:
    """Hunts, and writes what is found to where nobody reads it. Raises RuntimeError for an event that was lost."""
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
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
    show(figures)
    sys.stdout.write(f"kept in {keep(figures)}\n")
    return 0 if all(figure.holds for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
