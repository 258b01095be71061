"""Following a replay or backtest on the server: its lines as progress, its result as the answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import orjson
from rich.console import Console

from cluster import render
from cluster.client import problem_of
from cluster.command_error import CommandError, NotRunningError
from cluster.progress_lines import ProgressLines

SILENCE_S = 120.0
"""How long the server may say nothing, in seconds."""


def followed(
    http: httpx.Client, base_url: str, path: str, body: dict[str, Any], *, name: str, quiet: bool
) -> dict[str, Any]:
    """The result line of what a POST starts, called `name`. Raises CommandError, NotRunningError."""
    console = Console(quiet=True) if quiet else render.terminal()
    with ProgressLines(console) as progress:
        progress(f"starting the {name}")
        for line in _lines(http, base_url, path, body):
            match line.get("type"):
                case "start":
                    progress(f"judging {line.get('batches')} batches again")
                case "progress":
                    progress.update(f"{line.get('done')} of {line.get('total')}")
                case "result":
                    return line
                case "error":
                    raise CommandError(f"the {name} failed: {line.get('detail')}")
    raise CommandError(f"the {name} ended without a result: see the server's log")


def _lines(http: httpx.Client, base_url: str, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    try:
        with http.stream("POST", path, json=body) as answer:
            if not answer.is_success:
                answer.read()
                raise problem_of(answer)
            for line in answer.iter_lines():
                if line.strip():
                    yield orjson.loads(line)
    except httpx.ConnectError as error:
        raise NotRunningError(base_url) from error
    except httpx.TimeoutException as error:
        raise CommandError(f"{base_url} said nothing for {SILENCE_S:g} s: see `trustsoc status`") from error
    except (httpx.HTTPError, orjson.JSONDecodeError) as error:
        raise CommandError(f"talking to {base_url} failed: {error}") from error
