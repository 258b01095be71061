"""`python -m agent.forwarder --config forwarder.yml`: runs the forwarder; `--check` only reads what it needs."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from pathlib import Path

from agent.forwarder.config import ConfigError, read_config, read_token
from agent.forwarder.identity import load_credentials


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0 after a drain, 2 when the configuration cannot be used, 1 for other trouble at the start."""
    parser = argparse.ArgumentParser(prog="python -m agent.forwarder", description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--check", action="store_true", help="read the configuration and its files, then end")
    parser.add_argument("--ready-file", type=Path, help="gets the port once the forwarder listens")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        config = read_config(given.config)
        if given.check:
            read_token(config.listen.token)
            load_credentials(config.server)
            if config.masking is not None:
                from agent.forwarder.masking import MaskingStage

                MaskingStage(config.masking)
            print(f"{given.config} is in order")
            return 0
        from agent.forwarder.process import serve
        from agent.spool import SpoolError
    except ConfigError as error:
        print(f"{given.config}: {error}", file=sys.stderr)
        return 2
    try:
        asyncio.run(serve(config, ready=given.ready_file))
    except ConfigError as error:
        print(f"{given.config}: {error}", file=sys.stderr)
        return 2
    except (SpoolError, OSError) as error:
        print(f"the forwarder cannot run: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    # It would end a process that has no handler yet, and which has not read yet what has changed.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    sys.exit(main())
