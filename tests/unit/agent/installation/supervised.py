"""A supervisor of small programs as a process of its own: `supervised.py STATE PROGRAMS`, the programs as JSON."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

from agent.installation.places import Places
from agent.installation.supervisor import Program, Supervisor

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    programs = [
        Program(one["name"], (sys.executable, "-c", one["code"]), one["stop_s"], ends_all=one["ends_all"])
        for one in json.loads(sys.argv[2])
    ]
    sys.exit(Supervisor(Places(Path("settings"), Path(sys.argv[1])), programs).run())
