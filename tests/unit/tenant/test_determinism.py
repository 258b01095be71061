"""State is a function of the journal: cut it anywhere, go on from the snapshot, and not a byte differs."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

second = st.integers(min_value=0, max_value=4000)
lines = st.one_of(
    st.builds(
        lambda number, user, last: (
            f"Nov 14 22:00:00 web-1 sshd[{number}]: Failed password for invalid user {user} from 203.0.113.{last} "
            f"port {number} ssh2"
        ),
        st.integers(min_value=1, max_value=9999),
        st.sampled_from(["admin", "bob", "eve"]),
        st.integers(min_value=1, max_value=3),
    ),
    st.sampled_from(
        [
            "Nov 14 22:00:00 web-1 sshd[7]: Accepted password for bob from 203.0.113.1 port 7 ssh2",
            "Nov 14 22:00:00 web-1 sudo:      bob : TTY=pts/0 ; PWD=/home/bob ; USER=root ; COMMAND=/bin/sh",
            "Nov 14 22:00:00 web-1 crontab[2002]: (root) REPLACE (root)",
        ]
    ),
    st.text(max_size=30),
)
burst = st.builds(
    lambda start, count: [
        (
            start + number,
            f"Nov 14 22:00:00 web-1 sshd[1]: Failed password for root from 203.0.113.9 port {number} ssh2",
        )
        for number in range(count)
    ],
    second,
    st.integers(min_value=5, max_value=30),
)
log_step = st.tuples(st.just("lines"), st.one_of(st.lists(st.tuples(second, lines), max_size=8), burst))
control_step = st.one_of(
    st.tuples(st.just("tick"), st.integers(min_value=0, max_value=20_000)),
    st.tuples(st.just("rules"), st.sampled_from(["full", "small", "gone"])),
    st.tuples(st.just("raw"), st.binary(max_size=8)),
)
steps = st.lists(st.one_of(log_step, log_step, control_step), min_size=1, max_size=12)


@given(steps=steps, cut=st.integers(min_value=0, max_value=12))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_run_that_was_cut_and_restored_equals_the_uninterrupted_one(
    bench: Any, journal: Any, steps: list[Any], cut: int
) -> None:
    journal.seq, journal.batches = 0, []
    journal.control(type="rules", digest=bench.full)
    for kind, value in steps:
        if kind == "lines":
            journal.lines(value)
        elif kind == "tick":
            journal.control(type="tick", received=value)
        elif kind == "rules":
            journal.control(type="rules", digest={"full": bench.full, "small": bench.small}.get(value, value))
        else:
            journal.raw("otlp_protobuf", value)
    whole = bench.detector()
    expected = [whole.observe(batch) for batch in journal.batches]
    first = bench.detector()
    outputs = [first.observe(batch) for batch in journal.batches[:cut]]
    second_half = bench.detector()
    second_half.restore(first.snapshot())
    outputs += [second_half.observe(batch) for batch in journal.batches[cut:]]
    assert outputs == expected
    assert second_half.snapshot() == whole.snapshot()
    assert second_half.seq == whole.seq == len(journal.batches)


def test_the_same_journal_gives_the_same_bytes_and_a_snapshot_changes_nothing(
    bench: Any, journal: Any, failed: Any
) -> None:
    journal.control(type="rules", digest=bench.full)
    for number in range(20):
        journal.lines([(100 * number + each, failed(each, f"u{each}")) for each in range(10)])
    quiet, watched = bench.detector(), bench.detector()
    for batch in journal.batches:
        assert quiet.observe(batch) == watched.observe(batch)
        watched.snapshot()
    assert quiet.snapshot() == watched.snapshot()
