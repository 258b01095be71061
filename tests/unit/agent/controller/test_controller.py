"""The loop against a real server: what is carried out, what is refused, and that nothing runs twice."""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.contract import SigningKey
from agent.controller.settings import ControllerSettings
from agent.jobs import Job, JobKeys, Result, sign_keys
from tests.unit.agent.controller.conftest import Started
from tests.unit.agent.controller.control_server import AGENT, ControlServer, now_ms, raw


def test_a_ping_is_answered_with_versions_and_clock(server: ControlServer, start: Started) -> None:
    job = server.job("PING", {"echo": "hello"})
    item = server.give(job)
    start()
    result = server.wait_final(job)
    assert (result.state, result.reason, result.agent) == ("succeeded", "", AGENT)
    assert (str(result.lease), result.attempt) == (item["lease"], 1)
    assert result.output == "pong hello\n"
    assert result.data["echo"] == "hello"
    assert abs(result.data["clock_ms"] - now_ms()) < 60_000
    assert [other.state for other in server.results if other.job == job.id] == ["running", "succeeded"]
    assert server.health[0]["status"] == "ok"


def _altered(item: dict[str, Any]) -> dict[str, Any]:
    job = json.loads(item["job"])
    job["args"] = {"echo": "something else"}
    return item | {"job": json.dumps(job, sort_keys=True, separators=(",", ":"))}


REFUSED = {
    "expired": ("expired", {"issued_at": 1_000, "not_before": 1_000, "expires_at": 2_000}),
    "not yet": ("not_yet", {"not_before": now_ms() + 3_600_000, "expires_at": now_ms() + 7_200_000}),
    "foreign tenant": ("foreign_tenant", {"tenant": uuid.uuid4()}),
    "foreign agent": ("foreign_agent", {"agent": "web-2"}),
    "unknown key": ("unknown_key", {"key_id": "jk-9"}),
    "unknown type": ("unknown_type", {"type": "RUN_SHELL"}),
    "wrong arguments": ("bad_arguments", {"args": {"echo": 7}}),
    "arguments that nobody reads": ("bad_arguments", {"args": {"job_keys": ["mine"]}}),
}


