"""Options that many commands share, and how they become a client, a console or a time."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.credentials import Keyring
from cluster.data_directory import DATA_DIRECTORY_VARIABLE, DataDirectory, default_data_directory
from cluster.moments import parse_moment
from cluster.variables import URL_VARIABLE

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar=DATA_DIRECTORY_VARIABLE,
        help="Where this installation keeps its files.",
        show_default="~/.local/share/trustsoc",
        file_okay=False,
    ),
]
Url = Annotated[
    str | None,
    typer.Option("--url", envvar=URL_VARIABLE, help="Address of the cluster.", show_default="this machine's"),
]
Tenant = Annotated[
    str | None, typer.Option("--tenant", "-t", help="Whose data.", show_default="the one made at the first start")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, max=100_000, help="At most so many.")]
Cursor = Annotated[str | None, typer.Option("--cursor", help="Go on where an earlier list ended.")]
From = Annotated[
    str | None, typer.Option("--from", metavar="TIME", help="Not before: 2026-03-01T12:00:00Z, or 30m, 2h, 7d ago.")
]
To = Annotated[str | None, typer.Option("--to", metavar="TIME", help="Before that time.")]
Entity = Annotated[
    str | None, typer.Option("--entity", metavar="KIND:VALUE", help="About it, for example ip:203.0.113.7.")
]


def directory_of(data_dir: Path | None) -> DataDirectory:
    """The data directory that the options name, or the default one."""
    return DataDirectory(data_dir or default_data_directory())


def keyring_of(data_dir: Path | None, url: str | None) -> Keyring:
    return Keyring(directory_of(data_dir), url)


def moment(text: str | None, option: str) -> str | None:
    """A time as the API wants it (RFC 3339, UTC); see cluster.moments."""
    return None if text is None else parse_moment(text, option)
