"""The log sources whose records a rule set waits for: what a matcher can compile before the first of them comes."""

from __future__ import annotations

from collections.abc import Sequence

from detect.normalize import default_definitions
from detect.record import Logsource
from detect.sigma.rule import SigmaRule


def expected_logsources(rules: Sequence[SigmaRule]) -> set[Logsource]:
    """Where the rules' records will come from: what the rules name, and Windows channels with their categories."""
    named = {rule.logsource for rule in rules}
    products = {source.product for source in named}
    for definition in default_definitions():
        if definition.name in products:
            kinds = (key.split("/")[0] for key in definition.categories)
            pairs = zip(kinds, definition.categories.values(), strict=True)
            named.update(Logsource(definition.name, category, service) for service, category in pairs)
    return named
