"""`python -m bench [ingest|footprint]`: measures, prints the table, keeps bench/results/latest.json."""

from __future__ import annotations

import argparse
import sys

from bench import footprint, ingest
from bench.figures import Figure, keep, show
from bench.system import running_system
from cluster.llm_setup import llm_support


def main() -> int:
    """Runs the parts asked for on one fresh system; exit status 1 when a figure is on the wrong side of its floor."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("part", nargs="?", choices=["footprint", "ingest"], help="one part only")
    chosen = parser.parse_args().part
    parts = [chosen] if chosen else ["footprint", "ingest"]
    figures: list[Figure] = []
    with running_system() as system:
        if "footprint" in parts:
            figures += footprint.measure(system)
        if "ingest" in parts:
            figures += ingest.measure(system)
    if "footprint" in parts and llm_support().usable:
        [without] = [figure.value for figure in figures if figure.name == "memory, no model"]
        figures += footprint.measure_with_model(without)
    show(figures)
    sys.stdout.write(f"kept in {keep(figures)}\n")
    return 0 if all(figure.holds for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
