"""A trial: who takes part, that its end reaches every replica, and what happens when that cannot be told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from contracts.redis_server import RedisServer

from llmrouter.outcomes import Feedback, MemoryOutcomeStore
from llmrouter.types import Outcome, RoutingRequest
from service.learning.canary_settings import CanarySettings, GuardSettings
from service.learning.canary_state import (
    FileTrialStore,
    RedisTrialStore,
    TrialState,
    TrialStateError,
    TrialStore,
)
from service.learning.canary_trial import CanaryTrial
from service.limits.settings import RedisSettings
from service.redis_link import RedisLink

NEW, OLD = "knn-new", "knn-old"
FAST = {"artifact": Path("artifacts/new"), "share": 0.5, "interval_s": 0.02}


class Log:
    """An outcome store, as the gateway gives it to jobs."""

    def __init__(self) -> None:
        self.store = MemoryOutcomeStore()

    async def __call__(self, job: Callable[[Any], Any]) -> Any:
        return job(self.store)


def outcome(i: int, lane: str = "", *, time: float = 10.0, artifact: str | None = None, **fields: Any) -> Outcome:
    made_by = artifact or (NEW if lane else OLD)
    return Outcome(
        f"{lane}{i}", time, "m", artifact_id=made_by, lane=lane, candidates={"m": {"quality": 0.5}}, **fields
    )


def trial(store: TrialStore, log: Log | None = None, *, live: str = OLD, **settings: Any) -> CanaryTrial:
    return CanaryTrial(
        CanarySettings.model_validate({**FAST, **settings}),
        artifact_id=NEW,
        live_id=lambda: live,
        store=store,
        with_log=log or Log(),
        clock=lambda: 5.0,
    )


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


async def test_only_a_running_trial_takes_requests(tmp_path: Path) -> None:
    one = trial(FileTrialStore(tmp_path / "state.json"), share=1.0)
    request = RoutingRequest("x", request_id="r")
    assert not one.takes(request), "nothing is known yet"
    await one.step()
    assert one.takes(request)
    await one.end("rolled_back", reason="asked for", by="key k")
    assert not one.takes(request)
    assert one.state()["status"] == "rolled_back"


async def test_a_canary_that_is_the_live_artifact_has_no_lane(tmp_path: Path) -> None:
    one = trial(FileTrialStore(tmp_path / "state.json"), share=1.0, live=NEW)
    await one.step()
    assert one.status == "running"
    assert not one.takes(RoutingRequest("x", request_id="r"))


@pytest.mark.parametrize(
    ("by", "same", "other"),
    [
        ("key", {"key_id": "k"}, {"conversation_id": "c"}),
        ("session", {"key_id": "k", "conversation_id": "c"}, {}),
        ("session", {"key_id": "k"}, {}),
        ("session", {"conversation_id": "c"}, {}),
    ],
)
async def test_a_key_or_session_stays_in_its_lane(
    tmp_path: Path, by: str, same: dict[str, str], other: dict[str, str]
) -> None:
    one = trial(FileTrialStore(tmp_path / "state.json"), by=by)
    await one.step()

    def takes(i: int, **fields: str) -> bool:
        return one.takes(RoutingRequest("x", request_id=f"r{i}", **{**other, **fields}))

    for unit in range(20):
        ids = {name: f"{value}{unit}" for name, value in same.items()}
        assert len({takes(i, **ids) for i in range(30)}) == 1
    shares = [takes(0, **{name: f"{value}{unit}" for name, value in same.items()}) for unit in range(400)]
    assert 150 < sum(shares) < 250


async def test_by_request_the_share_is_of_requests_and_replicas_agree(tmp_path: Path) -> None:
    first, second = (trial(FileTrialStore(tmp_path / f"{i}.json"), by="request", share=0.1) for i in range(2))
    await first.step()
    await second.step()
    requests = [RoutingRequest("x", request_id=f"r{i}", key_id="k", conversation_id="c") for i in range(3000)]
    taken = [first.takes(request) for request in requests]
    assert 220 < sum(taken) < 380
    assert taken == [second.takes(request) for request in requests]


async def test_bad_judgements_take_it_back_and_another_replica_hears_of_it(tmp_path: Path) -> None:
    log = Log()
    first, second = (trial(FileTrialStore(tmp_path / "state.json"), log) for _ in range(2))
    await first.step()
    await second.step()
    for i in range(200):
        log.store.append([outcome(i), outcome(i, "canary")])
        log.store.feedback(Feedback(str(i), 1.0))
        log.store.feedback(Feedback(f"canary{i}", 0.2))
    await first.step()
    assert first.status == "rolled_back"
    state = first.state()
    assert state["changed_by"] == "guard"
    assert "quality: 0.2 of 200 outcomes against 1 of 200" in state["reason"]
    await second.step()
    assert second.status == "rolled_back"
    assert second.state()["reason"] == state["reason"]
    third = trial(FileTrialStore(tmp_path / "state.json"), log)
    await third.step()
    assert third.status == "rolled_back", "a restart does not begin it anew"


async def test_what_came_before_or_from_elsewhere_does_not_count(tmp_path: Path) -> None:
    log = Log()
    for i in range(200):
        log.store.append([outcome(i, "canary", time=1.0, quality=0.0), outcome(i, time=1.0, quality=1.0)])
    one = trial(FileTrialStore(tmp_path / "state.json"), log)
    await one.step()
    for i in range(200, 400):
        log.store.append([outcome(i, "canary", artifact="another", quality=0.0), outcome(i, quality=1.0)])
    await one.step()
    assert one.status == "running"
    quality = one.state()["guards"][0]
    assert quality["canary"]["outcomes"] == 0
    assert quality["live"]["outcomes"] == 200


async def test_failures_are_counted_as_they_happen(tmp_path: Path) -> None:
    one = trial(FileTrialStore(tmp_path / "state.json"))
    await one.step()
    for i in range(150):
        one.observe(outcome(i))
        one.observe(outcome(i, "canary", status="error"))
    await one.step()
    assert one.status == "rolled_back"
    assert "error_rate" in one.state()["reason"]


async def test_several_guards_and_workers_share_the_doubt(tmp_path: Path) -> None:
    guards = (GuardSettings(), GuardSettings(metric="cost"))
    settings = CanarySettings(artifact=Path("a"), guards=guards)
    one = CanaryTrial(
        settings,
        artifact_id=NEW,
        live_id=lambda: OLD,
        store=FileTrialStore(tmp_path / "s"),
        with_log=Log(),
        workers=4,
    )
    assert [guard.alpha for guard in one._guards] == pytest.approx([0.025, 0.025 / 4])


async def test_beginning_anew_forgets_what_was_counted(tmp_path: Path) -> None:
    log = Log()
    one = trial(FileTrialStore(tmp_path / "state.json"), log)
    await one.step()
    for i in range(200):
        log.store.append([outcome(i, quality=1.0), outcome(i, "canary", quality=0.0)])
    await one.step()
    assert one.status == "rolled_back"
    await one.end("running", reason="asked for", by="key k")
    await one.step()
    assert one.status == "running"
    assert one.state()["guards"][0]["canary"]["outcomes"] == 0


async def test_an_end_that_cannot_be_told_holds_here_and_is_told_later(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    one = trial(FileTrialStore(folder / "state.json"))
    await one.step()
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    await one.end("rolled_back", reason="asked for", by="key k")
    assert one.status == "rolled_back"
    assert "learning.canary.state" in one.state()["trouble"]
    await one.step()
    assert one.status == "rolled_back"
    assert one.state()["trouble"]
    folder.mkdir()
    await one.step()
    assert one.state()["trouble"] == ""
    assert json.loads((folder / "state.json").read_text())[NEW]["status"] == "rolled_back"


async def test_an_answer_older_than_the_end_does_not_undo_it(tmp_path: Path) -> None:
    """The watch asks how the trial stands, somebody ends it, and only then comes the answer."""

    class SlowStore(FileTrialStore):
        asked, go_on = asyncio.Event(), asyncio.Event()

        async def read(self, artifact_id: str, /) -> TrialState | None:
            found = await super().read(artifact_id)
            self.asked.set()
            await self.go_on.wait()
            return found

    store = SlowStore(tmp_path / "state.json")
    store.go_on.set()
    one = trial(store, share=1.0)
    await one.step()
    store.asked.clear()
    store.go_on.clear()
    looking = asyncio.create_task(one.refresh())
    await store.asked.wait()
    await one.end("rolled_back", reason="asked for", by="key k")
    store.go_on.set()
    await looking
    assert one.status == "rolled_back"


async def test_telling_an_older_state_does_not_count_as_telling_the_newer_one(tmp_path: Path) -> None:
    class FailingStore(FileTrialStore):
        fails, asked, go_on = False, asyncio.Event(), asyncio.Event()

        async def write(self, state: TrialState, /, *, first: bool = False) -> TrialState:
            if self.fails:
                raise TrialStateError("full")
            self.asked.set()
            await self.go_on.wait()
            return await super().write(state, first=first)

    store = FailingStore(tmp_path / "state.json")
    store.go_on.set()
    one = trial(store, share=1.0)
    await one.step()
    store.asked.clear()
    store.go_on.clear()
    telling = asyncio.create_task(one.end("running", reason="again", by="key k"))
    await store.asked.wait()
    store.fails = True
    await one.end("rolled_back", reason="asked for", by="key k")
    store.go_on.set()
    await telling
    assert one.trouble == "full"
    store.fails = False
    await one.refresh()
    found = await store.read(NEW)
    assert found is not None
    assert (found.status, one.trouble) == ("rolled_back", "")


async def test_a_damaged_file_is_named_and_the_trial_does_not_begin(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    for text in (
        "{",
        '{"knn-new": {"status": "running"}}',
        '{"knn-new": {"artifact_id": "a", "status": "odd", "since": 1}}',
    ):
        path.write_text(text)
        one = trial(FileTrialStore(path), share=1.0)
        await one.step()
        assert str(path) in one.state()["trouble"]
        assert not one.takes(RoutingRequest("x", request_id="r"))


async def test_the_watch_runs_until_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    one = trial(FileTrialStore(path))
    one.start()
    one.start()
    async with asyncio.timeout(10):
        while one.status != "running":  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await trial(FileTrialStore(path)).end("rolled_back", reason="by hand", by="key k")
        while one.status != "rolled_back":  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await one.aclose()
    await one.aclose()


async def test_files_hold_the_last_few_trials_and_the_first_to_begin_one_wins(tmp_path: Path) -> None:
    store = FileTrialStore(tmp_path / "state.json")
    first = TrialState(NEW, "running", since=1.0, cursor="7")
    assert await store.write(first, first=True) == first
    assert await store.write(TrialState(NEW, "running", since=2.0), first=True) == first
    for i in range(30):
        await store.write(TrialState(f"a{i}", "running", since=1.0))
    assert await store.read("a29") is not None
    assert await store.read(NEW) is None
    assert len(json.loads((tmp_path / "state.json").read_text())) == 20


async def test_replicas_with_a_redis_agree(redis: RedisServer) -> None:
    redis.flush()
    settings = RedisSettings.model_validate({"url": redis.url, "timeout_s": 1.0})
    links = [RedisLink(settings) for _ in range(2)]
    try:
        first, second = (trial(RedisTrialStore(link), share=1.0) for link in links)
        await first.step()
        await second.step()
        assert first.status == second.status == "running"
        await second.end("rolled_back", reason="asked for", by="key k")
        await first.step()
        assert first.state()["reason"] == "asked for"
        assert first.status == "rolled_back"
    finally:
        for link in links:
            await link.aclose()


async def test_a_redis_that_is_away_leaves_the_trial_as_it_was(redis: RedisServer) -> None:
    redis.flush()
    link = RedisLink(RedisSettings.model_validate({"url": redis.url, "timeout_s": 0.5}))
    try:
        one = trial(RedisTrialStore(link), share=1.0)
        await one.step()
        redis.kill()
        await one.step()
        assert one.state()["trouble"]
        assert one.status == "running"
        with pytest.raises(TrialStateError):
            await RedisTrialStore(link).read(NEW)
        await one.end("rolled_back", reason="asked for", by="key k")
        assert one.status == "rolled_back"
        redis.restart()
        async with asyncio.timeout(20):
            while one.state()["trouble"]:
                await asyncio.sleep(0.1)
                await one.step()
        found = await RedisTrialStore(link).read(NEW)
        assert found is not None
        assert found.status == "rolled_back"
    finally:
        await link.aclose()
