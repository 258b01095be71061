"""The command line `trustsoc`. Exit codes: 0 it worked, 1 it failed, 2 wrong usage, 3 nothing is running."""

from __future__ import annotations

import sys
from typing import Any

import typer
from rich.text import Text
from typer.core import TyperGroup

from cluster import (
    cli_admin,
    cli_backup,
    cli_cert,
    cli_deadletter,
    cli_hold,
    cli_ledger,
    cli_quota,
    cli_reading,
    cli_replay,
    cli_running,
    cli_send,
    cli_shards,
    cli_signing,
    render,
)
from cluster.cli_options import KEY_HELP
from cluster.command_error import CommandError
from cluster.stop_signals import StopRequested


class TrustSocGroup(TyperGroup):
    """Expected errors become one line on standard error and an exit code; only defects show a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except CommandError as error:
            render.terminal(sys.stderr).print(Text.assemble(("error: ", "bold red"), str(error)), soft_wrap=True)
            raise typer.Exit(error.exit_code) from error
        except StopRequested as request:
            raise typer.Exit(request.exit_code) from request


app = typer.Typer(
    name="trustsoc",
    cls=TrustSocGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # its frames show local variables, keys among them
    rich_markup_mode="rich",
    help="Trust SOC: server logs in, detections, incidents and cited advice out, on your own machines.",
    epilog=f"Exit codes: 0 it worked, 1 it failed, 2 wrong usage, 3 nothing is running. {KEY_HELP}",
)
app.command("up")(cli_running.up)
app.command("down")(cli_running.down)
app.command("status")(cli_reading.status)
app.command("demo")(cli_running.demo)
app.command("doctor")(cli_running.doctor)
app.command("backup")(cli_backup.backup)
app.command("restore")(cli_backup.restore)
app.command("send")(cli_send.send)
app.command("ledger")(cli_ledger.ledger)
app.command("events")(cli_reading.events)
app.command("incidents")(cli_reading.incidents)
app.command("incident")(cli_reading.incident)
app.command("advisory")(cli_reading.advisory)
app.add_typer(cli_reading.logs_app, name="logs")
cli_admin.tenant_app.command("quota")(cli_quota.quota)
app.add_typer(cli_admin.tenant_app, name="tenant")
app.add_typer(cli_admin.key_app, name="key")
app.add_typer(cli_ledger.receipt_app, name="receipt")
app.add_typer(cli_deadletter.deadletter_app, name="deadletter")
app.add_typer(cli_shards.shards_app, name="shards")
app.command("replay")(cli_replay.replay)
app.add_typer(cli_hold.hold_app, name="hold")
app.add_typer(cli_hold.retention_app, name="retention")
app.add_typer(cli_signing.signing_app, name="signing-key")
app.add_typer(cli_cert.cert_app, name="cert")


def main() -> None:
    """The entry point of the installed command."""
    app()


if __name__ == "__main__":
    main()
