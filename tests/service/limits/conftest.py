from __future__ import annotations

import itertools

import pytest
from contracts.redis_server import RedisServer

from service.limits.settings import RedisSettings

_PREFIXES = itertools.count()


@pytest.fixture(scope="session")
def shared_redis():
    """A Redis that no test may harm."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def own_redis():
    """A Redis for one test, to be frozen and killed."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def shared_settings(shared_redis):
    """Settings for the shared Redis, with keys of this test only and a generous time-out."""
    return RedisSettings(url=shared_redis.url, prefix=f"test{next(_PREFIXES)}", timeout_s=2.0)


@pytest.fixture
def own_settings(own_redis):
    return RedisSettings(url=own_redis.url, timeout_s=0.15, replicas=2)
