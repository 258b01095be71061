"""What the demo's tenant shows while the intrusion plays: counts, the incident it becomes, and its advisory."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from cluster.client import ApiClient, ApiProblem, path_segment
from cluster.terminal_text import visible

_REFRESH_SECONDS = 1.0
_STEADY_LOOKS = 2


class DemoWatch:
    """Looks at a tenant from the moment it is made; what lies before that moment is not the demo's."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self._began = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        self.preparing = ""
        self._before = self._counts()
        self._now = dict(self._before)
        self._refreshed = 0.0
        self._revision: tuple[Any, Any] | None = None
        self._steady = 0
        self.written = 0
        self.best: dict[str, Any] | None = None

    # `preparing` is what the advisor does before it is ready (the first start builds the corpus), empty when it is.

    @property
    def stored(self) -> int:
        """Records that became durable since the demo began."""
        return self._gained("records")

    @property
    def events(self) -> int:
        """Detection events since the demo began."""
        return self._gained("events")

    def refresh(self, now: float) -> bool:
        """Asks the cluster, at most once a second (`now` is a monotonic clock's); whether it did."""
        if now - self._refreshed < _REFRESH_SECONDS:
            return False
        self._refreshed = now
        self._now = self._counts()
        page = self._client.page("/api/incidents", {"from": self._began}, 50)
        self.best = max(page["items"], key=_weight, default=None)
        revision = (self.best["incident_id"], self.best["revision"]) if self.best else None
        self._steady = self._steady + 1 if revision is not None and revision == self._revision else 0
        self._revision = revision
        return True

    def settled(self) -> bool:
        """Whether every line was stored and judged, and the incident has stopped changing."""
        judged = self._now.get("judged", 0) >= self._now.get("batches", 0)
        return self.stored >= self.written and judged and self._steady >= _STEADY_LOOKS

    def incident(self) -> dict[str, Any] | None:
        """The incident that the intrusion became, with its timeline."""
        if self.best is None:
            return None
        found: dict[str, Any] = self._client.get(f"/api/incidents/{path_segment(self.best['incident_id'])}")
        return found

    def advisory(self, incident: dict[str, Any]) -> dict[str, Any] | None:
        """The advisory for the incident as it stands, or None while it is still being written.

        A revision of which the advisor has nothing new to say gets no version of its own.
        """
        try:
            found: dict[str, Any] = self._client.get(f"/api/incidents/{path_segment(incident['incident_id'])}/advisory")
        except ApiProblem as problem:
            if problem.status == 404:
                return None
            raise
        nothing_waits = self._now.get("advisories_waiting") == 0
        return found if nothing_waits or found.get("revision", 0) >= incident["revision"] else None

    def summary(self) -> str:
        """The figures as one line, and what the advisor is busy with before it can write."""
        line = f"the advisor is {visible(self.preparing)}; " if self.preparing else ""
        line += f"{self.written} lines written, {self.stored} records stored, {self.events} events"
        if self.best is None:
            return line
        stages = " → ".join(visible(tactic) for tactic in self.best.get("tactics") or [])
        return f"{line}, incident {visible(self.best['severity'])}" + (f" ({stages})" if stages else "")

    def _gained(self, name: str) -> int:
        return max(0, self._now.get(name, 0) - self._before.get(name, 0))

    def _counts(self) -> dict[str, int]:
        status = self._client.get("/api/status")
        advisor = (status.get("components") or {}).get("advisor") or {}
        self.preparing = "" if advisor.get("ready") else str(advisor.get("detail") or advisor.get("state") or "")
        counts = status.get("counts") or {}
        return {name: value for name, value in counts.items() if isinstance(value, int)}


def _weight(incident: dict[str, Any]) -> tuple[float, int]:
    return float(incident.get("score") or 0), int(incident.get("event_count") or 0)
