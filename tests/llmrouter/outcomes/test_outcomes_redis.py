"""The outcome log in Redis: many writers, a server that ends, another version, settings that lose data."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from contracts.redis_server import RedisServer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from outcome_samples import make_outcome

from llmrouter.exceptions import StoreError
from llmrouter.outcomes import Feedback, MemoryOutcomeStore, RedisOutcomeStore, SQLiteOutcomeStore
from llmrouter.types import Outcome


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture
def store(server: RedisServer) -> Iterator[RedisOutcomeStore]:
    server.flush()
    opened = RedisOutcomeStore(server.url)
    yield opened
    opened.close()


def at_once(*jobs: object) -> None:
    threads = [threading.Thread(target=job) for job in jobs]  # type: ignore[arg-type]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_writers_that_say_the_same_at_once_are_counted_once(server: RedisServer, store: RedisOutcomeStore) -> None:
    def work() -> None:
        own = RedisOutcomeStore(server.url)
        for start in range(0, 300, 30):
            own.append([make_outcome(f"r{i}", time=float(i)) for i in range(start, start + 30)])
            own.feedback_many([Feedback(f"r{i}", i / 300, time=5.0) for i in range(start, start + 30)])
        own.close()

    at_once(work, work, work)
    assert [outcome.request_id for outcome in store.scan()] == [f"r{i}" for i in range(300)]
    assert Counter(event.outcome.request_id for event in store.events()) == {f"r{i}": 1 for i in range(300)}
    assert {event.outcome.quality for event in store.events()} == {i / 300 for i in range(300)}


def test_all_readers_see_one_order(server: RedisServer, store: RedisOutcomeStore) -> None:
    """Also those that read while it is written, and page by page."""
    store.append([make_outcome(f"r{i}") for i in range(50)])
    seen: list[list[str]] = [[], []]
    done = threading.Event()

    def write(source: str) -> None:
        own = RedisOutcomeStore(server.url)
        for i in range(200):
            own.feedback(Feedback(f"r{i % 50}", (i // 50) / 4, source, time=float(i + 1)))

    def read(into: list[str], page: int) -> None:
        own = RedisOutcomeStore(server.url)
        cursor = ""
        while True:
            last = done.is_set()
            for event in own.events(cursor, page):
                into.append(f"{event.outcome.request_id} {event.outcome.quality} {event.outcome.quality_source}")
                cursor = event.cursor
            if last and not own.events(cursor, 1):
                return

    def writers() -> None:
        at_once(lambda: write("a"), lambda: write("b"), lambda: write("c"))
        done.set()

    at_once(writers, lambda: read(seen[0], 3), lambda: read(seen[1], 500))
    assert len(seen[0]) == 600
    assert seen[0] == seen[1]


def test_two_prefixes_are_two_logs(server: RedisServer, store: RedisOutcomeStore) -> None:
    other = RedisOutcomeStore.from_url(f"{server.url}?prefix=team-b")
    store.append([make_outcome("a")])
    other.append([make_outcome("b")])
    assert [outcome.request_id for outcome in other.scan()] == ["b"]
    assert b"team-b:log:outcomes" in server.command("KEYS", "team-b:*")


@pytest.mark.parametrize(
    "act",
    [
        lambda s: s.append([make_outcome("b")]),
        lambda s: s.feedback(Feedback("a", 1.0)),
        lambda s: s.get("a"),
        lambda s: list(s.scan()),
        lambda s: s.events(),
        lambda s: s.prune(keep=0),
        lambda s: s.update_costs([("a", 1.0, "x")]),
    ],
)
def test_the_log_of_a_newer_version_is_left_alone(server: RedisServer, store: RedisOutcomeStore, act: object) -> None:
    store.append([make_outcome("a")])
    server.command("SET", "llmrouter:log:schema", "99")
    with pytest.raises(StoreError, match="has schema version 99 under llmrouter:log, this llmrouter knows 3"):
        act(store)  # type: ignore[operator]
    assert server.command("HLEN", "llmrouter:log:ids") == b":1\r\n"


def test_feedback_for_nobody_is_kept_for_a_while_only(server: RedisServer, store: RedisOutcomeStore) -> None:
    hasty = RedisOutcomeStore(server.url, pending_s=-1.0)
    store.feedback(Feedback("kept", 0.5))
    hasty.feedback(Feedback("later", 0.5))  # sweeps what waits already
    store.append([make_outcome("kept"), make_outcome("later")])
    assert {outcome.request_id: outcome.quality for outcome in store.scan()} == {"kept": None, "later": 0.5}
    assert server.command("ZCARD", "llmrouter:log:pending") == b":0\r\n"


def test_pruning_leaves_nothing_behind(server: RedisServer, store: RedisOutcomeStore) -> None:
    store.append([make_outcome(f"r{i}", time=float(i)) for i in range(700)])
    store.feedback_many([Feedback(f"r{i}", 0.5) for i in range(700)])
    store.update_costs([(f"r{i}", 1.0, "x") for i in range(700)])
    assert store.prune(keep=1, limit=10_000) == 699
    for name, command in {"ids": "HLEN", "judgements": "HLEN", "costs": "HLEN", "times": "ZCARD"}.items():
        assert server.command(command, f"llmrouter:log:{name}") == b":1\r\n", name
    for name in ("outcomes", "events"):
        assert server.command("XLEN", f"llmrouter:log:{name}") == b":1\r\n", name


def test_a_scan_goes_on_where_its_page_was_pruned(store: RedisOutcomeStore) -> None:
    store.append([make_outcome(f"r{i}", time=float(i // 10)) for i in range(1000)])
    reading = store.scan()
    seen = [next(reading).request_id for _ in range(250)]
    store.prune(keep=600)
    seen += [outcome.request_id for outcome in reading]
    assert seen[:250] == [f"r{i}" for i in range(250)]
    assert seen[-600:] == [f"r{i}" for i in range(400, 1000)]
    assert len(seen) == len(set(seen))


def test_a_server_that_is_away_is_a_store_error_and_comes_back() -> None:
    with RedisServer() as server:
        store = RedisOutcomeStore(server.url, timeout_s=0.3)
        store.append([make_outcome("a")])
        server.freeze()
        began = time.monotonic()
        with pytest.raises(StoreError, match="it may be repeated"):
            store.append([make_outcome("b")])
        for _ in range(20):
            with pytest.raises(StoreError, match="did not answer a moment ago"):
                store.events()
        assert time.monotonic() - began < 5.0, "one time-out, not one each"
        server.thaw()
        time.sleep(1.1)
        store.append([make_outcome("b")])
        server.kill()
        with pytest.raises(StoreError, match=f"redis://127.0.0.1:{server.port}/0"):
            store.get("a")
        server.restart()
        store.append([make_outcome("c")])
        assert [outcome.request_id for outcome in store.scan()] == ["c"], "its scripts are sent again"


def test_a_durable_server_keeps_what_it_acknowledged(caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer(durable=True) as server:
        store = RedisOutcomeStore(server.url)
        for i in range(20):
            store.append([make_outcome(f"r{i}", time=float(i))])
            store.feedback(Feedback(f"r{i}", 0.5, time=5.0))
        events = store.events()
        assert store.weakness == ""
        server.restart()
        assert [outcome.quality for outcome in store.scan()] == [0.5] * 20
        assert store.events() == events
        store.feedback(Feedback("r0", 1.0, time=6.0))
        assert store.events(events[-1].cursor)[0].outcome.quality == 1.0, "and the order goes on"
    assert not caplog.records


@pytest.mark.parametrize(
    ("commands", "weakness"),
    [
        ([], "appendonly is off"),
        ([("appendonly", "yes"), ("appendfsync", "everysec")], "appendfsync is everysec"),
        (
            [
                ("appendonly", "yes"),
                ("appendfsync", "always"),
                ("maxmemory", "100mb"),
                ("maxmemory-policy", "allkeys-lru"),
            ],
            "maxmemory-policy is allkeys-lru",
        ),
        ([("appendonly", "yes"), ("appendfsync", "always")], ""),
    ],
)
def test_settings_that_lose_data_are_said_aloud(
    commands: list[tuple[str, str]], weakness: str, caplog: pytest.LogCaptureFixture
) -> None:
    with RedisServer() as server:
        for name, value in commands:
            assert server.command("CONFIG", "SET", name, value) == b"+OK\r\n"
        if weakness.startswith("appendfsync") and b"unknown command" not in server.command("WAITAOF", "0", "0", "1"):
            pytest.skip("this Redis is asked to bring each write to its disk")
        store = RedisOutcomeStore(server.url)
        assert store.weakness == "", "nobody has asked yet"
        store.append([make_outcome("a")])
        assert store.weakness.startswith(weakness)
        assert bool(store.weakness) == bool(weakness)
    said = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(said) == bool(weakness)


def test_a_server_that_does_not_tell_its_settings() -> None:
    with RedisServer() as server:
        assert server.command("ACL", "SETUSER", "default", "-config") == b"+OK\r\n"
        store = RedisOutcomeStore(server.url)
        store.append([make_outcome("a")])
        assert "CONFIG GET is refused" in store.weakness


def test_odd_texts_and_numbers_come_back(store: RedisOutcomeStore) -> None:
    odd = make_outcome("half \ud800", usage={"n": 2**70}, attempts=({"model": "m", "error": "half \ud800"},))
    store.append([odd, make_outcome("after")])
    store.feedback(Feedback("half \ud800", 0.1, 'source "é" \ud800', by="{}"))
    found = store.get("half \ud800")
    assert found is not None
    assert (found.request_id, found.attempts[0]["error"], found.quality) == ("half ?", "half ?", 0.1)
    assert found.quality_source == 'source "é" ?'


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 5), st.sampled_from([None, 0.0, 0.3, 1.0])),
        st.tuples(
            st.just("judge"),
            st.integers(0, 5),
            st.sampled_from([0.0, 1 / 3, 1.0]),
            st.sampled_from("ab"),
            st.sampled_from([0.1, 1.0, 7.3]),
            st.integers(1, 5),
        ),
        st.tuples(st.just("prune"), st.integers(0, 5)),
        st.tuples(st.just("cost"), st.integers(0, 5)),
    ),
    max_size=25,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(ACTIONS)
def test_all_stores_say_the_same_whatever_is_done(
    server: RedisServer, tmp_path_factory: pytest.TempPathFactory, actions: list[tuple]
) -> None:
    server.flush()
    file = tmp_path_factory.mktemp("log") / "outcomes.db"
    stores = (MemoryOutcomeStore(), RedisOutcomeStore(server.url), SQLiteOutcomeStore(file))
    answers: list[list[object]] = [[] for _ in stores]
    for store, answer in zip(stores, answers, strict=True):
        for kind, *values in actions:
            if kind == "append":
                answer.append(store.append([make_outcome(f"r{values[0]}", time=float(values[0]), quality=values[1])]))
            elif kind == "judge":
                number, quality, source, weight, moment = values
                answer.append(store.feedback(Feedback(f"r{number}", quality, source, weight, float(moment))))
            elif kind == "prune":
                answer.append(store.prune(keep=values[0]))
            else:
                answer.append(store.update_costs([(f"r{values[0]}", 0.25, "x")]))
        answer.append(list(store.scan()))
        answer.append([state_of(event.outcome) for event in store.events()])
        store.close()
    assert answers[0] == answers[1] == answers[2]


def state_of(outcome: Outcome) -> tuple[object, ...]:
    return outcome.request_id, outcome.quality, outcome.quality_source, outcome.quality_weight, outcome.cost_usd
