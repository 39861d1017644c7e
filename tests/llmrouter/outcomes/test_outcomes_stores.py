"""The contract of outcome stores, run over every store of the registry."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from contracts.redis_server import RedisServer
from outcome_samples import make_outcome

from llmrouter.exceptions import ConfigError, DataError
from llmrouter.outcomes import Feedback, OutcomeStore, open_store
from llmrouter.types import Outcome

URLS = {"sqlite": "sqlite:///{folder}/log/outcomes.db", "memory": "memory://", "redis": "{redis}"}


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(params=sorted(URLS))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OutcomeStore]:
    server = request.getfixturevalue("redis_server") if request.param == "redis" else None
    if server is not None:
        server.flush()
    opened = open_store(URLS[request.param].format(folder=tmp_path, redis=server and server.url))
    assert isinstance(opened, OutcomeStore)
    yield opened
    opened.close()


FULL = Outcome(
    request_id="r",
    time=12.5,
    model="m",
    router="knn",
    artifact_id="a1",
    policy="utility",
    propensity=0.75,
    candidates={"m": {"quality": 0.5, "standard_error": 0.125, "cost_usd": 1e-6}, "é": {"quality": 1.0}},
    key_id="k",
    conversation_id="c",
    prompt="text\x00 with 'quotes' and \u2028 lines",
    prompt_sha256="0" * 64,
    embedding=(0.5, -0.25, 1.0),
    task="t",
    served_by="n",
    fallbacks=("m", "o"),
    status="partial",
    error="broke off",
    input_tokens=1,
    cached_tokens=0,
    output_tokens=2,
    reasoning_tokens=3,
    cost_usd=0.1,
    time_to_first_token_s=0.2,
    latency_s=0.3,
    quality=0.5,
    quality_source="judge",
    quality_weight=2.0,
    quality_time=13.0,
    endpoint="chat",
    stream=True,
    usage={"prompt_tokens": 1, "prompt_tokens_details": {"cached_tokens": 0}, "vendor": [0.5, None]},
    price_as_of="2026-11-01",
    overhead_cost_usd=0.01,
    cache="semantic",
    deployment="east",
    team="t1",
    attempts=({"model": "m", "error": "BackendStatusError", "status": 529, "latency_s": 0.25},),
    explored=True,
    lane="canary",
    shadow={"model": "o", "quality": 0.5, "artifact": None},
    quality_by=("k1", "k2"),
    finish_reason="length",
)


def test_every_field_comes_back(store: OutcomeStore) -> None:
    assert all(getattr(FULL, field.name) not in (None, "", ()) for field in dataclasses.fields(Outcome))
    plain = make_outcome("s")
    store.append([FULL, plain])
    assert store.get("r") == FULL
    assert store.get("s") == plain
    assert store.get("never") is None


def test_append_is_idempotent_and_the_first_stays(store: OutcomeStore) -> None:
    store.append([make_outcome("a", cost_usd=1.0), make_outcome("a", cost_usd=2.0)])
    store.append([make_outcome("a", cost_usd=3.0), make_outcome("b")])
    store.append([])
    assert [(outcome.request_id, outcome.cost_usd) for outcome in store.scan()] == [("a", 1.0), ("b", None)]


def test_scan_is_by_time_and_inclusive(store: OutcomeStore) -> None:
    store.append([make_outcome(f"r{time}{i}", time=float(time)) for time in (3, 1, 2) for i in range(2)])
    assert [outcome.request_id for outcome in store.scan()] == ["r10", "r11", "r20", "r21", "r30", "r31"]
    assert [outcome.request_id for outcome in store.scan(2.0)] == ["r20", "r21", "r30", "r31"]
    assert list(store.scan(3.5)) == []


def test_scan_goes_on_over_pages_of_equal_times(store: OutcomeStore) -> None:
    store.append([make_outcome(f"r{i}", time=float(i // 700)) for i in range(1600)])
    assert [outcome.request_id for outcome in store.scan()] == [f"r{i}" for i in range(1600)]


def test_one_can_write_while_scanning(store: OutcomeStore) -> None:
    store.append([make_outcome(f"r{i}", time=float(i)) for i in range(600)])
    seen = []
    for outcome in store.scan():
        seen.append(outcome.request_id)
        if len(seen) == 1:
            store.append([make_outcome("earlier", time=-1.0)])
            store.feedback(Feedback("r1", 1.0))
    assert seen == [f"r{i}" for i in range(600)]


def test_feedback_is_joined_as_the_weighted_mean_over_sources(store: OutcomeStore) -> None:
    store.append([make_outcome("a"), make_outcome("b")])
    assert store.feedback(Feedback("a", 1.0, "user", 1.0, 5.0)) is True
    assert store.feedback(Feedback("a", 0.0, "judge", 3.0, 7.0)) is True
    outcome = store.get("a")
    assert outcome is not None
    assert (outcome.quality, outcome.quality_source, outcome.quality_weight, outcome.quality_time) == (
        0.25, "judge, user", 4.0, 7.0
    )  # fmt: skip
    assert [outcome.quality for outcome in store.scan()] == [0.25, None]


def test_feedback_is_idempotent_on_request_and_source(store: OutcomeStore) -> None:
    store.append([make_outcome("a")])
    store.feedback(Feedback("a", 0.5, "user", 1.0, 5.0))
    before = store.get("a")
    store.feedback(Feedback("a", 0.5, "user", 1.0, 9.0))
    assert store.get("a") == before, "the same again changes nothing, not even the time"
    store.feedback(Feedback("a", 1.0, "user", 2.0, 10.0))
    after = store.get("a")
    assert after is not None
    assert (after.quality, after.quality_weight, after.quality_time) == (1.0, 2.0, 10.0)


def test_feedback_that_comes_first_waits_for_its_outcome(store: OutcomeStore) -> None:
    assert store.feedback(Feedback("a", 0.5)) is False
    assert store.feedback(Feedback("a", 0.75)) is False
    assert store.get("a") is None
    store.append([make_outcome("a")])
    outcome = store.get("a")
    assert outcome is not None
    assert outcome.quality == 0.75
    assert (outcome.quality_time or 0) > 1e9, "stamped on arrival"
    assert store.feedback(Feedback("a", 1.0)) is True


def test_a_quality_stored_with_the_outcome_is_one_source(store: OutcomeStore) -> None:
    store.append([make_outcome("a", quality=0.5, quality_source="judge"), make_outcome("b", quality=0.5)])
    store.feedback(Feedback("a", 1.0, "user"))
    store.feedback(Feedback("b", 1.0, "user"))
    joined = {outcome.request_id: outcome for outcome in store.scan()}
    assert (joined["a"].quality, joined["a"].quality_source) == (0.75, "judge, user")
    assert joined["b"].quality == 0.75
    store.feedback(Feedback("a", 0.0, "judge"))
    assert {outcome.request_id: outcome.quality for outcome in store.scan()}["a"] == 0.5


def test_of_two_judgements_of_a_source_the_later_counts_whichever_comes_first(store: OutcomeStore) -> None:
    store.append([make_outcome("a")])
    store.feedback(Feedback("a", 1.0, "user", 1.0, 9.0))
    assert store.feedback(Feedback("a", 0.0, "user", 1.0, 8.0)) is True
    store.feedback(Feedback("b", 0.0, "user", 1.0, 9.0))
    store.feedback(Feedback("b", 1.0, "user", 1.0, 8.0))
    store.append([make_outcome("b")])
    assert [outcome.quality for outcome in store.scan()] == [1.0, 0.0]
    store.feedback(Feedback("a", 0.5, "user", 1.0, 9.0))
    assert [outcome.quality for outcome in store.scan()] == [0.5, 0.0], "of the same time the last to come"


def test_who_judged_is_kept(store: OutcomeStore) -> None:
    store.feedback(Feedback("a", 0.5, "user", by="k2"))
    store.append([make_outcome("a")])
    store.feedback(Feedback("a", 1.0, "judge", by="k1"))
    found = store.get("a")
    assert found is not None
    assert found.quality_by == ("k1", "k2")


def states(store: OutcomeStore, after: str = "", limit: int = 1000) -> list[tuple[str, float | None]]:
    return [(event.outcome.request_id, event.outcome.quality) for event in store.events(after, limit)]


def test_events_are_the_steps_by_which_judgements_came(store: OutcomeStore) -> None:
    assert states(store) == []
    assert store.last_event() == ""
    store.append([make_outcome("a"), make_outcome("b", quality=0.5, time=7.0)])
    assert states(store) == [("b", 0.5)], "an outcome that nobody judged is no event"
    store.feedback(Feedback("a", 1.0))
    store.feedback(Feedback("c", 0.25))  # waits for its outcome
    store.feedback(Feedback("a", 0.0, "judge"))
    store.append([make_outcome("c"), make_outcome("d")])
    store.feedback(Feedback("a", 0.5))
    steps = [("b", 0.5), ("a", 1.0), ("a", 0.5), ("c", 0.25), ("a", 0.25)]
    assert states(store) == steps
    cursors = [event.cursor for event in store.events()]
    assert cursors == sorted(set(cursors)), "increasing"
    assert store.last_event() == cursors[-1]
    for position, cursor in enumerate(cursors):
        assert states(store, cursor) == steps[position + 1 :]
        assert states(store, cursor, 1) == steps[position + 1 : position + 2]
    assert store.events(cursors[-1]) == []


def test_an_event_keeps_the_state_that_it_brought(store: OutcomeStore) -> None:
    store.append([make_outcome("a", prompt="text", cost_usd=0.5, price_as_of="then")])
    store.feedback(Feedback("a", 1.0, "user", 2.0, 5.0, "k1"))
    first = store.events()
    assert first[0].outcome == store.get("a")
    store.feedback(Feedback("a", 0.0, "judge", 1.0, 6.0))
    assert store.events()[:1] == first
    assert store.events()[1].outcome == store.get("a")


def test_a_judgement_that_changes_nothing_is_no_event(store: OutcomeStore) -> None:
    store.append([make_outcome("a", quality=0.5)])
    store.append([make_outcome("a", quality=1.0)])
    store.feedback(Feedback("a", 0.5, "user", 1.0, 5.0))
    store.feedback(Feedback("a", 0.5, "user", 1.0, 6.0))
    store.feedback(Feedback("a", 0.75, "user", 1.0, 4.0))
    assert states(store) == [("a", 0.5), ("a", 0.5)], "the outcome with its own, and the user's"


def test_a_batch_brings_its_events_in_its_order(store: OutcomeStore) -> None:
    names = [f"r{i}" for i in range(1200)]
    for name in names[::3]:
        store.feedback(Feedback(name, 0.5))
    store.append([make_outcome(name, quality=None if i % 2 else 1.0) for i, name in enumerate(names)])
    seen: list[str] = []
    cursor = ""
    while page := store.events(cursor, 100):
        seen += [event.outcome.request_id for event in page]
        cursor = page[-1].cursor
    assert seen == [name for i, name in enumerate(names) if i % 3 == 0 or i % 2 == 0]


@pytest.mark.parametrize("cursor", ["7", "x", "-1", "0" * 17 + "²", " " * 18, "1" * 60])
def test_cursors_of_nobody_are_refused(store: OutcomeStore, cursor: str) -> None:
    with pytest.raises(DataError, match="is no cursor of this store"):
        store.events(cursor)


def test_pruning_removes_the_oldest_with_all_that_hangs_on_them(store: OutcomeStore) -> None:
    store.append([make_outcome(f"r{i}", time=float(i), quality=0.5) for i in range(10)])
    for i in range(10):
        store.feedback(Feedback(f"r{i}", 1.0))
    assert store.prune() == 0
    assert store.prune(before=3.0) == 3
    assert store.prune(before=3.0) == 0
    assert store.prune(keep=8) == 0
    assert store.prune(before=5.0, keep=6, limit=1) == 1
    assert store.prune(before=4.5, keep=3, limit=100) == 3
    left = ["r7", "r8", "r9"]
    assert [outcome.request_id for outcome in store.scan()] == left
    assert [name for name, _ in states(store)] == left * 2
    assert store.get("r0") is None
    assert store.feedback(Feedback("r0", 0.0)) is False, "its judgements are gone too"
    store.append([make_outcome("r0", time=20.0)])
    found = store.get("r0")
    assert found is not None
    assert found.quality == 0.0
    assert [name for name, _ in states(store)] == [*left * 2, "r0"]


def test_costs_can_be_replaced(store: OutcomeStore) -> None:
    store.append([make_outcome("a", cost_usd=1.0), make_outcome("b", cost_usd=2.0)])
    assert store.update_costs([]) == 0
    assert store.update_costs([("a", 0.5, "2026-11-01"), ("gone", 1.0, "x")]) == 1
    assert [(o.cost_usd, o.price_as_of) for o in store.scan()] == [(0.5, "2026-11-01"), (2.0, None)]


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda s: s.feedback(Feedback("a", 1.7)), r"feedback.quality 1.7 is outside \[0, 1\]"),
        (lambda s: s.feedback(Feedback("a", math.nan)), "feedback.quality nan is outside"),
        (lambda s: s.feedback(Feedback("", 1.0)), "feedback.request_id is empty"),
        (lambda s: s.feedback(Feedback("a", 1.0, "")), "feedback.source is empty"),
        (lambda s: s.feedback(Feedback("a", 1.0, weight=0.0)), "feedback.weight 0.0 must be"),
        (lambda s: s.feedback(Feedback("a", 1.0, weight=math.inf)), "feedback.weight inf must be"),
        (lambda s: s.append([make_outcome("z"), make_outcome("")]), "outcome.request_id is empty"),
        (lambda s: s.append([make_outcome("z"), make_outcome("y", model="")]), "outcome.model is empty"),
        (lambda s: s.append([make_outcome("z"), make_outcome("y", time=math.nan)]), "outcome.time nan"),
        (lambda s: s.append([make_outcome("z"), make_outcome("y", quality=2.0)]), "outcome.quality 2.0"),
    ],
)
def test_bad_records_are_refused_whole(store: OutcomeStore, act: Callable, message: str) -> None:
    with pytest.raises(DataError, match=message):
        act(store)
    assert list(store.scan()) == []


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("outcomes.db", r"is not a URL; write sqlite:///outcomes.db \(schemes: memory://, redis://"),
        ("postgres://host/db", "unknown store 'postgres'; one of memory, redis"),
        ("sqlite://", "names no file"),
        ("sqlite:///", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("memory://named", "a memory store has no name"),
        ("redis://", "names no server"),
        ("redis://host:port", "names no server"),
        ("redis://:secret@", r"'redis://\*\*\*@' names no server"),
        ("redis://host/0?prefix=", "the prefix of the keys is empty"),
        ("redis://host/0?socket_timeout=soon", "cannot be used"),
        ("unix://", "names no server"),
    ],
)
def test_bad_urls(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_store(url)


def test_what_judging_cost_is_kept(store: OutcomeStore) -> None:
    store.append([make_outcome("a", overhead_cost_usd=0.5)])
    store.feedback(Feedback("a", 1.0, "judge:m", cost_usd=0.25))
    found = store.get("a")
    assert found is not None
    assert found.overhead_cost_usd == 0.75
    assert [event.outcome.overhead_cost_usd for event in store.events()] == [0.75]


def test_many_judgements_at_once(store: OutcomeStore) -> None:
    store.append([make_outcome(f"r{i}") for i in range(300)])
    batch = [Feedback(f"r{i}", 0.5, time=5.0) for i in range(600)]
    assert store.feedback_many(batch) == [True] * 300 + [False] * 300
    assert store.feedback_many([Feedback("r0", 1.0, time=6.0), Feedback("r0", 0.25, time=7.0)]) == [True, True]
    assert store.feedback_many([]) == []
    assert states(store) == [*((f"r{i}", 0.5) for i in range(300)), ("r0", 1.0), ("r0", 0.25)]
    with pytest.raises(DataError):
        store.feedback_many([Feedback("r1", 1.0), Feedback("r2", 7.0)])
    assert len(store.events()) == 302, "all or nothing"
