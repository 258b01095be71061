"""`python -m agent.controller --config controller.yml`: runs the controller until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from agent.collector import CollectorError
from agent.controller.assembly import AssembledController
from agent.controller.identity import IdentityError
from agent.controller.settings import SETTINGS_PATH, SettingsError, read_settings
from agent.executed import JournalBusy


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0 after a signal; when it cannot start (the reason is on stderr) 1 if that may pass, else 2."""
    parser = argparse.ArgumentParser(prog="trustsoc-agent-controller", description="Carries out signed jobs.")
    parser.add_argument("--config", type=Path, default=SETTINGS_PATH, help="its settings (YAML)")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        controller = AssembledController(read_settings(arguments.config))
    except (SettingsError, IdentityError, JournalBusy, CollectorError, OSError, ValueError) as error:
        print(f"the controller cannot start: {error}", file=sys.stderr)
        # One that was killed may still be ending, a disk have room again.
        return 1 if isinstance(error, JournalBusy | OSError) else 2
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: controller.stop())
    controller.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
