"""The version that the installed package states."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("trust-soc")
except PackageNotFoundError:  # run from a source tree that was never installed
    VERSION = "0+source"
