"""Commands that start, stop and examine: up, down, demo, doctor."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console, Group
from rich.panel import Panel
from rich.text import Text

from cluster import render
from cluster.cli_options import AsJson, DataDir, directory_of
from cluster.command_error import EXIT_FAILED, CommandError, UsageError
from cluster.data_directory import DataDirectory
from cluster.detached import ParentReport, Ready, start_detached
from cluster.lifecycle import Cluster, running_cluster, stop_cluster
from cluster.progress_lines import ProgressLines
from cluster.stop_signals import StopRequested
from cluster.terminal_text import where_the_command_is
from serve.settings import Settings

Port = Annotated[
    int | None, typer.Option("--port", min=1, max=65535, help="Listen on it.", show_default="4318, TRUSTSOC_HTTP_PORT")
]
Llm = Annotated[
    str | None,
    typer.Option("--llm", metavar="none|cpu|gpu|URL", help="Language model.", show_default="cpu where it can run"),
]


def up(
    data_dir: DataDir = None,
    port: Port = None,
    llm: Llm = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when it is ready; go on behind.")] = False,
    report_fd: Annotated[int | None, typer.Option("--report-fd", hidden=True)] = None,
) -> None:
    """Starts everything on this machine and runs until Ctrl-C, SIGTERM or `trustsoc down`."""
    directory = directory_of(data_dir)
    settings = settings_of(directory, port, llm_or_default(llm))
    if detach:
        options = [*(["--port", str(port)] if port else []), *(["--llm", llm] if llm else [])]
        console = render.terminal()
        with ProgressLines(console) as progress:
            ready = start_detached(directory, options, progress)
        show_ready(console, ready, directory, foreground=False, grpc=grpc_address_of(settings))
    elif report_fd is not None:
        _up_for_parent(directory, settings, ParentReport(report_fd))
    else:
        _up_in_foreground(directory, settings)


def down(data_dir: DataDir = None) -> None:
    """Stops what `trustsoc up` started and waits until every process of it has gone."""
    directory = directory_of(data_dir)
    console = render.terminal()
    with ProgressLines(console) as progress:
        outcome = stop_cluster(directory, progress)
    if outcome.ended:
        console.print(f"Ended what was left: {', '.join(outcome.ended)}")
    console.print(
        "Trust SOC has stopped." if outcome.was_running else f"Trust SOC was not running on {directory.path}."
    )


def demo(
    data_dir: DataDir = None,
    port: Port = None,
    llm: Llm = None,
    once: Annotated[
        bool, typer.Option("--once", help="No terminal needed: end after the advisory, the result as JSON at the end.")
    ] = False,
    deadline: Annotated[float, typer.Option("--deadline", min=1, help="Seconds to wait for the advisory.")] = 300.0,
) -> None:
    """Plays a scripted intrusion through a real agent and shows the incident and the advisory."""
    from cluster.demo import DemoPlan, run_demo
    from cluster.demo_scene import demo_cluster, demo_sender, intrusion_lines

    directory = directory_of(data_dir)
    settings = settings_of(directory, port, llm_or_default(llm))
    plan = DemoPlan(intrusion_lines, demo_sender, deadline)
    make_cluster = demo_cluster(directory, settings, cluster_factory)
    with explained_start():
        result = run_demo(directory, base_url_of(settings), make_cluster, plan, once=once)
    if once:
        # Only now that everything has stopped: whoever reads the last line knows that nothing is left running.
        sys.stdout.write(json.dumps(result.as_json()) + "\n")


def doctor(data_dir: DataDir = None, port: Port = None, as_json: AsJson = False) -> None:
    """Says what is missing on this machine, and the command that mends it."""
    from cluster.doctor import as_json as checks_as_json
    from cluster.doctor import examine, report, usable
    from cluster.doctor_check import Place

    directory = directory_of(data_dir)
    settings = settings_of(directory, port, None)
    dsn = settings.app_dsn.get_secret_value()
    checks = examine(Place(directory, settings.http_host, settings.http_port, dsn))
    if as_json:
        render.print_json(checks_as_json(checks))
    else:
        render.terminal().print(report(checks))
    if not usable(checks):
        raise typer.Exit(EXIT_FAILED)


def settings_of(directory: DataDirectory, port: int | None, llm: str | None) -> Settings:
    """Settings from the environment, with what the options say on top; raises UsageError naming the wrong one."""
    stated: dict[str, Any] = {"data_dir": directory.path}
    if port is not None:
        stated["http_port"] = port
    if llm is not None:
        stated["llm"] = llm
    try:
        return Settings(**stated)
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(str(part) for part in first["loc"])
        raise UsageError(f"--{name.replace('_', '-')} or TRUSTSOC_{name.upper()}: {first['msg']}") from error


def llm_or_default(llm: str | None) -> str | None:
    """What the option or TRUSTSOC_LLM says (None: the setting decides); else `cpu` where it can run."""
    if llm is not None or "TRUSTSOC_LLM" in os.environ:
        return llm
    from cluster.llm_setup import llm_support

    return "cpu" if llm_support().usable else "none"


def cluster_factory(settings: Settings) -> Callable[[], Cluster]:
    """Makes the cluster of this machine, once its port is known to be free."""

    def make() -> Cluster:
        from cluster.doctor_machine import address_in_use
        from cluster.embedded import EmbeddedCluster

        if trouble := address_in_use(settings.http_host, settings.http_port):
            raise CommandError(f"cannot listen on {settings.http_host}:{settings.http_port} ({trouble}): choose --port")
        # Replicas share this port among themselves, so a second installation would join in without an error.
        if settings.grpc_port and (trouble := address_in_use(settings.http_host, settings.grpc_port)):
            where = f"{settings.http_host}:{settings.grpc_port}"
            raise CommandError(f"cannot listen on {where} for OTLP/gRPC ({trouble}): set TRUSTSOC_GRPC_PORT (0: off)")
        return EmbeddedCluster(settings)

    return make


@contextlib.contextmanager
def explained_start() -> Iterator[None]:
    """What can go wrong on a machine becomes one line; what cannot is a defect and keeps its traceback."""
    from cluster.postgres import DataDirectoryInUse
    from cluster.postgres_binaries import PostgresSetupError
    from cluster.postmaster import PostmasterError

    try:
        yield
    except (DataDirectoryInUse, PostgresSetupError, PostmasterError) as error:
        raise CommandError(str(error)) from error


def show_ready(console: Console, ready: Ready, directory: DataDirectory, *, foreground: bool, grpc: str = "") -> None:
    """The address, the first key (this once), and what to do next."""
    lines = [
        Text.assemble(("Trust SOC answers on ", ""), (ready.base_url, "bold green")),
        Text(f"Data directory: {directory.path}", "dim"),
    ]
    if ready.new_admin_key:
        lines += [
            Text(),
            Text("The first administrator's key, shown this once (the command line here has it already):", "yellow"),
            Text(ready.new_admin_key, "bold"),
        ]
    stop = "Ctrl-C or `trustsoc down`" if foreground else "`trustsoc down`"
    lines += [
        Text(),
        Text.assemble(("send logs   ", "dim"), "trustsoc send /var/log/auth.log"),
        Text.assemble(("or OTLP     ", "dim"), f"POST {ready.base_url}/v1/logs, key: trustsoc key create LABEL"),
        *([Text.assemble(("or gRPC     ", "dim"), f"{grpc}, metadata authorization: Bearer <key>")] if grpc else []),
        Text.assemble(("look        ", "dim"), "trustsoc incidents, trustsoc status"),
        Text.assemble(("stop        ", "dim"), stop),
    ]
    if folder := where_the_command_is():
        lines.append(Text.assemble(("trustsoc    ", "dim"), f"is {folder}/trustsoc"))
    if console.is_terminal:
        console.print(Panel(Group(*lines), border_style="green"))
    else:
        for line in lines:
            console.print(line, soft_wrap=True)


def _up_in_foreground(directory: DataDirectory, settings: Settings) -> None:
    console = render.terminal()
    with ProgressLines(console) as progress:
        try:
            with (
                explained_start(),
                running_cluster(directory, base_url_of(settings), cluster_factory(settings), progress) as started,
            ):
                progress.finish()
                ready = Ready(started.base_url, started.new_admin_key)
                show_ready(console, ready, directory, foreground=True, grpc=grpc_address_of(settings))
                started.cluster.wait()
        except StopRequested:
            progress.finish()
    console.print("Trust SOC has stopped.")


def _up_for_parent(directory: DataDirectory, settings: Settings, report: ParentReport) -> None:
    """The detached side of `up --detach`: silent but for its report."""
    try:
        with (
            explained_start(),
            running_cluster(directory, base_url_of(settings), cluster_factory(settings), report.step) as started,
        ):
            report.ready(Ready(started.base_url, started.new_admin_key))
            started.cluster.wait()
    except StopRequested:
        return
    except CommandError as error:
        report.error(str(error))
        raise
    finally:
        report.close()


def base_url_of(settings: Settings) -> str:
    """Where this machine's cluster will answer. A wildcard address is reached through the loopback."""
    return f"http://{_reachable_host(settings)}:{settings.http_port}"


def grpc_address_of(settings: Settings) -> str:
    """Where OTLP/gRPC will be taken; empty when it is off."""
    return f"{_reachable_host(settings)}:{settings.grpc_port}" if settings.grpc_port else ""


def _reachable_host(settings: Settings) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.http_host, settings.http_host)  # noqa: S104 - compared
