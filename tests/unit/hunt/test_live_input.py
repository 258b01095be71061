"""A stream that nothing comes from for a while."""

from __future__ import annotations

import io
import os
import signal
import threading

import pytest

from hunt.live_input import LiveInput


def test_what_is_there_is_read_without_waiting_for_more() -> None:
    to_read, to_write = os.pipe()
    os.write(to_write, b"one\ntwo\n")
    reader = io.BufferedReader(LiveInput(to_read))
    assert reader.read1(100) == b"one\ntwo\n"
    os.close(to_write)
    assert reader.read1(100) == b""
    reader.close()
    os.close(to_read)  # it was its owner's to close


def test_an_interrupt_that_does_not_reach_the_wait_itself_is_noticed() -> None:
    to_read, to_write = os.pipe()
    given_up = threading.Event()
    noticed = threading.Event()

    def interrupt() -> None:
        # A signal that another thread takes leaves the waiting one where it is: so does one that comes just before.
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        if not noticed.wait(20):
            given_up.set()
            os.close(to_write)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Timer(0.2, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            thread.start()
            LiveInput(to_read).read(1)
        noticed.set()
        assert not given_up.is_set()
    finally:
        signal.signal(signal.SIGINT, before)
        thread.join()
