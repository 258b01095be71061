"""Signals while something is brought up: one exception, and no second Ctrl-C cuts the clean-up short."""

from __future__ import annotations

import os
import signal

import pytest

from cluster.stop_signals import STOPPING, StopRequested, StopSignals


@pytest.mark.parametrize("number", STOPPING)
def test_every_stopping_signal_is_one_exception_with_the_shells_exit_code(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopSignals():
        with pytest.raises(StopRequested) as caught:
            os.kill(os.getpid(), number)
        assert caught.value.exit_code == 128 + number
    assert signal.getsignal(number) is before


def test_a_request_that_was_swallowed_is_raised_again_at_the_next_step() -> None:
    with StopSignals() as signals:
        signals.check()
        with pytest.raises(StopRequested):
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(StopRequested):
            signals.check()


def test_the_clean_up_is_not_interrupted() -> None:
    with StopSignals() as signals:
        signals.begin_stopping()
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        signals.check()


def test_signals_that_a_library_took_are_taken_back() -> None:
    with StopSignals() as signals:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signals.install()
        with pytest.raises(StopRequested):
            os.kill(os.getpid(), signal.SIGTERM)
