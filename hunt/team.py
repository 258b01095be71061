"""Many workers on one hunt: units go to whoever is free, results come back in the order of the units.

A thread for each worker does nothing but wait for it. What comes early waits here up to a bound; beyond it a worker
that is ahead waits in its pipe until its turn has come.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from typing import IO, Final, Self

from hunt.frames import FROM_WORKER, Defect, Done, Partial, Ready, receive, send
from hunt.judge import Result
from hunt.processes import Worker
from hunt.units import Unit

MAX_WAITING_BYTES: Final = 64 << 20
_PATIENCE_SECONDS: Final = 10.0


class WorkerFailed(RuntimeError):
    """A worker ended before its work was done; the text says how."""


class _Pending:
    """The results of one unit that have come so far."""

    def __init__(self) -> None:
        self.results: deque[tuple[int, Result]] = deque()
        self.done = False


class Team:
    """Some workers with the same rules. Use it as a context manager; not for use by two threads."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._changed = threading.Condition()
        self._pending: deque[_Pending] = deque()
        self._waiting = 0
        self._failure: BaseException | None = None
        self._stopped = False
        self._units: Iterator[Unit] | None = None
        self._taking = threading.Lock()
        self._workers = workers
        self._threads = [threading.Thread(target=self._serve, args=(worker,), daemon=True) for worker in workers]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the workers, whatever they are at."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for worker in self._workers:
            worker.end()
        for worker in self._workers:
            if worker.wait(_PATIENCE_SECONDS) is None:
                worker.kill()
        patience = _PATIENCE_SECONDS / 10
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(patience)
                # One may be waiting for input that never comes, and the others for it: they end with the process.
                patience = 0.0 if thread.is_alive() else patience
        for worker in self._workers:
            for stream in (worker.outgoing, worker.incoming):
                _close(stream)

    def results(self, units: Iterator[Unit]) -> Iterator[Result]:
        """The results of all units, in their order. Raises WorkerFailed, or what taking the next unit raised."""
        self._units = units
        for thread in self._threads:
            thread.start()
        while True:
            with self._changed:
                while not self._has_next():
                    if self._failure is not None:
                        raise self._failure
                    if not self._pending and not any(thread.is_alive() for thread in self._threads):
                        return
                    self._changed.wait(0.5)
                if not self._pending[0].results:
                    self._pending.popleft()
                    self._changed.notify_all()
                    continue
                size, result = self._pending[0].results.popleft()
                self._waiting -= size
                self._changed.notify_all()
            yield result

    def _has_next(self) -> bool:
        return bool(self._pending) and (self._pending[0].done or bool(self._pending[0].results))

    def _serve(self, worker: Worker) -> None:
        """One worker's thread: hands it units and collects what comes of them."""
        unit: Unit | None = None
        try:
            worker.begin()
            self._expect(worker, None)
            while (taken := self._take()) is not None:
                unit, pending = taken
                send(worker.outgoing, unit)
                self._expect(worker, pending)
        except BaseException as error:  # it must reach the one who waits for the results
            with self._changed:
                self._failure = self._failure or _as_failure(error, worker, unit)
                self._changed.notify_all()
        else:
            with self._changed:
                self._changed.notify_all()

    def _take(self) -> tuple[Unit, _Pending] | None:
        with self._taking:
            with self._changed:
                if self._stopped or self._failure is not None:
                    return None
            unit = next(self._units, None) if self._units is not None else None
            if unit is None:
                return None
            with self._changed:
                pending = _Pending()
                self._pending.append(pending)
            return unit, pending

    def _expect(self, worker: Worker, pending: _Pending | None) -> None:
        """Takes messages until the worker is ready for the next unit. Raises EOFError when it is gone."""
        while (data := receive(worker.incoming)) is not None:
            match FROM_WORKER.decode(data):
                case Ready():
                    return
                case Done():
                    with self._changed:
                        if pending is not None:
                            pending.done = True
                        self._changed.notify_all()
                    return
                case Defect(error):
                    raise WorkerFailed(error)
                case Partial(result):
                    self._keep(pending, len(data), result)
        raise EOFError

    def _keep(self, pending: _Pending | None, size: int, result: Result) -> None:
        with self._changed:
            while (
                self._waiting + size > MAX_WAITING_BYTES
                and self._waiting
                and not self._stopped
                and not (self._pending and self._pending[0] is pending)
            ):
                self._changed.wait()
            if pending is not None:
                pending.results.append((size, result))
                self._waiting += size
            self._changed.notify_all()


def _as_failure(error: BaseException, worker: Worker, unit: Unit | None) -> BaseException:
    """What the one who waits is told of an error that befell a worker at that unit."""
    at = f" at {unit.path}" if unit is not None else ""
    if isinstance(error, WorkerFailed):
        return WorkerFailed(f"a worker failed{at}:\n{error}")
    if isinstance(error, EOFError | ConnectionError):
        status = worker.wait(_PATIENCE_SECONDS)
        hint = "was it killed for want of memory? Try fewer --jobs"
        return WorkerFailed(f"a worker ended with status {status}{at}: {hint}")
    return error


def _close(stream: IO[bytes]) -> None:
    try:
        stream.close()
    except OSError:  # what was still to be written went nowhere, and nobody waits for it
        return
