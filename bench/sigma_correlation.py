"""What a correlation costs: matches of 5,000 users in the bounds that detectors keep, one in twenty late, each kind in
turn; and what those bounds cost, when 50,000 users share the room for 10,000.

A match comes every 12 ms of event time and the span is five minutes, so that a group holds five to eight. Time passes
as in a detector: every whole minute windows close, and what no window can reach is forgotten, which is part of the
figure.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Iterator
from itertools import islice

from bench.figures import Figure
from detect.record import LogRecord, Logsource, NormalizedRecord, RecordRef
from detect.sigma import load_rule_set
from detect.sigma.correlation import MAX_GROUPS, CorrelationState, Signal

_FLOOR = 200_000
_UPDATES = 200_000
_BATCH = 200
_USERS = MAX_GROUPS // 2
_CROWD = 5 * MAX_GROUPS
_EVERY_NS = 12 * 10**6
_LATE_NS = 30 * 10**9
_MINUTE_NS = 60 * 10**9
_BASE_NS = 1_795_338_000 * 10**9
_KINDS = {
    "event_count": "condition: {gte: 1000}",
    "value_count": "condition: {gte: 1000, field: value}",
    "temporal": "",
    "temporal_ordered": "",
}
_RULE = """title: Rule NUMBER
name: rule_NUMBER
logsource: {product: test}
detection: {a: {value: NUMBER}, condition: a}
---
"""
_CORRELATION = """title: Correlation
correlation:
  type: KIND
  rules: [rule_0, rule_1, rule_2]
  group-by: [user]
  timespan: 5m
  CONDITION
"""


def correlation_figures(command: str) -> list[Figure]:
    """Updates per second of processor time, for each kind of correlation, and for one whose groups do not fit."""
    # As a detector's process has it (actors/detector.py); the default looks at the live state many times more often.
    thresholds = gc.get_threshold()
    gc.set_threshold(100_000, 5, 80)
    try:
        rates = {kind: _rate(kind, _USERS) for kind in _KINDS}
        rates["event_count, five times more groups than room"] = _rate("event_count", _CROWD)
    finally:
        gc.set_threshold(*thresholds)
    return [
        Figure(f"Sigma correlation, {name}", rate, "updates/CPU s", _FLOOR, "higher", command)
        for name, rate in rates.items()
    ]


def _rate(kind: str, users: int) -> float:
    texts = [_RULE.replace("NUMBER", str(number)) for number in range(3)]
    text = "".join((*texts, _CORRELATION.replace("KIND", kind).replace("CONDITION", _KINDS[kind])))
    [correlation] = load_rule_set([("rules.yml", text)]).correlations
    state = CorrelationState(correlation, "bench")
    signals = _signals(correlation.sources, users)
    spent = 0.0
    watermark_ns = 0
    # Batch by batch, as records come: a detector looks at a match while the processor still has its record at hand.
    while batch := list(islice(signals, _BATCH)):
        reached_ns = (batch[-1].time_ns - _LATE_NS) // _MINUTE_NS * _MINUTE_NS
        began = time.thread_time()
        for signal in batch:
            state.observe(signal, watermark_ns)
        if reached_ns > watermark_ns:
            watermark_ns = reached_ns
            state.close(watermark_ns)
            state.expire(watermark_ns)
        spent += time.thread_time() - began
    if bool(state.evicted) != (users > MAX_GROUPS):
        raise RuntimeError(f"{state.evicted} groups were evicted of {users}: this is not what the figure is of")
    return _UPDATES / spent


def _signals(sources: tuple[str, ...], users: int) -> Iterator[Signal]:
    """Matches of the first two rules, and one in a hundred of the third, which completes what asks for all."""
    chance = random.Random(1)
    for place in range(_UPDATES):
        late = _LATE_NS // 2 if chance.random() < 0.05 else 0
        time_ns = _BASE_NS + place * _EVERY_NS - late
        ref = RecordRef(1, place)
        stored = LogRecord(ref, time_ns, time_ns, time_ns, time_ns, 9, "", None, {}, {})
        fields = {"user": f"user {chance.randrange(users)}", "value": f"value {place % 1000}"}
        record = NormalizedRecord(stored, Logsource("test"), fields, (), "")  # type: ignore[arg-type]  # only texts
        source = sources[2 if place % 100 == 0 else chance.randrange(2)]
        yield Signal(source, time_ns, ref, record, (), (), {})
