"""Gateway, trainer, reader and Redis killed under load: no acknowledged judgement is lost or counted twice."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from contracts.misbehaving_upstream import MisbehavingUpstream
from contracts.redis_server import RedisServer
from crowd import Question, ask, echo, new_session
from fault_gateway import eventually, pool_of, write_config
from gateway_process import GatewayProcess
from log_follower import whole_lines
from soak_results import record
from trainer import MOMENTS, Trainer, first_artifact, problems_of, training

from llmrouter import artifact
from llmrouter.exceptions import StoreError
from llmrouter.learning import list_artifacts
from llmrouter.outcomes import OutcomeStore, open_store
from llmrouter.types import ModelCard, Outcome, Price

CLIENTS = 8
THINKS_S = 0.1
ENOUGH = 100
"""Judgements; a training needs half of them."""
MODELS = ("alpha", "beta")
FOLLOWER = Path(__file__).with_name("log_follower.py")
PATIENCE_S = 90.0


@dataclass
class Trial:
    """A gateway, a trainer on its log, a reader of it, and clients that judge every answer.

    Attributes
    ----------
    stack : ExitStack
        Ends the processes.
    folder : Path
        For their files.
    config : Path
        Of the gateway.
    url : str
        Of the log.
    redis : RedisServer or None
        Where the log is in one.
    trainer : Trainer
        Trains all the time; what it writes the gateway takes in.
    patient : bool
        Let a training come to its end before each kill of the reader.
    acknowledged : dict of str to float
        Request -> quality, of the judgements that were acknowledged.
    statuses : Counter of str
        Of them.
    kills : Counter of str
        What was killed how often.
    """

    stack: ExitStack
    folder: Path
    config: Path
    url: str
    redis: RedisServer | None
    trainer: Trainer
    patient: bool = False
    acknowledged: dict[str, float] = field(default_factory=dict)
    statuses: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    asked: int = 0

    def __post_init__(self) -> None:
        self.follower: subprocess.Popen[bytes] | None = None
        self.stop = asyncio.Event()
        self.start_gateway()
        self.start_follower()

    @property
    def seen(self) -> Path:
        """What the reader has written."""
        return self.folder / "seen.txt"

    def start_gateway(self) -> None:
        self.gateway = self.stack.enter_context(GatewayProcess(self.config))

    def start_follower(self) -> None:
        self.follower = subprocess.Popen([sys.executable, str(FOLLOWER), self.url, str(self.seen)])
        self.stack.callback(self.follower.kill)

    async def client(self, session: aiohttp.ClientSession, name: int) -> None:
        """Ask, and judge what was answered until the judgement is acknowledged."""
        while not self.stop.is_set():
            self.asked += 1
            number = self.asked
            answer = await ask(session, self.gateway.url, Question(f"question {number} of client {name}"))
            if answer.status != 200 or answer.trouble:
                await asyncio.sleep(0.05)
                continue
            body = {"request_id": answer.request_id, "quality": number % 11 / 10}
            while (status := await self.judge(session, body)) is None:  # noqa: ASYNC110 - nothing tells when
                await asyncio.sleep(0.05)
            self.acknowledged[answer.request_id] = body["quality"]
            self.statuses[status] += 1
            await asyncio.sleep(THINKS_S)

    async def judge(self, session: aiohttp.ClientSession, body: dict[str, Any]) -> str | None:
        """Send a judgement; return its status, None where it was not acknowledged."""
        try:
            async with session.post(f"{self.gateway.url}/v1/feedback", json=body) as response:
                return (await response.json())["status"] if response.status == 202 else None
        except (aiohttp.ClientError, OSError):
            return None

    async def kill(self, what: str, draw: random.Random) -> None:
        """Kill something, leave it so for a moment, and start it again."""
        self.kills[what] += 1
        if what == "gateway":
            self.gateway.process.kill()
            await asyncio.to_thread(self.gateway.wait)
            await asyncio.to_thread(self.start_gateway)
        elif what == "reader":
            assert self.follower is not None
            self.follower.kill()
            self.follower.wait()
            self.start_follower()
        elif what == "trainer":
            moment = MOMENTS[(self.kills[what] - 1) % len(MOMENTS)]
            await asyncio.to_thread(self.trainer.kill, moment, draw)
        else:
            assert self.redis is not None
            self.redis.kill()
            await asyncio.sleep(draw.uniform(0.0, 1.5))
            await asyncio.to_thread(self.redis.restart)
        store = open_store(self.url)  # it opens, whatever was killed
        store.last_event()
        store.close()

    async def run(self, kills: int, seed: int) -> None:
        """Kill at random under load, then let all come to rest."""
        draw = random.Random(seed)
        victims = ["gateway", "trainer", "reader", *([] if self.redis is None else ["redis"])]
        plan = [victims[i % len(victims)] for i in range(kills)]
        draw.shuffle(plan)
        async with new_session() as session:
            clients = [asyncio.create_task(self.client(session, i)) for i in range(CLIENTS)]
            for what in plan:
                if what == "reader" and self.patient:
                    await asyncio.to_thread(self.trainer.finish)
                await asyncio.sleep(draw.uniform(0.1, 1.0))
                await self.kill(what, draw)
            async with asyncio.timeout(PATIENCE_S):
                while len(self.acknowledged) < ENOUGH:  # noqa: ASYNC110 - nothing tells when
                    await asyncio.sleep(0.05)
            self.stop.set()
            await asyncio.wait_for(asyncio.gather(*clients), PATIENCE_S)
        await asyncio.to_thread(self.rest)

    def rest(self) -> None:
        """Wait until the log has all, and the reader too; and until the gateway has what the trainer wrote last."""
        self.trainer.stop()
        with self.gateway.client() as client:
            assert eventually(lambda: client.get("/readyz").json()["log"]["status"] == "ok", within_s=30)
            current = (self.trainer.out / "current").readlink().name
            assert eventually(lambda: client.get("/readyz").json()["artifact"] == current, within_s=30)
        assert self.gateway.stop() == 0, self.gateway.output
        store = open_store(self.url)
        last = store.last_event()
        store.close()
        assert eventually(lambda: [line.split()[0] for line in whole_lines(self.seen)][-1:] == [last], within_s=30)


def check(trial: Trial) -> dict[str, Any]:
    """Assert that the log holds every acknowledged judgement once, and return what was found."""
    assert not list(trial.folder.glob("*.spool.jsonl*")), "all was replayed"
    store = open_store(trial.url)
    events = []
    cursor = ""
    while page := store.events(cursor):
        events += page
        cursor = page[-1].cursor
    times = Counter(event.outcome.request_id for event in events)
    assert set(times.values()) == {1}, "no judgement is counted twice"
    seen = [tuple(line.split()) for line in whole_lines(trial.seen)]
    assert seen == [(e.cursor, e.outcome.request_id, str(e.outcome.quality)) for e in events], "nor by who reads on"
    logged = {outcome.request_id: outcome for outcome in store.scan()}
    trained = check_trainer(trial.trainer, list(logged.values()))
    orphans = judged_without_outcome(store, set(trial.acknowledged) - set(logged))
    lost = {
        name: quality
        for name, quality in trial.acknowledged.items()
        if (logged[name].quality if name in logged else orphans[name]) != quality
    }
    store.close()
    assert not lost, "no acknowledged judgement is lost"
    return {
        "kills": dict(trial.kills),
        "questions": trial.asked,
        "acknowledged": len(trial.acknowledged),
        "statuses": dict(trial.statuses),
        "events": len(events),
        "outcomes_of_killed_gateways_not_yet_written": len(orphans),
        "lost": len(lost),
        "counted_twice": 0,
        "trainings": trained,
    }


def check_trainer(trainer: Trainer, logged: list[Outcome]) -> dict[str, Any]:
    """Assert that every artifact is whole, and that a training on the whole log names all that was judged."""
    assert trainer.found.problems == []
    named = trainer.train()
    judged = [outcome for outcome in logged if outcome.quality is not None]
    assert named["judged"] == len(judged)
    assert named["models"] == dict(Counter(outcome.served_by for outcome in judged))
    assert (named["since"], named["evaluated_until"]) == (min(o.time for o in judged), max(o.time for o in judged))
    assert named["explored"] == sum(outcome.explored for outcome in judged)
    assert problems_of(trainer.out) == []
    listed = list_artifacts(trainer.out)
    cards = [ModelCard(name, Price(1.0, 2.0)) for name in MODELS]
    for one in listed:
        artifact.load(trainer.out / one.id, cards)
    return {**trainer.found.document(), "artifacts_loaded": len(listed), "last_names": named["judged"]}


def judged_without_outcome(store: OutcomeStore, names: set[str]) -> dict[str, float | None]:
    """Return the judgements that wait for outcomes that a killed gateway had not written: these come now."""
    store.append([Outcome(request_id=name, time=0.0, model="m") for name in sorted(names)])
    found = {name: store.get(name) for name in names}
    return {name: None if outcome is None else outcome.quality for name, outcome in found.items()}


def run_trial(
    folder: Path,
    upstream: MisbehavingUpstream,
    *,
    redis: RedisServer | None,
    kills: int,
    seed: int = 0,
    settle_s: float = 0.0,
) -> dict[str, Any]:
    """Run a trial and return what it found."""
    upstream.behaviours.update(dict.fromkeys(MODELS, echo))
    out = folder / "artifacts"
    router = {"artifact": str(first_artifact(out))}
    url = f"sqlite:///{folder}/outcomes.db" if redis is None else redis.url
    log = {"store": url, "flush_interval_s": 0.05, "spool": str(folder / "log.spool.jsonl")}
    learning = {"explore": {"share": 0.3}}
    pool = pool_of(upstream.base_url, *MODELS)
    config = write_config(folder, pool, log=log, router=router, learning=learning)
    with ExitStack() as stack:
        trainer = stack.enter_context(training(url, config, out, settle_s=settle_s))
        trial = Trial(stack, folder, config, url, redis, trainer, patient=settle_s > 0)
        began = time.monotonic()
        asyncio.run(trial.run(kills, seed=seed))
        found = check(trial)
    return {"log": "Redis, appendfsync always" if redis else "SQLite", **found, "seconds": time.monotonic() - began}


@pytest.fixture
def durable() -> Any:
    with RedisServer(durable=True) as server:
        yield server


def test_kills_with_the_log_in_redis(tmp_path: Path, upstream: MisbehavingUpstream, durable: RedisServer) -> None:
    found = run_trial(tmp_path, upstream, redis=durable, kills=4)
    assert found["kills"] == {"gateway": 1, "trainer": 1, "reader": 1, "redis": 1}
    assert found["acknowledged"] > 20


def test_kills_with_the_log_in_sqlite(tmp_path: Path, upstream: MisbehavingUpstream) -> None:
    found = run_trial(tmp_path, upstream, redis=None, kills=3)
    assert found["acknowledged"] > 20


def test_a_gateway_starts_and_acknowledges_while_redis_is_away(tmp_path: Path, upstream: MisbehavingUpstream) -> None:
    upstream.behaviours["alpha"] = echo
    with RedisServer(durable=True) as redis:
        redis.kill()
        log = {"store": "redis://", "flush_interval_s": 0.05, "spool": str(tmp_path / "log.spool.jsonl")}
        config = write_config(tmp_path, pool_of(upstream.base_url, "alpha"), log=log, redis={"url": redis.url})
        with GatewayProcess(config) as gateway, gateway.client() as client:
            answer = gateway.ask(client, "What is 1 + 1?")
            request_id = answer.headers["x-request-id"]
            judged = client.post("/v1/feedback", json={"request_id": request_id, "quality": 0.25})
            assert (judged.status_code, judged.json()["status"]) == (202, "spooled")
            assert client.get("/readyz").json()["log"]["status"] == "failing"
            gateway.process.kill()  # what it had in memory only is lost, what it acknowledged is not
        with GatewayProcess(config) as gateway, gateway.client() as client:
            assert client.get("/readyz").json()["log"]["trouble"]
            redis.restart()
            assert eventually(lambda: client.get("/readyz").json()["log"]["status"] == "ok", within_s=20)
            assert client.get("/readyz").json()["log"]["weakness"] == ""
            store = open_store(redis.url)
            assert judged_without_outcome(store, {request_id}) == {request_id: 0.25}
            store.close()
            assert gateway.stop() == 0
    assert not list(tmp_path.glob("*.spool.jsonl*"))


def test_a_log_that_redis_may_lose_is_said_aloud(tmp_path: Path, upstream: MisbehavingUpstream) -> None:
    upstream.behaviours["alpha"] = echo
    with RedisServer() as redis:
        config = write_config(tmp_path, pool_of(upstream.base_url, "alpha"), log={"store": redis.url})
        with GatewayProcess(config) as gateway, gateway.client() as client:
            gateway.ask(client, "What is 1 + 1?")
            assert eventually(lambda: client.get("/readyz").json()["log"]["weakness"])
            assert "appendonly is off" in client.get("/readyz").json()["log"]["weakness"]
            assert gateway.stop() == 0
            assert "can lose what it acknowledged" in gateway.output


@pytest.mark.soak
@pytest.mark.parametrize(
    ("where", "kills", "seed"), [*(("redis", 25, seed) for seed in range(1, 5)), ("sqlite", 24, 5)]
)
def test_many_kills(tmp_path: Path, upstream: MisbehavingUpstream, where: str, kills: int, seed: int) -> None:
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer(durable=True)) if where == "redis" else None
        found = run_trial(tmp_path, upstream, redis=redis, kills=kills, seed=seed, settle_s=10.0)
    record(f"learning log, {where}, trial {seed}", found)
    assert sum(found["kills"].values()) == kills


def test_the_follower_stops_at_a_broken_log(tmp_path: Path) -> None:
    """The trial would see it if the log did not open."""
    (tmp_path / "outcomes.db").write_bytes(b"no database" * 100)
    with pytest.raises(StoreError):
        open_store(f"sqlite:///{tmp_path}/outcomes.db")
