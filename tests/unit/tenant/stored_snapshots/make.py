"""Writes the snapshot of the format that this code has, and what this code says after it. See story.py."""

from __future__ import annotations

import sys
from pathlib import Path

import orjson

from detect.tenant import TenantDetector
from tests.unit.tenant.stored_snapshots.story import MIDDLE, detector, journal, said


def main() -> None:
    """Refuses to replace what is there: old files are the point."""
    folder, name = Path(__file__).parent, f"format-{TenantDetector.FORMAT}"
    target = folder / f"{name}.snapshot"
    if target.exists():
        raise SystemExit(f"{target} exists already: a stored snapshot is never made again")
    told = detector()
    outputs = [told.observe(batch) for batch in journal()[:MIDDLE]]
    target.write_bytes(told.snapshot())
    outputs += [told.observe(batch) for batch in journal()[MIDDLE:]]
    (folder / f"{name}.said.json").write_bytes(
        orjson.dumps([said(output) for output in outputs[MIDDLE:]], option=orjson.OPT_INDENT_2)
    )
    sys.stdout.write(f"{target}: {target.stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
