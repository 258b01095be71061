"""A program of the agent on a host whose clock is wrong: `agent_an_hour_off.py HOURS MODULE ARGUMENTS`.

Everything else is the real program; TLS, which reads the clock by itself, goes by the right time.
"""

from __future__ import annotations

import runpy
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    hours, module, *arguments = sys.argv[1:]
    seconds = int(hours) * 3600
    right, right_ns = time.time, time.time_ns
    time.time = lambda: right() + seconds
    time.time_ns = lambda: right_ns() + seconds * 10**9
    sys.argv = [module, *arguments]
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    runpy.run_module(module, run_name="__main__", alter_sys=True)
