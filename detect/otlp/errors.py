"""What the decoder says about a request that it cannot read."""

from __future__ import annotations


class UndecodableBatch(ValueError):
    """The payload is no OTLP logs request. The message is shown to the sender: what is wrong, and where.

    `field` is the path of the first wrong value, as JSON names it, or empty.
    """

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field
