"""What an agent of another version says of itself."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from serve.control.agent_models import PullRequest

HEALTH = {"version": "9.0", "started_at": 1, "status": "ok"}


def test_what_a_newer_agent_says_besides_is_passed_over() -> None:
    """A server that refused it would answer no poll of that agent again, not even with the way back."""
    stated = {"wait_s": 1, "health": HEALTH | {"mood": "good", "config": {"state": "applied", "age_s": 5}}}
    read = PullRequest.model_validate(stated)
    assert (read.health.version, read.health.config.state) == ("9.0", "applied")
    assert "mood" not in read.health.model_dump()


def test_around_it_nothing_unknown_is_taken() -> None:
    with pytest.raises(ValidationError):
        PullRequest.model_validate({"wait_s": 1, "health": HEALTH, "mood": "good"})
    with pytest.raises(ValidationError):
        PullRequest.model_validate({"wait_s": 1, "health": HEALTH | {"status": "splendid"}})
