"""Loads are read in the background, count while they are fresh, and change nothing where they cannot be read."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import pytest
from loads.load_server import LoadServer, entry, load_server

from llmrouter.policy import LiveSpeed
from llmrouter.pool import HTTPSessions
from llmrouter.types import ModelCard
from service.loads import Loads
from service.loads.source import Source
from service.settings import ModelSettings

PRICE = {"input": 1.0, "cached_input": 0.25, "output": 2.0}
QUICK = {"every_s": 0.1, "stale_s": 0.4, "timeout_s": 0.3}


@pytest.fixture
def engine() -> Iterator[LoadServer]:
    with load_server() as server:
        yield server


@pytest.fixture
async def sessions() -> AsyncIterator[HTTPSessions]:
    found = HTTPSessions()
    yield found
    await found.aclose()


class Used:
    """What the loads handed on."""

    def __init__(self) -> None:
        self.cards: Mapping[str, ModelCard] = {}
        self.times = 0

    def __call__(self, cards: Mapping[str, ModelCard]) -> None:
        self.cards = cards
        self.times += 1


def model(engine: LoadServer, name: str = "a", **changes: Any) -> ModelSettings:
    return ModelSettings.model_validate(
        {"name": name, "base_url": engine.url, "price": PRICE, "load": QUICK, **changes}
    )


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - looks at a server in another thread
            await asyncio.sleep(0.005)


async def test_a_reading_becomes_the_price_and_speed_of_the_moment(engine: LoadServer, sessions: HTTPSessions) -> None:
    engine.says(entry("a", 0.1, 0.4))
    used = Used()
    loads = Loads([model(engine), model(engine, "b", load=None)], sessions, use=used)
    assert loads.account()["a"]["reason"] == "the load was not read yet"
    loads.start()
    await until(lambda: bool(used.cards))
    card = used.cards["a"]
    assert (card.price.input, card.price.output, card.price.source) == (0.1, 0.4, "load")
    assert card.price.cached_input == pytest.approx(0.025)  # a quarter, as configured
    assert card.speed == LiveSpeed(0.02, 50.0, 1e-4)
    assert list(used.cards) == ["a"]
    told = loads.account()
    assert told["a"] | {"age_s": 0} == {
        "input": 0.1,
        "output": 0.4,
        "from": "load",
        "age_s": 0,
        "reason": "",
        "seconds_per_input_token": 1e-4,
        "seconds_per_output_token": 0.02,
    }
    assert told["b"] == {"input": 1.0, "output": 2.0, "from": "configuration"}
    assert loads.in_use() == {"a": 1.0}
    engine.says(entry("a", 0.1, 0.9))
    await until(lambda: used.cards["a"].price.output == 0.9)
    await loads.aclose()


async def test_what_has_not_changed_is_not_handed_on_again(engine: LoadServer, sessions: HTTPSessions) -> None:
    engine.says(entry("a", 0.1, 0.4))
    used = Used()
    loads = Loads([model(engine)], sessions, use=used)
    loads.start()
    await until(lambda: len(engine.asked) >= 4)
    assert used.times == 1
    await loads.aclose()


async def test_a_stale_reading_gives_way_to_the_configured_price(
    engine: LoadServer, sessions: HTTPSessions, caplog: pytest.LogCaptureFixture
) -> None:
    engine.says(entry("a", 0.1, 0.4))
    used = Used()
    loads = Loads([model(engine)], sessions, use=used)
    loads.start()
    await until(lambda: bool(used.cards))
    engine.status = 503
    with caplog.at_level(logging.INFO, logger="service.loads"):
        await until(lambda: not used.cards)
        told = loads.account()["a"]
        assert (told["input"], told["from"]) == (1.0, "configuration")
        assert told["reason"] == "the last reading is older than 0.4 s; the gateway's own log says why"
        assert loads.failures()["a"] >= 1
        assert loads.ages()["a"] >= 0.4
        assert loads.in_use() == {"a": 0.0}
        engine.says(entry("a", 0.1, 0.4))
        await until(lambda: bool(used.cards))
    warnings = [record.getMessage() for record in caplog.records]
    assert warnings == [
        "the load of a cannot be read: the engine answered 503 where 200 was expected; metrics count the next failures",
        "the load of a is read again",
    ]
    await loads.aclose()


async def test_an_engine_that_hangs_is_given_up_in_time_and_holds_up_nothing(
    engine: LoadServer, sessions: HTTPSessions
) -> None:
    engine.says(entry("a", 0.1, 0.4))
    used = Used()
    loads = Loads([model(engine)], sessions, use=used)
    loads.start()
    await until(lambda: bool(used.cards))
    engine.hold.clear()
    await until(lambda: loads.failures()["a"] >= 1 and not used.cards)
    await loads.aclose()


async def test_closing_while_an_engine_hangs_is_quick(engine: LoadServer, sessions: HTTPSessions) -> None:
    engine.hold.clear()
    loads = Loads([model(engine, load={"timeout_s": 9})], sessions, use=Used())
    loads.start()
    await until(lambda: bool(engine.asked))
    async with asyncio.timeout(2):
        await loads.aclose()
        await loads.aclose()


@pytest.mark.parametrize(
    "document", [b"<html>", {"server_load": 1}, {"data": [{"id": "b"}]}, {"data": [entry("a", -1, 2)]}]
)
async def test_a_wrong_report_is_a_failure(engine: LoadServer, sessions: HTTPSessions, document: Any) -> None:
    engine.document = document
    used = Used()
    loads = Loads([model(engine)], sessions, use=used)
    loads.start()
    await until(lambda: loads.failures()["a"] >= 2)
    assert not used.times
    assert loads.ages() == {}
    await loads.aclose()


async def test_an_engine_that_knows_no_price_still_tells_its_speed(engine: LoadServer, sessions: HTTPSessions) -> None:
    engine.says(entry("a", 0.0, 0.0, machine={"usd_per_hour": 0.0}))
    used = Used()
    loads = Loads([model(engine)], sessions, use=used)
    loads.start()
    await until(lambda: bool(used.cards))
    assert used.cards["a"].price == model(engine).card.price
    assert isinstance(used.cards["a"].speed, LiveSpeed)
    told = loads.account()["a"]
    assert told["from"] == "configuration"
    assert "--usd-per-hour" in told["reason"]
    await loads.aclose()


async def test_models_of_one_engine_share_a_reading(engine: LoadServer, sessions: HTTPSessions) -> None:
    engine.says(entry("a", 0.1, 0.4), entry("upstream/b", 0.2, 0.8))
    used = Used()
    slow = {"every_s": 5}
    models = [model(engine, load=slow), model(engine, "b", model="upstream/b", load=slow)]
    loads = Loads(models, sessions, use=used)
    loads.start()
    await until(lambda: len(used.cards) == 2)
    assert [path for path, _ in engine.asked] == ["/v1/load"]
    assert used.cards["b"].price.output == 0.8
    await loads.aclose()


async def test_what_was_read_goes_on_counting_after_a_reload(engine: LoadServer, sessions: HTTPSessions) -> None:
    engine.says(entry("a", 0.1, 0.4))
    first = Used()
    before = Loads([model(engine, load={"every_s": 5})], sessions, use=first)
    before.start()
    await until(lambda: bool(first.cards))
    engine.hold.clear()
    second = Used()
    after = Loads(
        [model(engine, price={"input": 5, "output": 5}, load={"every_s": 5})], sessions, use=second, reuse=before
    )
    after.start()
    assert second.cards["a"].price.output == 0.4  # at once
    other = Used()
    moved = Loads([model(engine, load={"url": "http://127.0.0.1:9/load"})], sessions, use=other, reuse=before)
    moved.start()
    assert not other.times
    for loads in (before, after, moved):
        await loads.aclose()


async def test_the_equal_share_can_be_wanted(engine: LoadServer, sessions: HTTPSessions) -> None:
    engine.says(entry("a", 0.1, 0.0, average={"output": {"usd_per_million": 0.3}}))
    used = Used()
    loads = Loads([model(engine, load={**QUICK, "price": "average"})], sessions, use=used)
    loads.start()
    await until(lambda: bool(used.cards))
    assert used.cards["a"].price.output == 0.3
    await loads.aclose()


async def test_without_such_models_nothing_is_started() -> None:
    loads = Loads([], HTTPSessions(), use=Used())
    loads.start()
    assert (loads.account(), loads.ages(), len(asyncio.all_tasks())) == ({}, {}, 1)
    await loads.aclose()


def test_the_key_goes_to_the_engine_and_nowhere_else(engine: LoadServer) -> None:
    secret = {"api_key": "sk-1", "headers": {"X-Own": "v"}}
    beside = Source.of(model(engine, **secret))
    assert beside is not None
    assert beside.url == f"{engine.url}/load"
    assert dict(beside.headers) == {"authorization": "Bearer sk-1", "x-own": "v"}
    same = Source.of(model(engine, **secret, load={"url": engine.url.replace("/v1", "/load")}))
    assert same is not None
    assert same.headers == beside.headers
    for url in ("http://elsewhere:80/load", engine.url.replace("http://", "https://")):
        elsewhere = Source.of(model(engine, **secret, load={"url": url}))
        assert elsewhere is not None
        assert elsewhere.headers == ()
    assert "sk-1" not in repr(model(engine, **secret))