@pytest.mark.parametrize(("reason", "changes"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_for_this_agent_now_is_rejected(
    server: ControlServer, start: Started, reason: str, changes: dict[str, Any]
) -> None:
    job = replace(server.job("PING"), **changes)
    server.give(job)
    start()
    result = server.wait_final(job)
    assert (result.state, result.reason) == ("rejected", reason)
    assert not result.output


def test_an_altered_job_and_one_of_another_key_are_rejected(server: ControlServer, start: Started) -> None:
    altered, foreign = server.job("PING", {"echo": "a"}), server.job("PING")
    item = server.give(altered)
    server.items.clear()
    server.put(_altered(item))
    server.give(foreign, key=Ed25519PrivateKey.generate())
    start()
    assert server.wait_final(altered).reason == "bad_signature"
    assert server.wait_final(foreign).reason == "bad_signature"


def test_a_forged_job_does_not_spoil_the_true_one_of_the_same_id(server: ControlServer, start: Started) -> None:
    job = server.job("PING", {"echo": "true"})
    server.give(job, key=Ed25519PrivateKey.generate())
    server.give(job)
    start()
    assert server.wait_final(job, count=2).state == "succeeded"
    assert [result.state for result in server.finals(job)] == ["rejected", "succeeded"]


def test_a_job_that_comes_again_is_answered_with_what_came_of_it(
    server: ControlServer, start: Started, settings: ControllerSettings, tmp_path: Path
) -> None:
    count = tmp_path / "count"
    reloads = replace(settings.rules, command=("/bin/sh", "-c", f"echo x >> {count}"))
    job = server.job("RULES_RELOAD")
    server.give(job)
    start(rules=reloads)
    first = server.wait_final(job)
    again = server.give(job, attempt=2)
    second = server.wait_final(job, count=2)
    assert first.state == second.state == "succeeded"
    assert (str(second.lease), second.attempt) == (again["lease"], 2)
    assert (first.started_at, first.ended_at) == (second.started_at, second.ended_at)
    assert count.read_text() == "x\n"


def test_a_job_that_comes_again_under_another_key_is_the_same_job(server: ControlServer, start: Started) -> None:
    new = Ed25519PrivateKey.generate()
    text, signature = sign_keys(
        server.job_key, JobKeys(1, now_ms(), {"jk-1": raw(server.job_key), "jk-2": raw(new)}, "jk-1")
    )
    server.job_keys = {"statement": text, "signature": signature}
    job = server.job("PING")
    server.give(job)
    start()
    first = server.wait_final(job)
    server.give(replace(job, key_id="jk-2"), key=new, attempt=2)
    second = server.wait_final(job, count=2)
    assert (first.state, first.ended_at) == (second.state, second.ended_at) == ("succeeded", first.ended_at)


def test_another_job_of_the_same_id_or_idempotency_key_is_repeated(server: ControlServer, start: Started) -> None:
    job = server.job("PING", {"echo": "first"})
    server.give(job)
    start()
    server.wait_final(job)
    other_args = replace(job, args={"echo": "second"})
    other_id = replace(job, id=uuid.uuid4())
    server.give(other_args)
    server.give(other_id)
    assert server.wait_final(other_id).reason == "repeated"
    assert server.wait_final(other_args, count=2).reason == "repeated"


def test_a_rate_is_kept_also_across_a_restart(
    server: ControlServer, start: Started, settings: ControllerSettings
) -> None:
    Path(settings.policy).write_text("jobs: {PING: 2/day}\n")
    jobs = [server.job("PING") for _ in range(4)]
    controller = start()
    for job in jobs[:2]:
        server.give(job)
        assert server.wait_final(job).state == "succeeded"
    server.give(jobs[2])
    assert server.wait_final(jobs[2]).reason == "over_rate"
    controller.stop()
    while controller._journal._lock >= 0:
        controller.stopping.wait(0.01)
        os.sched_yield()
    start()
    server.give(jobs[3])
    assert server.wait_final(jobs[3]).reason == "over_rate"


@pytest.mark.parametrize("policy", ["jobs: {PING: }\n", "jobs: {}\n", "nonsense: 1\n"])
def test_the_host_s_policy_has_the_last_word(
    server: ControlServer, start: Started, settings: ControllerSettings, policy: str
) -> None:
    start()
    Path(settings.policy).write_text(policy)
    job = server.job("RULES_RELOAD")
    server.give(job)
    result = server.wait_final(job)
    assert (result.state, result.reason) == ("rejected", "policy_unreadable" if "nonsense" in policy else "host_policy")


def test_a_policy_that_cannot_be_read_at_the_start_allows_nothing_and_ends_nothing(
    server: ControlServer, start: Started, settings: ControllerSettings
) -> None:
    """An agent that ended for it would take the host's logs with it, which nobody's policy is about."""
    Path(settings.policy).write_text("nonsense: 1\n")
    start()
    with server.changed:
        assert server.changed.wait_for(lambda: bool(server.health), 30)
    assert server.health[0]["status"] == "degraded"
    assert "nonsense" in server.health[0]["detail"]
    job = server.job("PING")
    server.give(job)
    assert server.wait_final(job).reason == "policy_unreadable"
    Path(settings.policy).write_text("jobs: {PING: }\n")
    mended = server.job("PING")
    server.give(mended)
    assert server.wait_final(mended).state == "succeeded"


def test_a_server_that_is_away_or_answers_as_a_proxy_does_is_asked_again(server: ControlServer, start: Started) -> None:
    failures = iter([(503, {"detail": "store"}), (500, {}), (429, {})])
    job = server.job("PING")
    server.give(job)
    server.hook = lambda path, _: next(failures, None) if path == "/agent/jobs/pull" else None
    start()
    assert server.wait_final(job).state == "succeeded"


def test_results_are_told_until_the_server_takes_them(server: ControlServer, start: Started) -> None:
    failures = iter([(503, {}), (503, {}), (503, {})])
    job = server.job("PING")
    server.give(job)
    server.hook = lambda path, _: next(failures, None) if path == "/agent/jobs/result" else None
    start()
    assert server.wait_final(job).state == "succeeded"
    assert len(server.finals(job)) == 1


def test_job_keys_rotate_by_a_statement_that_a_pinned_key_signed(server: ControlServer, start: Started) -> None:
    new, stranger = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    keys = {"jk-1": raw(server.job_key), "jk-2": raw(new)}
    forged = sign_keys(stranger, JobKeys(9, now_ms(), {"jk-9": raw(stranger)}, "jk-1"))
    server.job_keys = {"statement": forged[0], "signature": forged[1]}
    start()
    foreign = server.job("PING", key_id="jk-9")
    server.give(foreign, key=stranger)
    assert server.wait_final(foreign).reason == "unknown_key"

    text, signature = sign_keys(server.job_key, JobKeys(2, now_ms(), keys, "jk-1"))
    server.job_keys = {"statement": text, "signature": signature}
    for job in (server.job("PING"), server.job("PING")):
        server.give(job)
        server.wait_final(job)
    by_new = server.job("PING", key_id="jk-2")
    server.give(by_new, key=new)
    assert server.wait_final(by_new).state == "succeeded"
    # The old key goes with the next statement, and an older statement does not bring it back.
    last = sign_keys(new, JobKeys(3, now_ms(), {"jk-2": raw(new)}, "jk-2"))
    server.job_keys = {"statement": last[0], "signature": last[1]}
    for job in (server.job("PING", key_id="jk-2"), server.job("PING", key_id="jk-2")):
        server.give(job, key=new)
        server.wait_final(job)
    server.job_keys = {"statement": text, "signature": signature}
    replayed: list[Result] = []
    for job in (server.job("PING", key_id="jk-2"), server.job("PING")):
        server.give(job, key=new if job.key_id == "jk-2" else server.job_key)
        replayed.append(server.wait_final(job))
    assert [result.reason for result in replayed] == ["", "unknown_key"]


def test_a_clock_that_is_off_is_said_and_requests_are_signed_with_the_server_s(
    server: ControlServer, start: Started
) -> None:
    server.clock_ahead_ms = 3_600_000
    first, second = server.job("PING"), server.job("PING")
    start()
    for job in (first, second):
        server.give(job)
        server.wait_final(job)
    assert "-3600 s off" in server.health[-1]["detail"]
    assert server.health[-1]["status"] == "degraded"
    assert abs(server.finals(second)[0].data["clock_offset_ms"] - 3_600_000) < 10_000


def test_what_is_no_job_at_all_ends_nothing(server: ControlServer, start: Started) -> None:
    good = server.job("PING")
    for item in ({}, {"job": 1}, {"job": "{}", "signature": "", "lease": "x", "attempt": 1}, "text", None, [1]):
        server.put(item)  # type: ignore[arg-type]
    server.put({"job": "{}", "signature": "", "lease": str(uuid.uuid4()), "attempt": 1})
    server.give(good)
    start()
    assert server.wait_final(good).state == "succeeded"


@pytest.mark.parametrize("attempt", [-1, 2**60, True, "1", 1.5])
def test_a_delivery_that_no_result_could_name_runs_nothing_and_ends_nothing(
    server: ControlServer, start: Started, attempt: Any
) -> None:
    """The job is rightly signed; what stands around it is not signed by anybody."""
    odd, unsigned, good = server.job("PING"), server.job("PING"), server.job("PING")
    server.give(odd)
    server.give(unsigned, key=Ed25519PrivateKey.generate())
    server.items = [item | {"attempt": attempt} for item in server.items]
    server.give(good)
    start()
    assert server.wait_final(good).state == "succeeded"
    assert not server.finals(odd)
    assert not server.finals(unsigned)


def test_job_keys_that_are_no_text_at_all_end_nothing(server: ControlServer, start: Started) -> None:
    server.job_keys = {"statement": "\ud800", "signature": "\udfff"}
    job = server.job("PING")
    server.give(job)
    start()
    assert server.wait_final(job).state == "succeeded"


def test_a_signing_key_that_was_put_in_place_is_used_from_the_next_poll_on(
    server: ControlServer, start: Started, settings: ControllerSettings
) -> None:
    start()
    first, second = server.job("PING"), server.job("PING")
    server.give(first)
    server.wait_final(first)
    server.signing_key = SigningKey("sk-2", "tss_sk-2_another")
    stated = {"key_id": server.signing_key.key_id, "secret": server.signing_key.secret}
    (Path(settings.folder) / "signing_key.json").write_text(json.dumps(stated))
    # Requests that were under way were signed by the old one, which a server takes for a while.
    polls = len(server.health)
    with server.changed:
        assert server.changed.wait_for(lambda: len(server.health) > polls + 1, 30)
    server.troubles.clear()
    server.give(second)
    assert server.wait_final(second).state == "succeeded"
    assert not server.troubles


def test_a_signing_key_that_cannot_be_read_leaves_the_one_before_in_use(
    server: ControlServer, start: Started, settings: ControllerSettings
) -> None:
    start()
    with server.changed:
        assert server.changed.wait_for(lambda: bool(server.health), 30)
    (Path(settings.folder) / "signing_key.json").write_text("{")
    for job in (server.job("PING"), server.job("PING")):
        server.give(job)
        assert server.wait_final(job).state == "succeeded"
    assert "signing_key.json" in server.health[-1]["detail"]


def test_no_word_of_a_result_gives_orders_to_a_terminal(
    server: ControlServer, start: Started, settings: ControllerSettings
) -> None:
    says = replace(settings.rules, command=("/bin/sh", "-c", "printf 'a\\033[2Jb\\342\\200\\256c'; exit 1"))
    job = server.job("RULES_RELOAD")
    server.give(job)
    start(rules=says)
    result = server.wait_final(job)
    assert result.state == "failed"
    assert "a\ufffd[2Jb\ufffdc" in result.detail


def test_output_is_streamed_while_the_job_runs(
    server: ControlServer, start: Started, settings: ControllerSettings, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    waits = replace(settings.rules, command=("/bin/sh", "-c", f"while ! test -e {go}; do sleep 0.05; done"))
    job: Job = server.job("RULES_RELOAD")
    server.give(job)
    start(rules=waits)
    with server.changed:
        server.changed.wait_for(lambda: False, 2.5)
    streamed = server.outputs.get(str(job.id), "")
    go.touch()
    result = server.wait_final(job)
    assert streamed == result.output != ""
