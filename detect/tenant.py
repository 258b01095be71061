"""The whole detector of one tenant: journal batches in, everything they change out.

Its state is a function of the batches applied, in the order of `seq`; nothing else (no clock, no order of processes,
no retry) has a say. Event time passes with the records: the watermark is the latest event time seen less the allowed
lateness. A record behind the watermark is marked `late`, and is still normalised, matched and stored; correlations
and rollups say by themselves what they do with it. Every whole minute the watermark passes, windows close, models
judge them, and idle incidents end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol
from uuid import UUID

import msgspec

from detect.anomaly import AnomalyDetector, AnomalyModel, AnomalySettings
from detect.batch import Batch, BatchOutput
from detect.event import DetectionEvent, Evidence
from detect.fold import EventFolder, FoldWindow
from detect.group import GroupingSettings, IncidentGrouper
from detect.ledger import LedgerGapControl, ledger_gap
from detect.normalize import default_normalizer
from detect.otlp import DEFAULT_FUTURE_TOLERANCE_NS, decode
from detect.record import LogRecord, Logsource, Nanoseconds, NormalizedRecord, TenantId
from detect.retry import RetryControl
from detect.rollup import MINUTE_NS, ClosedWindow, EntityWindows, RollupSettings
from detect.sigma import RuleMatcher, RuleSet, SigmaDetector, SigmaRule
from detect.sigma.compiled import CompiledMatcher
from detect.snapshot import FORMAT, pack_snapshot, unpack_snapshot
from detect.snapshot_evidence import evidence_columns, in_journal_order, read_columns
from detect.tally import BatchTally


class DetectorSettings(msgspec.Struct, frozen=True):
    """What a tenant can choose, as far as it changes the judgement. Times are nanoseconds.

    `lateness_ns`: how far behind the latest event time a record may come and still count everywhere.
    `future_tolerance_ns`: how far ahead of its receive time a record may be stamped before it is clamped (detect.otlp).
    A model's probation belongs to the model: it is what `new_model` makes.
    """

    lateness_ns: Nanoseconds = 300 * 10**9
    future_tolerance_ns: Nanoseconds = DEFAULT_FUTURE_TOLERANCE_NS
    rollup: RollupSettings = msgspec.field(default_factory=RollupSettings)
    anomaly: AnomalySettings = msgspec.field(default_factory=AnomalySettings)
    grouping: GroupingSettings = msgspec.field(default_factory=GroupingSettings)


class RecordNormalizer(Protocol):
    """What the detector needs of detect.normalize.Normalizer."""

    def normalize(self, record: LogRecord) -> NormalizedRecord:
        """The record with its flat view."""
        ...


class RulesControl(msgspec.Struct, tag="rules", tag_field="type", frozen=True):
    """Control row: from its seq on the rule set with this digest is in force."""

    digest: str


_ODD_MESSAGE = 1000


class TickControl(msgspec.Struct, tag="tick", tag_field="type", frozen=True):
    """Control row: event time has come at least to this row's receive time, though no record says so."""


_CONTROL = msgspec.json.Decoder(RulesControl | TickControl | RetryControl | LedgerGapControl)


