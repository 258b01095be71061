"""The processes that work on a hunt: copies of this one where that is safe, interpreters of their own elsewhere.

A copy shares the rules that were loaded here and starts in milliseconds. It inherits everything else, too, so it
touches nothing of it: it reads and writes its two pipes, and ends without tidying up what is not its own.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Protocol, cast

import hunt
from hunt.frames import Setup, send
from hunt.judge import Judge
from hunt.worker import keep_output_clean, serve

_THREADS = Path("/proc/self/task")


class Worker(Protocol):
    """A process that judges what is written to `outgoing`; its answers come from `incoming`."""

    incoming: IO[bytes]
    outgoing: IO[bytes]

    def begin(self) -> None:
        """Tells it its rules, where it does not know them. Raises OSError when it is gone."""
        ...

    def end(self) -> None:
        """Asks it to end, whatever it is at."""
        ...

    def wait(self, seconds: float) -> int | None:
        """Its exit status; None when it still runs after so long."""
        ...

    def kill(self) -> None:
        """Ends it."""
        ...


class OwnInterpreter:
    """A worker that loads the rules of the setup itself."""

    def __init__(self, setup: Setup) -> None:
        package = str(Path(hunt.__file__).parents[1])
        path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH", ""))))
        self._setup = setup
        self._process = subprocess.Popen(
            [sys.executable, "-m", "hunt.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": path},
        )
        self.incoming = cast("IO[bytes]", self._process.stdout)
        self.outgoing = cast("IO[bytes]", self._process.stdin)

    def begin(self) -> None:
        send(self.outgoing, self._setup)

    def end(self) -> None:
        self._process.terminate()

    def wait(self, seconds: float) -> int | None:
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


class Copy:
    """A worker that is a copy of this process, with the judge that it has."""

    def __init__(self, judge: Judge, others: Sequence[Worker]) -> None:
        """`others` are the copies made before, whose pipes this one must not hold open."""
        to_read, told = os.pipe()
        answers, to_write = os.pipe()
        self.incoming: IO[bytes] = os.fdopen(answers, "rb")
        self.outgoing: IO[bytes] = os.fdopen(told, "wb")
        everyone: tuple[Worker, ...] = (*others, self)
        kept_open = [stream.fileno() for worker in everyone for stream in (worker.incoming, worker.outgoing)]
        context = multiprocessing.get_context("fork")
        self._process = context.Process(target=_work, args=(judge, to_read, to_write, kept_open), daemon=True)
        self._process.start()
        os.close(to_read)
        os.close(to_write)

    def begin(self) -> None:
        return

    def end(self) -> None:
        self._process.terminate()

    def wait(self, seconds: float) -> int | None:
        self._process.join(seconds)
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()
        self._process.join()


def _work(judge: Judge, to_read: int, to_write: int, not_ours: Sequence[int]) -> None:
    for number in not_ours:
        os.close(number)
    keep_output_clean()
    with suppress(BrokenPipeError), os.fdopen(to_read, "rb") as incoming, os.fdopen(to_write, "wb") as outgoing:
        serve(incoming, outgoing, judge)


def can_copy() -> bool:
    """Whether this process can be copied: on Linux, and with one thread, for what another holds would stay held."""
    if sys.platform != "linux" or threading.active_count() > 1:
        return False
    try:
        return len(list(_THREADS.iterdir())) == 1  # those of libraries, too
    except OSError:
        return False


def copies(judge: Judge, count: int) -> list[Worker]:
    """So many copies of this process."""
    workers: list[Worker] = []
    with _ready_to_copy():
        for _ in range(count):
            workers.append(Copy(judge, workers))
    return workers


@contextmanager
def _ready_to_copy() -> Iterator[None]:
    """What a collector of garbage looks at, it writes to, and what is written to is shared no longer; and Ctrl-C must
    not meet a copy that does not know yet what it is."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
