"""A masker with the policy that ships, and what a text becomes under it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agent.masking import Masker, MaskingKey

KEY = MaskingKey(bytes(range(32)))
OTHER_KEY = MaskingKey(bytes(range(1, 33)))


@pytest.fixture
def masker() -> Masker:
    return Masker(KEY)


@pytest.fixture
def other() -> Masker:
    """Another tenant's masker."""
    return Masker(OTHER_KEY)


@pytest.fixture
def masked(masker: Masker) -> Callable[..., str]:
    return lambda text, field="": masker.values.text(field, text, [])