class TenantDetector:
    """Feed every journal row of the tenant, in order, once. Not for use by two threads.

    An exception other than ValueError for a wrong `seq` leaves the detector in an undefined state: restore it.
    """

    FORMAT: ClassVar[int] = FORMAT

    def __init__(
        self,
        tenant: TenantId,
        resolve_rules: Callable[[str], RuleSet],
        new_model: Callable[[], AnomalyModel],
        settings: DetectorSettings | None = None,
        normalizer: RecordNormalizer | None = None,
        matcher: Callable[[Sequence[SigmaRule]], RuleMatcher] = CompiledMatcher,
    ) -> None:
        """`matcher` makes the matcher of a rule set, or gives one that tenants of one thread share.
        `resolve_rules` gives the rule set with a digest, always the same one; LookupError or ValueError when there
        is none, which parks the control row. Any other error is taken for one that passes, and propagates."""
        self._tenant = tenant
        self._resolve_rules = resolve_rules
        self._new_model = new_model
        self._matcher = matcher
        self._normalizer: RecordNormalizer = normalizer or default_normalizer()
        self.seq = 0
        self._latest_ns: Nanoseconds = 0
        self._sigma: SigmaDetector | None = None
        self._start(settings or DetectorSettings())

    @property
    def rules_digest(self) -> str:
        """The rule set in force; empty before the first control row that names one."""
        return "" if self._sigma is None else self._sigma.rules.digest

    @property
    def watermark_ns(self) -> Nanoseconds:
        """Event time up to which records are taken to be complete; 0 before the first record."""
        return max(0, self._latest_ns - self._settings.lateness_ns)

    @property
    def open_windows(self) -> bool:
        """Whether a window waits for time to pass: the reason to give a silent tenant a tick row."""
        return self._windows.any_open or (self._sigma is not None and self._sigma.is_waiting)

    def observe(self, batch: Batch) -> BatchOutput:
        """Applies the next batch; ValueError, and no change, when it is not the next one."""
        if batch.seq != self.seq + 1:
            raise ValueError(
                f"tenant {self._tenant}: batch {batch.seq} cannot follow batch {self.seq}: feed all in order"
            )
        tally = BatchTally(batch.seq)
        lost_before = self._correlation_losses()
        records: list[NormalizedRecord] = []
        if batch.kind == "control":
            self._control(batch, tally, records)
        else:
            self._observe_records(batch, tally, records)
        if self._sigma is not None:
            tally.poison.extend(self._sigma.take_faults())
        if batch.kind != "control":  # other rules begin with other counters
            for name, count in self._correlation_losses().items():
                tally.counts[name] = count - lost_before[name]
        self._windows.seal()
        self.seq = batch.seq
        changes = self._grouper.take_changes(batch.seq)
        folds = self._folder.take_changes()
        return tally.output(records, changes, self._component_counts(), folds, open_windows=self.open_windows)

    def snapshot(self) -> bytes:
        """The whole state: the same journal gives the same bytes. `restore` reads it, pack_snapshot says the form."""
        sigma, windows = self._sigma, self._windows.snapshot()
        held = set[Evidence](windows["evidence"])
        if sigma is not None:
            held.update(*sigma.evidence())
        ordered = in_journal_order(held)
        numbers = {evidence: number for number, evidence in enumerate(ordered)}
        return pack_snapshot(
            FORMAT,
            {
                "tenant": self._tenant.bytes,
                "seq": self.seq,
                "latest_ns": self._latest_ns,
                "settings": msgspec.to_builtins(self._settings),
                "rules": None if sigma is None else sigma.rules.digest,
                "sigma": None if sigma is None else sigma.snapshot(numbers),
                "windows": windows | {"evidence": [numbers[evidence] for evidence in windows["evidence"]]},
                "anomaly": self._anomaly.snapshot(),
                "grouper": self._grouper.snapshot(),
                "folds": self._folder.snapshot(),
                "evidence": evidence_columns(ordered),
            },
        )

    def restore(self, state: bytes) -> None:
        """Goes on from a snapshot, with the settings and rules in force then.

        ValueError for another tenant's snapshot, another format, damage, or a model that `new_model` does not make;
        whatever `resolve_rules` raises when the rules then in force are gone. The detector must then be thrown away.
        """
        content = unpack_snapshot(self.FORMAT, state)
        evidence = read_columns(content["evidence"])
        tenant = TenantId(UUID(bytes=content["tenant"]))
        if tenant != self._tenant:
            raise ValueError(f"this snapshot is of tenant {tenant}, not of {self._tenant}")
        self._start(msgspec.convert(content["settings"], DetectorSettings))
        self._latest_ns = content["latest_ns"]
        if content["rules"] is not None:
            self._sigma = SigmaDetector(self._tenant, self._resolve_rules(content["rules"]), self._matcher)
            self._sigma.restore(content["sigma"], evidence)
        windows = content["windows"]
        self._windows.restore(windows | {"evidence": [evidence[number] for number in windows["evidence"]]})
        self._anomaly.restore(content["anomaly"])
        self._grouper.restore(content["grouper"])
        self._folder.restore(content["folds"])
        self.seq = content["seq"]

    def _start(self, settings: DetectorSettings) -> None:
        self._settings = settings
        self._latest_ns = 0
        self._sigma = None
        self._windows = EntityWindows(self._tenant.bytes, settings.rollup)
        self._anomaly = AnomalyDetector(self._tenant, self._new_model, settings.anomaly)
        self._grouper = IncidentGrouper(self._tenant, settings.grouping)
        self._folder = EventFolder()

    def _observe_records(self, batch: Batch, tally: BatchTally, records: list[NormalizedRecord]) -> None:
        for record in self._decoded(batch, tally):
            records.append(self._observe_record(record, tally))
            self._pass_time(record.time_ns, tally)

    def _control(self, batch: Batch, tally: BatchTally, records: list[NormalizedRecord]) -> None:
        try:
            control = _CONTROL.decode(batch.payload)
        except msgspec.DecodeError as error:
            tally.park(-1, "decode", "control", error)
            return
        match control:
            case RulesControl(digest):
                self._put_in_force(digest, tally)
            case TickControl():
                self._pass_time(batch.received_ns, tally)
            case RetryControl():
                self._retry(control, tally, records)
            case LedgerGapControl():
                record, event = ledger_gap(self._tenant, batch.seq, batch.received_ns, control)
                records.append(record)
                self._add_events([event], tally)

    def _retry(self, control: RetryControl, tally: BatchTally, records: list[NormalizedRecord]) -> None:
        """Judges again what was parked; `records` gets those that nothing has been stored of."""
        since = len(tally.poison)
        try:
            if not control.whole:
                self._observe_again(control, tally)
            elif control.kind == "control":
                self._control(control.batch(), tally, records)
            else:
                self._observe_records(control.batch(), tally, records)
        except ValueError as error:  # a payload that does not inflate or decode, which only a damaged row has
            tally.park(control.position, control.stage, control.subject, error)
        if self._sigma is not None:
            tally.poison.extend(self._sigma.take_faults())
        tally.settle(control.seq, control.position, control.stage, control.subject, since)

    def _observe_again(self, control: RetryControl, tally: BatchTally) -> None:
        for record in control.records(self._settings.future_tolerance_ns):
            if control.stage == "normalize":
                self._observe_record(record, tally)
            elif self._sigma is not None:  # everything but the rules has seen it
                try:
                    rule = "" if control.subject == "record" else control.subject
                    self._add_events(self._sigma.observe(self._normalizer.normalize(record), rule), tally)
                except Exception as error:  # one odd record must not stop the others; it is parked by name
                    tally.park(record.ref.position, "sigma", control.subject, error)

    def _put_in_force(self, digest: str, tally: BatchTally) -> None:
        try:
            rules = self._resolve_rules(digest)
            if self._sigma is None:
                self._sigma = SigmaDetector(self._tenant, rules, self._matcher)
            else:
                self._sigma.replace_rules(rules)
        except (LookupError, ValueError) as error:
            tally.park(-1, "sigma", f"rules {digest}", error)

    def _decoded(self, batch: Batch, tally: BatchTally) -> list[LogRecord]:
        try:
            return decode(batch, self._settings.future_tolerance_ns)
        except Exception as error:  # one batch that nobody can read must not stop the tenant
            tally.park(-1, "decode", batch.kind, error)
            return []

    def _observe_record(self, record: LogRecord, tally: BatchTally) -> NormalizedRecord:
        if record.time_ns < self._latest_ns - self._settings.lateness_ns:
            tally.counts["late"] += 1
            if not record.time_mark:
                record = msgspec.structs.replace(record, time_mark="late")
        elif record.time_mark:
            tally.counts[record.time_mark] += 1
        position = record.ref.position
        try:
            normalized = self._normalizer.normalize(record)
        except Exception as error:  # one odd record must not stop the others; it is parked by name
            tally.park(position, "normalize", "record", error)
            # Not judged, but kept where analysts search: an odd record is no less evidence.
            return NormalizedRecord(record, Logsource(), {}, (), str(record.body)[:_ODD_MESSAGE])
        if self._sigma is not None:
            try:
                self._add_events(self._sigma.observe(normalized), tally)
            except Exception as error:  # as above
                tally.park(position, "sigma", "record", error)
        try:
            self._windows.observe(normalized)
        except Exception as error:  # as above
            tally.park(position, "rollup", "record", error)
        return normalized

    def _pass_time(self, time_ns: Nanoseconds, tally: BatchTally) -> None:
        if time_ns <= self._latest_ns:
            return
        minute_before = self.watermark_ns // MINUTE_NS
        self._latest_ns = time_ns
        watermark_ns = self.watermark_ns
        if watermark_ns // MINUTE_NS == minute_before:
            return
        if self._sigma is not None:
            self._add_events(self._sigma.tick(watermark_ns), tally)
        for closed in self._windows.close(watermark_ns):
            tally.rollups.append(closed.rollup)
            self._judge(closed, tally)
        self._grouper.tick(watermark_ns)
        self._folder.tick(watermark_ns)

    def _judge(self, closed: ClosedWindow, tally: BatchTally) -> None:
        try:
            self._add_events(self._anomaly.observe(closed), tally)
        except Exception as error:  # one entity's model must not stop the others
            rollup = closed.rollup
            tally.park(-1, "anomaly", f"{rollup.entity_kind} {rollup.entity} {rollup.span} {rollup.start_ns}", error)

    def _add_events(self, events: list[DetectionEvent], tally: BatchTally) -> None:
        for event in events:
            window = self._fold_window(event)
            if window is not None and self._folder.is_repeat(event, window) and self._fold(event, window, tally):
                continue
            if not tally.add_event(event):
                continue
            if window is not None:
                self._folder.begin(event, window, self.watermark_ns)
            try:
                self._grouper.observe(event, tally.seq)
            except Exception as error:  # an event that cannot be grouped is still an event
                tally.park(event.cause.position, "group", f"event {event.id}", error)

    def _fold_window(self, event: DetectionEvent) -> FoldWindow | None:
        if self._sigma is None or event.kind not in ("rule", "correlation"):
            return None
        return self._sigma.rules.fold_of(event.rule_id)

    def _fold(self, event: DetectionEvent, window: FoldWindow, tally: BatchTally) -> bool:
        """Counts a repeat; False when it must be written all the same, because an incident begins with it."""
        if tally.is_known(event):
            return True
        try:
            if not self._grouper.observe_repeat(event):
                return False
        except Exception as error:  # as above
            tally.park(event.cause.position, "group", f"event {event.id}", error)
        tally.add_repeat(event)
        self._folder.add(event, window)
        return True

    def _correlation_losses(self) -> dict[str, int]:
        counters = [] if self._sigma is None else list(self._sigma.counters().values())
        return {f"correlation_{name}": sum(counter[name] for counter in counters) for name in ("evicted", "late")}

    def _component_counts(self) -> dict[str, int]:
        return {
            **{f"rollup_{name}": count for name, count in self._windows.take_counts().items()},
            **{f"anomaly_{name}": count for name, count in self._anomaly.take_counts().items()},
            **self._grouper.take_counts(),
            "folds_closed_early": self._folder.take_closed_early(),
        }


__all__ = ["DetectorSettings", "RecordNormalizer", "RulesControl", "TenantDetector", "TickControl"]
