"""A Redis for what replicas share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from contracts.redis_server import RedisServer

from service.limits.settings import RedisSettings
from service.redis_link import RedisLink


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture
async def link(server: RedisServer) -> AsyncIterator[RedisLink]:
    server.flush()
    made = RedisLink(RedisSettings.model_validate({"url": server.url, "timeout_s": 1.0}))
    yield made
    await made.aclose()
