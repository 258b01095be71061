"""Checking many rules as Ray tasks: thousands of them take seconds of a whole core, which the edge has not."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError

from actors.rule_check import CheckEnded, PackCheck, RuleCatalog, RulesRefused, check_set, check_upload
from actors.rule_masking import MaskedSet, RecordMasks, masked_set
from detect.sigma.pack import BadPack, unpacks_to_at_most

_NICENESS = 10
_SMALL = 1 << 18  # bytes unpacked, for equal rules pack to next to nothing: some hundred, less than a second


class TaskChecks:
    """The checks, in a process of its own for packs that are not small. CheckEnded when that process dies."""

    async def rule_set(self, pack: bytes) -> RuleCatalog:
        """What check_set says."""
        catalog: RuleCatalog = await _checked(check_set, pack)
        return catalog

    async def masked(self, pack: bytes, masks: RecordMasks) -> MaskedSet:
        """What masked_set says. The keys go to a process of this installation, as the database's passwords do."""
        found: MaskedSet = await _checked(masked_set, pack, masks)
        return found

    async def upload(self, data: bytes, pin: str | None) -> PackCheck:
        """What check_upload says."""
        checked: PackCheck = await _checked(check_upload, data, pin)
        return checked


def is_small(data: bytes) -> bool:
    """Whether a check is done sooner than a process would start for it. Archives of others are not looked into here."""
    return unpacks_to_at_most(data, _SMALL)


async def _checked(check: Callable[..., Any], data: bytes, *others: object) -> Any:
    if is_small(data):
        return await asyncio.to_thread(check, data, *others)
    task = ray.remote(_said).options(num_cpus=0, max_retries=1)
    try:
        refused, found = await task.remote(check, data, *others)
    except RayError as error:
        raise CheckEnded("the check of the rules ended early: try again") from error
    if refused == "pack":
        raise BadPack(found)
    if refused:
        raise RulesRefused(found)
    return found


def _said(check: Callable[..., Any], *arguments: object) -> tuple[str, Any]:
    """What a check says, with refusals as values: an exception would come back as one of Ray's."""
    with suppress(OSError):  # beside ingest and detectors a check has time
        os.setpriority(os.PRIO_PROCESS, 0, _NICENESS)
    try:
        return "", check(*arguments)
    except BadPack as error:
        return "pack", str(error)
    except RulesRefused as error:
        return "rules", str(error)
