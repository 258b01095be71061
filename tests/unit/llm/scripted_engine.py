"""A small process that speaks the engine's line protocol and misbehaves as the start-up message asks.

It lets the supervisor be tested against real processes without loading a model. ``engine_args["script"]`` is one of:
good, dies-loading, says-failed, never-ready, dies-answering, babbles, ignores-everything, and two that need a file
``mark``: dies-once makes it, waits-for loads until it is there.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any


def say(**message: Any) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def load(script: str, arguments: dict[str, Any]) -> None:
    if script == "dies-loading":
        sys.exit(3)
    if script == "says-failed":
        say(event="failed", detail="ValueError: no such model")
        sys.exit(1)
    if script == "never-ready":
        threading.Event().wait()
    if script == "waits-for":
        while not Path(arguments["mark"]).exists():
            time.sleep(0.02)
    if script == "dies-once" and not (mark := Path(arguments["mark"])).exists():
        mark.touch()
        sys.exit(4)


def answer(script: str, message: dict[str, Any]) -> None:
    if script == "ignores-everything":
        return
    if message["op"] == "abort":
        say(event="aborted", id=message["id"])
    elif script == "dies-answering":
        sys.exit(5)
    elif script == "babbles":
        sys.stdout.write("Segmentation fault, maybe\n")
        sys.stdout.flush()
    elif message["user"] == "wait for ever":
        return
    elif message["user"] == "refuse":
        say(event="refused", id=message["id"], detail="ValueError: too long")
    else:
        text = json.dumps({"user": message["user"], "salt": message["cache_salt"]})
        say(event="result", id=message["id"], text=text, prompt_tokens=3, output_tokens=5, truncated=False)


def main() -> None:
    start = json.loads(sys.stdin.readline())
    arguments = start["engine_args"]
    load(arguments["script"], arguments)
    say(event="ready")
    for line in sys.stdin:
        answer(arguments["script"], json.loads(line))


if __name__ == "__main__":
    main()
