"""A private Redis server, a gateway with keys, and a listener that nobody is to reach."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from contracts.misbehaving_upstream import MisbehavingUpstream
from contracts.redis_server import RedisServer
from keyed_gateway import UPSTREAM_HEADER, UPSTREAM_KEY, Canary, Keyed, admin_token
from live_gateway import Live

from service.limits.settings import RedisSettings
from service.redis_link import RedisLink


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """Start a Redis for all of them."""
    pytest.importorskip("redis")
    with RedisServer() as server:
        yield server


@pytest.fixture
async def redis_link(redis_server: RedisServer) -> AsyncIterator[RedisLink]:
    """Return a link to the server, which holds nothing."""
    redis_server.flush()
    link = RedisLink(RedisSettings(url=redis_server.url, timeout_s=5))
    yield link
    await link.aclose()


@pytest.fixture(scope="session")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("security") / "keys.db")


@pytest.fixture
def gateway(live: Callable[..., Live], upstream: MisbehavingUpstream, key_file: str) -> Keyed:
    """One gateway for all of them: nothing that is sent here may harm it."""
    model = {"api_key": UPSTREAM_KEY, "headers": {"x-team": UPSTREAM_HEADER}}
    running = live(
        "alpha",
        "beta",
        models={"alpha": model, "beta": model},
        auth={"store": f"sqlite:///{key_file}", "failures_per_minute": 0},
    )
    keyed = Keyed(running)
    keyed.tokens["admin"] = admin_token(key_file)
    keyed.make("plain")
    return keyed


@pytest.fixture
def canary() -> Iterator[Canary]:
    listener = Canary()
    yield listener
    listener.close()
    assert listener.visits == 0, "a field of a request steered the gateway to another address"
