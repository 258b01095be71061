"""One worker of a hunt, as a process of its own: `python -m hunt.worker`, spoken to over its standard streams."""

from __future__ import annotations

import os
import signal
import traceback
from pathlib import Path
from typing import IO

from hunt.frames import TO_WORKER, Defect, Done, Partial, Ready, Setup, receive, send
from hunt.judge import Judge
from hunt.records import is_panic
from hunt.rule_cache import load_rules
from hunt.units import judge_unit


def serve(incoming: IO[bytes], outgoing: IO[bytes], judge: Judge | None = None) -> None:
    """Judges the units that come in until no more come; what fails unexpectedly is told, and ends it.

    Without a judge the first message must be a setup.
    """
    try:
        if judge is not None:
            send(outgoing, Ready())
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
    except BaseException as error:  # whoever waits for this worker must hear why it ends
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        send(outgoing, Defect(traceback.format_exc(limit=-6)))


def judge_of(setup: Setup) -> Judge:
    """A judge by the rules of a setup."""
    loaded = load_rules(setup.sources, setup.choice, Path(setup.cache) if setup.cache else None, setup.correlate)
    return loaded.judge(setup.scope, stats=setup.stats)


def keep_output_clean() -> None:
    """Findings and input are the hunt's own: what a library prints goes to standard error, and nothing is read."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the hunt that started it says when to stop
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)


def main() -> None:
    """Standard streams carry messages."""
    incoming, outgoing = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    keep_output_clean()
    serve(incoming, outgoing)


if __name__ == "__main__":
    main()
