"""Fixtures of the fault trials; the helpers of the service's own tests are theirs too."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

# Found there already where the whole suite runs.
for _folder in ("service", "service/limits"):
    _helpers = str(Path(__file__).parents[1] / _folder)
    if _helpers not in sys.path:
        sys.path.append(_helpers)

from contracts.misbehaving_upstream import MisbehavingUpstream  # noqa: E402
from contracts.redis_server import RedisServer  # noqa: E402


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Return what ends with the test."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def upstream() -> Iterator[MisbehavingUpstream]:
    """Return an upstream of this test alone."""
    with MisbehavingUpstream() as upstream:
        yield upstream


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """Return a Redis of this test alone, to be frozen and killed."""
    with RedisServer() as server:
        yield server
