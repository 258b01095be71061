"""Work done by a copy of this process: it sees the state as it was at one moment, and disturbs nobody.

The system copies a page only when one of the two writes to it (fork(2)), so the copy is there within milliseconds,
and its work shares neither interpreter lock nor memory with what goes on here. The copy has one thread and none of
the connections: it computes bytes, writes them into a pipe and ends. It must take no lock that another thread may
have held when the copy was made; so it imports nothing, logs nothing and waits for nobody.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import struct
import time
from collections.abc import Callable
from contextlib import suppress

# Seconds of processor time, whether the bytes are the result (else the error's text), how many bytes follow.
_HEADER = struct.Struct(">d?Q")
_NICER = 5
LONGEST_S = 600
"""So long a copy lives at most, though the original is gone and nobody ends it."""


class CopyFailed(RuntimeError):
    """The copy did not give a result: it says why, or it was ended."""


class ForkedCopy:
    """A copy at work. Await `result` once, or `abandon` it."""

    def __init__(self, process: int, pipe: int) -> None:
        self._process = process
        self._pipe = pipe

    async def result(self, longest_s: float) -> tuple[float, bytes]:
        """Seconds of processor time that the work took, and what it came to. CopyFailed when it took too long."""
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        # An unbuffered file owns the pipe from here on; the transport closes it.
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(self._pipe, "rb", buffering=0)
        )
        try:
            async with asyncio.timeout(longest_s):
                written = await reader.read()
        except TimeoutError:
            raise CopyFailed(f"the copy took more than {longest_s:g} s") from None
        finally:
            transport.close()
            self._end()
        return _read(written)

    def abandon(self) -> None:
        """Nobody wants the result any more."""
        os.close(self._pipe)
        self._end()

    def _end(self) -> None:
        with suppress(ChildProcessError):  # where the ends of children are ignored, the system reaps them
            if os.waitpid(self._process, os.WNOHANG) == (0, 0):
                os.kill(self._process, signal.SIGKILL)
                os.waitpid(self._process, 0)


def fork_copy(work: Callable[[], bytes], longest_s: int = LONGEST_S) -> ForkedCopy:
    """A copy of this process that does the work, for at most so long. OSError when the system has no room for one."""
    reading, writing = os.pipe()
    try:
        process = os.fork()
    except OSError:
        os.close(reading)
        os.close(writing)
        raise
    if process == 0:
        _in_the_copy(work, writing, longest_s)
    os.close(writing)
    return ForkedCopy(process, reading)


def _in_the_copy(work: Callable[[], bytes], writing: int, longest_s: int) -> None:
    """Never returns: what follows in the caller is the original's."""
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # which ends the process, whatever it is at
        signal.alarm(longest_s)
        gc.disable()  # it would touch, and so copy, every object
        os.nice(_NICER)
        # Not even by living longer than the original may it hold a connection or a lock of the original's.
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        os.closerange(3, writing)
        os.closerange(writing + 1, most)
        began = time.thread_time()
        try:
            good, result = True, work()
        except Exception as error:
            good, result = False, f"{type(error).__name__}: {error}".encode()
        _write(writing, _HEADER.pack(time.thread_time() - began, good, len(result)))
        _write(writing, result)
    finally:
        os._exit(0)


def _write(pipe: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(pipe, left) :]


def _read(written: bytes) -> tuple[float, bytes]:
    if len(written) < _HEADER.size:
        raise CopyFailed("the copy ended before it had a result")
    seconds, good, size = _HEADER.unpack_from(written)
    result = written[_HEADER.size :]
    if len(result) != size:
        raise CopyFailed(f"the copy ended after {len(result)} of {size} bytes")
    if not good:
        raise CopyFailed(result.decode(errors="replace"))
    return seconds, result
