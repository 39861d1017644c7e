from __future__ import annotations

import asyncio
import socket
import sys
import threading
import time

import pytest
from pydantic import ValidationError
from slow_proxy import SlowProxy

from llmrouter.exceptions import MissingExtraError
from service.limits.settings import RedisSettings
from service.redis_link import RedisLink, RedisUnavailableError, Script

SOON_S = 1.0
"""Generous for a busy machine; the configured time-out is 0.15 s."""

ECHO = Script("return ARGV[1]")


async def ping(redis):
    return await redis.ping()


async def refused(link):
    """Return how long a refusal took."""
    began = time.perf_counter()
    with pytest.raises(RedisUnavailableError):
        await link.run(ping)
    return time.perf_counter() - began


async def until_well(link, patience_s=15.0):
    deadline = time.monotonic() + patience_s
    while link.state().status != "ok":
        assert time.monotonic() < deadline, link.state()
        await asyncio.sleep(0.02)


@pytest.fixture
async def link(own_settings):
    link = RedisLink(own_settings)
    link.start()
    await until_well(link)
    yield link
    await link.aclose()


async def test_a_frozen_redis_costs_one_time_out_and_then_nothing(link, own_redis):
    own_redis.freeze()
    assert await refused(link) < SOON_S
    began = time.perf_counter()
    for _ in range(100):
        await refused(link)
    assert time.perf_counter() - began < link.timeout_s * 50
    state = link.state()
    assert (state.status, state.failures, state.refused) == ("failing", 1, 100)
    own_redis.thaw()
    await until_well(link)
    assert await link.run(ping)


async def test_many_callers_at_once_wait_together(link, own_redis):
    own_redis.freeze()
    began = time.perf_counter()
    await asyncio.gather(*(refused(link) for _ in range(200)))
    assert time.perf_counter() - began < SOON_S
    own_redis.thaw()


async def test_killed_and_restarted(link, own_redis):
    returns = []
    link.on_return(lambda: returns.append(time.monotonic()))
    assert await link.evaluate([(ECHO, [], ["a"])]) == [b"a"]
    own_redis.kill()
    assert await refused(link) < SOON_S
    assert await refused(link) < SOON_S
    own_redis.restart()
    await until_well(link)
    # The scripts are gone with the process.
    assert await link.evaluate([(ECHO, [], ["a"]), (ECHO, [], ["b"])]) == [b"a", b"b"]
    assert len(returns) == 1


async def test_start_up_does_not_need_redis(own_settings, own_redis):
    own_redis.kill()
    link = RedisLink(own_settings)
    link.start()
    assert await refused(link) < SOON_S
    own_redis.restart()
    await until_well(link)
    assert await link.run(ping)
    await link.aclose()


async def test_the_first_use_connects(own_settings):
    link = RedisLink(own_settings.model_copy(update={"timeout_s": 2.0}))
    assert await link.run(ping)
    await link.aclose()


async def test_a_slow_redis_is_left_alone(own_redis):
    async with SlowProxy(own_redis.port) as proxy:
        link = RedisLink(RedisSettings(url=f"redis://127.0.0.1:{proxy.port}"))
        link.start()
        await until_well(link)
        proxy.delay_s = 0.3
        while link.state().status == "ok":  # a loop that stands still on a busy machine is not blamed on Redis
            assert await refused(link) < SOON_S
        # It answers, but not in time: it is not well before it does.
        await asyncio.sleep(1.0)
        assert link.state().status == "failing"
        proxy.delay_s = 0.0
        await until_well(link)
        await link.aclose()


async def test_nobody_listens():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        link = RedisLink(RedisSettings(url=f"redis://127.0.0.1:{closed.getsockname()[1]}"))
        assert await refused(link) < SOON_S
        await link.aclose()


async def test_a_listener_that_never_answers():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        link = RedisLink(RedisSettings(url=f"redis://127.0.0.1:{silent.getsockname()[1]}"))
        assert await refused(link) < SOON_S
        await link.aclose()


async def test_name_resolution_that_hangs_holds_one_thread_of_its_own(monkeypatch):
    released, asked = threading.Event(), []

    def hang(*address, **_):
        asked.append(address)
        released.wait(30)
        raise socket.gaierror(socket.EAI_AGAIN, "no name server answers")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    link = RedisLink(RedisSettings(url="redis://redis.example.com"))
    assert await refused(link) < SOON_S
    await asyncio.gather(*(refused(link) for _ in range(50)))
    await asyncio.sleep(1.8)
    assert asked == [("redis.example.com", 6379)]
    released.set()
    await link.aclose()


async def test_a_wrong_command_is_the_callers_fault_and_breaks_nothing(link):
    with pytest.raises(RedisUnavailableError, match="wrong number of arguments"):
        await link.run(lambda redis: redis.execute_command("GET"))
    assert link.state().status == "ok"
    (failure,) = await link.evaluate([(Script("return redis.error_reply('no')"), [], [])])
    assert isinstance(failure, Exception)
    assert link.state().status == "ok"


async def test_a_wrong_password_is_an_outage(own_redis):
    own_redis.command("CONFIG", "SET", "requirepass", "secret")
    link = RedisLink(RedisSettings(url=own_redis.url))
    await refused(link)
    assert "auth" in link.state().trouble.lower()
    await link.aclose()


async def test_all_uses_of_one_request_together_wait_for_one_time_out(own_redis):
    async with SlowProxy(own_redis.port) as proxy:
        link = RedisLink(RedisSettings(url=f"redis://127.0.0.1:{proxy.port}", timeout_s=0.4))
        link.start()
        await until_well(link)
        proxy.delay_s = 0.15

        async def request():
            link.begin_request()
            began = time.perf_counter()
            for answered in range(10):
                try:
                    await link.run(ping)
                except RedisUnavailableError:
                    return answered, time.perf_counter() - began
            return 10, time.perf_counter() - began

        answered, seconds = await asyncio.create_task(request())
        assert answered <= 2
        assert seconds < 1.0
        await link.aclose()


async def test_what_a_request_has_left_is_too_little_to_blame_redis(link):
    async def request():
        link.begin_request()
        link.waited(link.timeout_s * 0.8)
        with pytest.raises(RedisUnavailableError, match="did not answer within"):
            await link.run(lambda redis: asyncio.sleep(5))

    await asyncio.create_task(request())
    assert link.state().status == "ok"


async def test_a_stalled_event_loop_is_not_blamed_on_redis(link):
    async def job(redis):
        time.sleep(0.5)  # noqa: ASYNC251 - the point of the test
        return await redis.ping()

    with pytest.raises(RedisUnavailableError):
        await link.run(job)
    assert link.state().status == "ok"


def test_a_missing_client_library_names_the_extra(monkeypatch):
    for name in [name for name in sys.modules if name == "redis" or name.startswith("redis.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(MissingExtraError, match=r"llmrouter-service\[redis\]"):
        RedisLink(RedisSettings(url="redis://localhost"))


@pytest.mark.parametrize("url", ["http://localhost", "localhost:6379", "redis://", "unix://", "redis://host:port"])
def test_addresses_that_are_none(url):
    with pytest.raises(ValidationError, match="redis://HOST:PORT") as caught:
        RedisSettings(url=url)
    assert "'input'" not in str(caught.value)


def test_settings_keep_their_secret():
    settings = RedisSettings(url="rediss://user:hunter2@redis.example.com:6380/1")
    assert "hunter2" not in repr(settings) + str(settings.model_dump())
    assert settings.address == ("redis.example.com", 6380)
    assert RedisSettings(url="unix:///run/redis.sock").address is None
