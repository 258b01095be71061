"""The OpenTelemetry Collector of a host: profiles that render its configuration, their check, and it as a child.

`HostProfile` is for the operator's own otelcol-contrib, `CollectorProfile` for the small build that the tests and the
demo run. `python -m agent.collector` renders and checks a profile that stands in a file.
"""

from __future__ import annotations

from agent.collector.binary import CollectorError, find_binary
from agent.collector.process import Collector
from agent.collector.profile import (
    KEY_VARIABLE,
    ContainerSource,
    FileSource,
    HostProfile,
    JournalSource,
    Mask,
    SyslogSource,
)
from agent.collector.small_profile import CollectorProfile, render_profile

__all__ = [
    "KEY_VARIABLE",
    "Collector",
    "CollectorError",
    "CollectorProfile",
    "ContainerSource",
    "FileSource",
    "HostProfile",
    "JournalSource",
    "Mask",
    "SyslogSource",
    "find_binary",
    "render_profile",
]
