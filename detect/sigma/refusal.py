"""Why a document is not in force, and which of its parts is to blame."""

from __future__ import annotations


class RuleRefused(ValueError):
    """A rule, or a part of one, that this engine does not run; the text says why.

    `place` is the key that is to blame, such as `detection.selection`; empty when the document as a whole is.
    """

    def __init__(self, reason: str, place: str = "") -> None:
        super().__init__(reason)
        self.place = place


class ConditionRefused(RuleRefused):
    """A condition that cannot be read, or that speaks of something that is not there."""


class MissingPlaceholderValues(RuleRefused):
    """A rule with `expand` placeholders that have no values: correct, but inert until they are given."""
