"""Fixtures of the pool's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from contracts.misbehaving_upstream import MisbehavingUpstream


@pytest.fixture
def upstream() -> Iterator[MisbehavingUpstream]:
    with MisbehavingUpstream() as running:
        yield running
