"""`trustsoc demo`: a scripted intrusion, through a real agent, into the real cluster, to incident and advisory.

Whatever the demo starts it also stops: the agent, its identity, its key, its folder, and the cluster where none ran.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.text import Text

from cluster import render
from cluster.client import ApiClient, path_segment
from cluster.command_error import CommandError
from cluster.credentials import Keyring, ensure_tenant, make_key
from cluster.data_directory import DataDirectory, default_data_directory
from cluster.demo_watch import DemoWatch
from cluster.lifecycle import Cluster, Started, running_cluster
from cluster.progress_lines import ProgressLines
from cluster.render_advisory import advisory as render_advisory
from cluster.render_incident import incident as render_incident
from cluster.stop_signals import StopRequested, StopSignals
from cluster.terminal_text import visible, where_the_command_is

DEMO_TENANT = "demo"

_POLL_SECONDS = 0.5
# The first start builds the corpus, which takes minutes on a slow or busy machine.
_PREPARATION_SECONDS = 900.0

# (seconds to wait before it, name of the log file, line without its end)
ScriptedLine = tuple[float, str, str]


@dataclass(frozen=True)
class DemoSite:
    """What a sender needs: the folder whose files it tails, the installation's data directory, the cluster's address
    and that of agents (empty: there is no TLS), and a key of the demo's own with a client that uses it."""

    folder: Path
    data: Path
    base_url: str
    agent_url: str
    key: str
    client: ApiClient


class Sender(Protocol):
    """Something that ships the lines which are appended to the files of a folder (cluster.demo_scene)."""

    def start(self, progress: Callable[[str], None]) -> None:
        """Returns when it runs; raises CommandError."""

    def account(self) -> dict[str, Any]:
        """What it says of itself: `agent`, `ping` and `books`; empty when it is no agent."""

    def stop(self) -> None:
        """Ends it; safe to call at any time."""


@dataclass(frozen=True)
class DemoPlan:
    """What is played and how: the lines, who sends them, and how long to wait for the advisory, once the last
    line is written and the advisor is ready."""

    lines: Callable[[], Iterable[ScriptedLine]]
    make_sender: Callable[[DemoSite], Sender]
    deadline_seconds: float


@dataclass
class DemoResult:
    """What came of it. `timings` are seconds since the demo began."""

    incident: dict[str, Any] = field(default_factory=dict)
    advisory: dict[str, Any] = field(default_factory=dict)
    sender: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The last line of `trustsoc demo --once`."""
        timings = {name: round(seconds, 2) for name, seconds in self.timings.items()}
        return {"incident": self.incident, "advisory": self.advisory, "sender": self.sender, "timings": timings}


def run_demo(
    directory: DataDirectory, base_url: str, make_cluster: Callable[[], Cluster], plan: DemoPlan, *, once: bool
) -> DemoResult:
    """Plays the demo and shows it. Raises CommandError when no advisory came in time, StopRequested when stopped.

    With `once` progress goes to standard error, so that the caller can end standard output with the JSON; without
    it the cluster that the demo started runs on until Ctrl-C.
    """
    console = render.terminal(sys.stderr if once else sys.stdout)
    result = DemoResult()
    finished = False
    with ProgressLines(console) as progress:
        try:
            with _cluster(directory, base_url, make_cluster, progress) as (at, started, signals):
                result.timings["cluster_ready_s"] = progress.elapsed
                with _stage(directory, at, plan, signals) as (site, sender, client):
                    sender.start(progress)
                    result.timings["sender_ready_s"] = progress.elapsed
                    _play(plan, site.folder, client, progress, result)
                    result.sender = sender.account()
                    progress("ending what sent the lines")
                progress.finish()
                signals.end_stopping()
                _show(console, result, at.base_url, directory, _how_to_go_on(once, started))
                finished = True
                if not once and started is not None:
                    started.cluster.wait()
        except StopRequested:
            if once or not finished:
                raise
    return result


class _Addresses(Protocol):
    """Where a cluster answers: it that runs already (Runtime), or one of the demo's own (Started)."""

    @property
    def base_url(self) -> str: ...
    @property
    def agent_url(self) -> str: ...


@contextlib.contextmanager
def _cluster(
    directory: DataDirectory, base_url: str, make_cluster: Callable[[], Cluster], progress: ProgressLines
) -> Iterator[tuple[_Addresses, Started | None, StopSignals]]:
    """The cluster that runs on the data directory, or one that runs for as long as the block."""
    runtime = directory.running()
    if runtime is not None:
        with StopSignals() as signals:
            progress(f"using the cluster on {runtime.base_url}")
            yield runtime, None, signals
        return
    with running_cluster(directory, base_url, make_cluster, progress) as started:
        yield started, started, started.signals


