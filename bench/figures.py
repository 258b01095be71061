"""What a figure is, how figures are shown and where they are kept."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import orjson
from rich.console import Console
from rich.table import Table

T = TypeVar("T")

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value. `floor` is the bar it must not fall through (None: no bar), `command` makes it again."""

    name: str
    value: float
    unit: str
    floor: float | None
    better: Literal["higher", "lower"]
    command: str

    @property
    def holds(self) -> bool:
        """Whether the value is on the right side of its floor."""
        if self.floor is None:
            return True
        return self.value >= self.floor if self.better == "higher" else self.value <= self.floor


def show(figures: Sequence[Figure]) -> None:
    """The figures as a table."""
    table = Table("figure", "value", "unit", "floor", "holds", "command")
    for figure in figures:
        floor = "–" if figure.floor is None else f"{'≥' if figure.better == 'higher' else '≤'} {figure.floor:,.4g}"
        table.add_row(
            figure.name, f"{figure.value:,.4g}", figure.unit, floor, "yes" if figure.holds else "NO", figure.command
        )
    Console(width=140).print(table)


def kept(name: str = "latest") -> list[Figure]:
    """The figures of bench/results/NAME.json."""
    return [Figure(**item) for item in orjson.loads((RESULTS / f"{name}.json").read_bytes())]


def keep(figures: Sequence[Figure], name: str = "latest") -> Path:
    """Writes the list to bench/results/NAME.json; figures of other commands that are there already stay."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    known = {item["name"]: item for item in orjson.loads(path.read_bytes())} if path.exists() else {}
    known |= {figure.name: asdict(figure) for figure in figures}
    path.write_bytes(orjson.dumps(list(known.values()), option=orjson.OPT_INDENT_2) + b"\n")
    return path


def finish(figures: Sequence[Figure]) -> int:
    """Shows the figures and keeps them; a command's exit status: 1 when one is on the wrong side of its floor."""
    show(figures)
    sys.stdout.write(f"kept in {keep(figures)}\n")
    return 0 if all(figure.holds for figure in figures) else 1


def apart(part: Callable[..., T], *given: Any) -> T:
    """What the part gives in a fresh process: nothing of it is warm, and nothing of it stays."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
        return fresh.submit(part, *given).result()
