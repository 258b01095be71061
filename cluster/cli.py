"""The command line `trustsoc`. Exit codes: 0 it worked, 1 it failed, 2 wrong usage, 3 nothing is running."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any, Final

import typer
import typer.main
from rich.text import Text
from typer.core import TyperGroup

from cluster import render
from cluster.command_error import CommandError
from cluster.stop_signals import StopRequested
from cluster.variables import KEY_HELP

COMMANDS: Final[dict[str, str]] = {
    "up": "cluster.cli_running:up",
    "down": "cluster.cli_running:down",
    "status": "cluster.cli_reading:status",
    "demo": "cluster.cli_running:demo",
    "doctor": "cluster.cli_running:doctor",
    "backup": "cluster.cli_backup:backup",
    "restore": "cluster.cli_backup:restore",
    "send": "cluster.cli_send:send",
    "hunt": "cluster.cli_hunt:hunt",
    "rules": "cluster.cli_rules_server:rules_app",
    "ledger": "cluster.cli_ledger:ledger",
    "events": "cluster.cli_reading:events",
    "incidents": "cluster.cli_reading:incidents",
    "incident": "cluster.cli_reading:incident",
    "advisory": "cluster.cli_reading:advisory",
    "logs": "cluster.cli_reading:logs_app",
    "tenant": "cluster.cli_admin:tenant_app",
    "key": "cluster.cli_admin:key_app",
    "receipt": "cluster.cli_ledger:receipt_app",
    "deadletter": "cluster.cli_deadletter:deadletter_app",
    "shards": "cluster.cli_shards:shards_app",
    "replay": "cluster.cli_replay:replay",
    "hold": "cluster.cli_hold:hold_app",
    "retention": "cluster.cli_hold:retention_app",
    "signing-key": "cluster.cli_signing:signing_app",
    "cert": "cluster.cli_cert:cert_app",
    "agent": "cluster.cli_agent:agent_app",
    "job": "cluster.cli_job:job_app",
    "masking": "cluster.cli_masking:masking_app",
    "reveal": "cluster.cli_masking:reveal",
}
"""Where each command is. Its module is imported when it is called: no command waits for what another one needs."""


class TrustSocGroup(TyperGroup):
    """Expected errors become one line on standard error and an exit code; only defects show a traceback."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of all commands, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name, imported now; None when there is none."""
        if cmd_name in COMMANDS and cmd_name not in self.commands:
            module, _, name = COMMANDS[cmd_name].partition(":")
            target = getattr(import_module(module), name)
            holder = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode="rich")
            if isinstance(target, typer.Typer):
                holder.add_typer(target, name=cmd_name)
            else:
                holder.command(cmd_name)(target)
            self.commands[cmd_name] = typer.main.get_group(holder).commands[cmd_name]
        return super().get_command(ctx, cmd_name)

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


@app.callback()
def trustsoc() -> None:
    """What all commands have in common: nothing but the name."""


def main() -> None:
    """The entry point of the installed command."""
    app()


if __name__ == "__main__":
    main()
