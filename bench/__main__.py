"""`python -m bench [PART]`: measures, prints the table, keeps bench/results/latest.json.

The parts: ingest and footprint on one fresh system; each of the others by a command of its own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from bench import footprint, ingest
from bench.figures import Figure, keep, kept, show
from bench.system import running_system
from cluster.llm_setup import llm_support

# Each starts what it needs and keeps its own figures; some must be the first to import Ray.
_APART = (
    "copy_rows",
    "tenants",
    "sigma",
    "hunt",
    "sigma_system",
    "fairness",
    "nodes",
    "forwarder",
    "agent_latency",
    "agents",
    "masking",
)


def main() -> int:
    """Runs the parts asked for; exit status 1 when a figure is on the wrong side of its floor."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("part", nargs="?", choices=["footprint", "ingest", *_APART], help="one part only")
    chosen = parser.parse_args().part
    figures: list[Figure] = []
    if chosen in {None, "footprint", "ingest"}:
        figures += _of_one_system(chosen)
    place = keep(figures)
    for part in _APART if chosen is None else {chosen} & set(_APART):
        subprocess.run([sys.executable, "-m", f"bench.{part}"], stdout=subprocess.DEVNULL, check=False)
    figures = kept() if chosen is None or chosen in _APART else figures
    show(figures)
    sys.stdout.write(f"kept in {place}\n")
    return 0 if all(figure.holds for figure in figures) else 1


def _of_one_system(chosen: str | None) -> list[Figure]:
    figures: list[Figure] = []
    with running_system() as system:
        if chosen != "ingest":
            figures += footprint.measure(system)
        if chosen != "footprint":
            figures += ingest.measure(system)
    if chosen != "ingest" and llm_support().usable:
        [without] = [figure.value for figure in figures if figure.name == "memory, no model"]
        figures += footprint.measure_with_model(without)
    return figures


if __name__ == "__main__":
    sys.exit(main())
