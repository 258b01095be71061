"""What the decoder says about a request that it cannot read."""

from __future__ import annotations


class UndecodableBatch(ValueError):
    """The payload is no OTLP logs request. The message is shown to the sender: what is wrong, and where."""