@contextlib.contextmanager
def _stage(
    directory: DataDirectory, at: _Addresses, plan: DemoPlan, signals: StopSignals
) -> Iterator[tuple[DemoSite, Sender, ApiClient]]:
    """Tenant, key, folder and a sender that is not started; all but the tenant go when the block ends."""
    keyring = Keyring(directory, at.base_url)
    with contextlib.ExitStack() as stack:
        admin = stack.enter_context(keyring.admin_client())
        ensure_tenant(admin, DEMO_TENANT)
        made = make_key(admin, DEMO_TENANT, "demo sender", ("ingest", "read", "operate"))
        stack.callback(_revoke, admin, str(made.get("key_id")))
        client = stack.enter_context(keyring.tenant_client(DEMO_TENANT))
        own_client = stack.enter_context(ApiClient(at.base_url, made["key"], tenant=DEMO_TENANT))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="trustsoc-demo-")))
        site = DemoSite(folder, directory.path, at.base_url, at.agent_url, made["key"], own_client)
        sender = plan.make_sender(site)
        stack.callback(sender.stop)
        # Called first: from here on a second Ctrl-C cannot cut the clean-up short.
        stack.callback(signals.begin_stopping)
        yield site, sender, client


def _revoke(admin: ApiClient, key_id: str) -> None:
    # The cluster may be what failed; the key then lives on with it, named for what it was.
    with contextlib.suppress(CommandError):
        admin.delete(f"/api/admin/tenants/{path_segment(DEMO_TENANT)}/keys/{path_segment(key_id)}")


def _play(plan: DemoPlan, folder: Path, client: ApiClient, progress: ProgressLines, result: DemoResult) -> None:
    watch = DemoWatch(client)
    progress("playing the intrusion")
    for delay, name, line in plan.lines():
        _look_around(delay, watch, progress, result)
        with (folder / name).open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        watch.written += 1
    result.timings["last_line_s"] = progress.elapsed
    progress("waiting for the incident and its advisory")
    began = ready_since = time.monotonic()
    while time.monotonic() - ready_since < plan.deadline_seconds:
        _look_around(_POLL_SECONDS, watch, progress, result)
        if watch.preparing and time.monotonic() - began < _PREPARATION_SECONDS:
            ready_since = time.monotonic()
        if watch.settled() and (incident := watch.incident()) and (advisory := watch.advisory(incident)):
            result.timings["advisory_s"] = progress.elapsed
            result.incident, result.advisory = incident, advisory
            return
    raise CommandError(
        f"no {'advisory' if watch.best else 'incident'} within {plan.deadline_seconds:.0f} s after the last line "
        f"({watch.summary()}): see `trustsoc status`"
    )


def _look_around(seconds: float, watch: DemoWatch, progress: ProgressLines, result: DemoResult) -> None:
    """Waits, and meanwhile keeps the shown figures fresh and notes when things were first seen."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, _POLL_SECONDS))
        if watch.refresh(time.monotonic()):
            progress.update(watch.summary())
            for name, seen in (("first_record_s", watch.stored), ("first_event_s", watch.events)):
                if seen:
                    result.timings.setdefault(name, progress.elapsed)
            if watch.best:
                result.timings.setdefault("incident_s", progress.elapsed)


def _how_to_go_on(once: bool, started: Started | None) -> tuple[str, str]:
    if started is None:
        return "stop", "trustsoc down"
    return ("start it again", "trustsoc up") if once else ("stop", "Ctrl-C")


def _sender_in_words(sender: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if not sender:
        return
    books, ping = sender["books"], sender["ping"]
    yield (
        "sent by",
        f"agent {sender['agent']}: {books['accepted']} records accepted on its disk, {books['stored']} stored, "
        f"{books['duplicate']} repeated, {books['in_flight']} waiting",
    )
    yield (
        "its job",
        f"PING {ping['state']} in {ping['milliseconds']} ms: {ping['output']!r}, result signed by the agent's key "
        f"({ping['signature'][:16]}…, verified)",
    )


def _show(
    console: Console, result: DemoResult, base_url: str, directory: DataDirectory, last_hint: tuple[str, str]
) -> None:
    console.print()
    console.print(render_incident(result.incident))
    console.print()
    console.print(render_advisory(result.advisory))
    console.print()
    for what, found in _sender_in_words(result.sender):
        console.print(Text.assemble((f"{what:<16}", "dim"), visible(found)), soft_wrap=True)
    place = "" if directory.path == default_data_directory().absolute() else f" --data-dir {directory.path}"
    hints = [
        ("look around", f"trustsoc incidents --tenant {DEMO_TENANT}{place}"),
        ("your own logs", f"trustsoc send /var/log/auth.log{place}"),
        ("or by OTLP", f"POST {base_url}/v1/logs, with a key of: trustsoc key create LABEL{place}"),
        (last_hint[0], last_hint[1] + (place if last_hint[1].startswith("trustsoc") else "")),
    ]
    if folder := where_the_command_is():
        hints.append(("trustsoc", f"is {folder}/trustsoc"))
    for what, how in hints:
        console.print(Text.assemble((f"{what:<16}", "dim"), how), soft_wrap=True)
