"""Fixtures of the fault trials; the helpers of the service's own tests are theirs too."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from service.server import calm_collector

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


@pytest.fixture(scope="module", autouse=True)
def _collector_as_in_service() -> Iterator[None]:
    """Set the garbage collector as `service.server.serve` does.

    The heap of a long test run is large, and a full collection of it was measured to hold up everything for half a
    second on an idle machine; a gateway of its own has no such heap.
    """
    thresholds = gc.get_threshold()
    calm_collector()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)
