"""One worker of a hunt, as a process of its own: `python -m hunt.worker`, spoken to over its standard streams."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from pathlib import Path
from typing import IO

from hunt.frames import TO_WORKER, Defect, Done, Partial, Ready, Setup, receive, send
from hunt.judge import Judge
from hunt.rule_cache import load_rules
from hunt.units import judge_unit


def serve(incoming: IO[bytes], outgoing: IO[bytes]) -> None:
    """Judges the units that come in until no more come; what fails unexpectedly is told, and ends it."""
    judge: Judge | None = None
    try:
        while (data := receive(incoming)) is not None:
            message = TO_WORKER.decode(data)
            if isinstance(message, Setup):
                judge = judge_of(message)
                send(outgoing, Ready())
                continue
            if judge is None:
                raise ValueError("a worker was given work before its rules")
            for result in judge_unit(judge, message):
                send(outgoing, Partial(result))
            send(outgoing, Done())
    except BrokenPipeError:
        return
    except Exception:  # whoever waits for this worker must hear why it ends
        send(outgoing, Defect(traceback.format_exc(limit=-6)))


def judge_of(setup: Setup) -> Judge:
    """A judge by the rules of a setup."""
    loaded = load_rules(setup.sources, setup.choice, Path(setup.cache) if setup.cache else None, setup.correlate)
    return loaded.judge(setup.scope, stats=setup.stats)


def main() -> None:
    """Standard output carries messages, so whatever a library prints goes to standard error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the hunt that started it says when to stop
    outgoing = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.stdin.buffer, outgoing)


if __name__ == "__main__":
    main()
