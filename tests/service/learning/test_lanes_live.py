"""A gateway process with exploration, a shadow and a canary, over two routers of which one has it all backwards."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from contracts.misbehaving_upstream import Exchange, MisbehavingUpstream, completion
from contracts.redis_server import RedisServer
from gateway_process import MODELS, SUMS, GatewayProcess, make_artifact, write_config

from llmrouter import artifact
from llmrouter.encoders import load_encoder
from llmrouter.learning import read_history, rollback_artifact
from llmrouter.outcomes import OutcomeTable
from llmrouter.types import Price
from service.keys.manager import KeyManager
from service.keys.sqlite_store import SQLiteKeyStore
from training.train import fit

WAIT_S = 30.0


def backwards(parent: Path) -> Path:
    """Train a router for which sums are beta's and everything else is alpha's, and return its folder."""
    words = tuple(f"Write the word {word} backwards" for word in ("cat", "dog", "sun", "tree", "river"))
    texts = (*SUMS, *words * 4)
    n = len(texts)
    is_sum = np.array([text in SUMS for text in texts], dtype=float)
    table = OutcomeTable(
        prompt_ids=tuple(f"p{i}" for i in range(n)),
        models=MODELS,
        texts=texts,
        tasks=(None,) * n,
        splits=("train",) * n,
        quality=np.stack([1 - is_sum, is_sum], axis=1),
        cost_usd=np.full((n, 2), 2e-5),
        input_tokens=np.full((n, 2), 8.0),
        output_tokens=np.full((n, 2), 4.0),
        propensity=np.ones((n, 2)),
        prices=(Price(1.0, 2.0), Price(1.0, 2.0)),
        name="backwards",
    )
    encoder = load_encoder("static")
    trained = fit(table, encoder.encode(texts), name="knn", parameters={"k": 5, "shrinkage": 1.0})
    return artifact.save(trained, parent, encoder=artifact.EncoderSpec("static", {}, encoder.fingerprint), training={})


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    parent = tmp_path_factory.mktemp("artifacts")
    return make_artifact(parent), backwards(parent)


@pytest.fixture
def pair(tmp_path: Path, artifacts: tuple[Path, Path]) -> tuple[Path, Path]:
    """Return copies of the live and of the other artifact, side by side, with a link to the live one."""
    folder = tmp_path / "artifacts"
    folder.mkdir()
    live, other = (Path(shutil.copytree(one, folder / one.name)) for one in artifacts)
    artifact.promote(live)
    return live, other


class Gateway:
    """A running process and a client with an administrator's key."""

    def __init__(self, process: GatewayProcess, client: httpx.Client) -> None:
        self.process = process
        self.client = client

    def ask(self, text: str = SUMS[0], **headers: str) -> httpx.Response:
        body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
        answer = self.client.post("/v1/chat/completions", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer

    def learning(self) -> Any:
        answer = self.client.get("/admin/learning")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def outcome(self, answer: httpx.Response) -> Any:
        found = self.client.get(f"/v1/outcomes/{answer.headers['x-request-id']}")
        assert found.status_code == 200, found.text
        return found.json()

    def judge(self, answer: httpx.Response, quality: float) -> None:
        body = {"request_id": answer.headers["x-request-id"], "quality": quality}
        assert self.client.post("/v1/feedback", json=body).status_code == 202

    def metric(self, name: str) -> float:
        text = self.client.get("/metrics").text
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"llmrouter_{name}"))


def eventually(condition: Callable[[], Any], wait_s: float = WAIT_S) -> None:
    deadline = time.monotonic() + wait_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)


def admin_key(store: Path) -> str:
    async def make() -> str:
        keys = KeyManager(SQLiteKeyStore(store))
        _, token = await keys.create({"name": "boss", "scopes": ["admin"]})
        await keys.aclose()
        return token

    return asyncio.run(make())


@pytest.fixture
def serve(tmp_path: Path, pair: tuple[Path, Path], upstream: MisbehavingUpstream) -> Iterator[Callable[..., Gateway]]:
    async def answer(exchange: Exchange) -> None:
        await exchange.answer(completion())

    upstream.behaviours.update(dict.fromkeys(MODELS, answer))
    with ExitStack() as stack:

        def start(*, workers: int = 1, redis: RedisServer | None = None, **learning: Any) -> Gateway:
            token = admin_key(tmp_path / "keys.db")
            config = write_config(
                tmp_path,
                upstream.base_url,
                pair[0].parent / "current",
                server={"port": 0, "watch_s": 0.1, "workers": workers},
                auth={"store": f"sqlite:///{tmp_path}/keys.db"},
                log={"store": f"sqlite:///{tmp_path}/outcomes.db", "flush_interval_s": 0.05},
                learning=learning,
                redis=None if redis is None else {"url": redis.url, "timeout_s": 1.0},
            )
            process = stack.enter_context(GatewayProcess(config))
            headers = {"authorization": f"Bearer {token}"}
            client = httpx.Client(base_url=process.url, headers=headers, trust_env=False, timeout=WAIT_S)
            return Gateway(process, stack.enter_context(client))

        yield start


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def canary_of(folder: Path, **settings: Any) -> dict[str, Any]:
    return {"artifact": str(folder), "share": 0.5, "by": "request", "interval_s": 0.1, **settings}


def test_exploration_is_logged_can_be_refused_and_is_told(serve: Callable[..., Gateway]) -> None:
    gateway = serve(explore={"share": 0.4})
    answers = [gateway.ask() for _ in range(80)]
    explored = [answer for answer in answers if answer.headers.get("x-llmrouter-explored") == "true"]
    assert 10 < len(explored) < 60
    outcome = gateway.outcome(explored[0])
    assert outcome["explored"] is True
    assert outcome["model"] == "beta"
    assert outcome["propensity"] == pytest.approx(0.4)
    chances = {model: values["propensity"] for model, values in outcome["candidates"].items()}
    assert chances == pytest.approx({"alpha": 0.6, "beta": 0.4})
    for _ in range(30):
        plain = gateway.ask(**{"x-llmrouter-explore": "off"})
        assert "x-llmrouter-explored" not in plain.headers
        assert plain.headers["x-llmrouter-model"] == "alpha"
    assert gateway.outcome(plain)["propensity"] == 1.0
    state = gateway.learning()["explore"]
    assert (state["seen"], state["explored"]) == (80, len(explored))
    assert gateway.metric("explored_total") == len(explored)
    wrong = gateway.client.post(
        "/v1/chat/completions", json={"model": "auto", "messages": []}, headers={"x-llmrouter-explore": "maybe"}
    )
    assert wrong.status_code == 400


def test_a_key_that_is_not_to_be_explored_is_not(serve: Callable[..., Gateway]) -> None:
    gateway = serve(explore={"share": 0.5})
    made = gateway.client.post("/admin/keys", json={"name": "careful", "explore": False}).json()
    assert made["explore"] is False
    headers = {"authorization": f"Bearer {made['token']}"}
    assert all("x-llmrouter-explored" not in gateway.ask(**headers).headers for _ in range(25))
    changed = gateway.client.patch(f"/admin/keys/{made['id']}", json={"explore": True})
    assert changed.json()["explore"] is True
    eventually(lambda: "x-llmrouter-explored" in gateway.ask(**headers).headers)


def test_the_shadow_is_logged_and_nobody_is_served_by_it(
    serve: Callable[..., Gateway], pair: tuple[Path, Path], upstream: MisbehavingUpstream
) -> None:
    async def as_slow_as_a_model(exchange: Exchange) -> None:
        await exchange.pause(0.05)
        await exchange.answer(completion())

    gateway = serve(shadow={"artifact": str(pair[1])})
    upstream.behaviours.update(dict.fromkeys(MODELS, as_slow_as_a_model))
    answers = [gateway.ask() for _ in range(20)] + [gateway.ask("Write the word cat backwards") for _ in range(5)]
    assert Counter(answer.headers["x-llmrouter-model"] for answer in answers) == {"alpha": 20, "beta": 5}
    eventually(lambda: gateway.learning()["shadow"]["decisions"] == 25)
    state = gateway.learning()["shadow"]
    assert (state["artifact"], state["disagreements"], state["failures"]) == (pair[1].name, 25, 0)
    assert state["quality_difference"] > 0.1, "the shadow takes itself to be right"
    shadows = [gateway.outcome(answer)["shadow"] for answer in answers[:20]]
    known = [shadow for shadow in shadows if shadow]
    assert len(known) >= 15, "few answers are faster than the shadow"
    assert {shadow["model"] for shadow in known} == {"beta"}
    assert {shadow["artifact_id"] for shadow in known} == {pair[1].name}
    assert gateway.metric("shadow_disagreements_total") == 25


def test_a_worse_canary_is_taken_back_by_itself_and_stays_so(
    serve: Callable[..., Gateway], pair: tuple[Path, Path]
) -> None:
    guards = [{"metric": "quality", "min_outcomes": 20}]
    gateway = serve(canary=canary_of(pair[1], guards=guards))
    eventually(lambda: gateway.learning()["canary"]["status"] == "running")
    lanes: Counter[str] = Counter()
    for _ in range(1000):
        answer = gateway.ask()
        lane = answer.headers.get("x-llmrouter-lane", "")
        lanes[lane] += 1
        assert answer.headers["x-llmrouter-model"] == ("beta" if lane else "alpha")
        assert answer.headers["x-llmrouter-artifact"] == (pair[1] if lane else pair[0]).name
        gateway.judge(answer, 0.0 if lane else 1.0)
        if gateway.learning()["canary"]["status"] == "rolled_back":
            break
    assert lanes["canary"] >= 20
    state = gateway.learning()["canary"]
    assert state["status"] == "rolled_back", state
    assert state["changed_by"] == "guard"
    assert all("x-llmrouter-lane" not in gateway.ask().headers for _ in range(20))
    ready = gateway.client.get("/readyz").json()
    assert ready["artifact"] == pair[0].name
    assert ready["learning"]["canary"]["status"] == "rolled_back"
    assert "reason" not in ready["learning"]["canary"]
    assert gateway.metric("canary_rolled_back") == 1
    assert gateway.metric("canary_running") == 0
    assert "rolled back" in gateway.process.output
    stored = json.loads((pair[0].parent / ".canary.json").read_text())
    assert stored[pair[1].name]["status"] == "rolled_back"
    refused = gateway.client.post("/admin/learning/canary/promote")
    assert refused.status_code == 409
    assert refused.json()["error"]["code"] == "canary_rolled_back"
    again = gateway.client.post("/admin/learning/canary/restart")
    assert again.json()["canary"]["status"] == "running"
    eventually(lambda: "x-llmrouter-lane" in gateway.ask().headers)


def test_a_promoted_canary_decides_for_all_and_a_rollback_is_heard_by_every_worker(
    serve: Callable[..., Gateway], pair: tuple[Path, Path], redis: RedisServer
) -> None:
    gateway = serve(workers=2, redis=redis, canary=canary_of(pair[1], share=0.9))
    eventually(lambda: "x-llmrouter-lane" in gateway.ask().headers)
    assert gateway.client.post("/admin/learning/canary/rollback").json()["canary"]["status"] == "rolled_back"

    def nobody() -> bool:
        """Ask anew each time, so that both workers are met."""
        gateway.client.headers["connection"] = "close"
        return all("x-llmrouter-lane" not in gateway.ask().headers for _ in range(20))

    eventually(nobody)
    assert gateway.client.post("/admin/learning/canary/restart").status_code == 200
    promoted = gateway.client.post("/admin/learning/canary/promote")
    assert promoted.status_code == 200, promoted.text
    assert (pair[0].parent / "current").resolve() == pair[1]

    def everybody() -> bool:
        answers = [gateway.ask() for _ in range(20)]
        return {answer.headers["x-llmrouter-artifact"] for answer in answers} == {pair[1].name}

    eventually(everybody)
    assert all("x-llmrouter-lane" not in gateway.ask().headers for _ in range(20))
    (move,) = read_history(pair[0].parent)
    assert (move.action, move.artifact, move.previous) == ("promote", pair[1].name, pair[0].name)
    assert move.reason.startswith("canary promoted by key ")
    assert gateway.client.post("/admin/learning/canary/promote").status_code == 200
    assert len(read_history(pair[0].parent)) == 1, "the second time changes nothing"
    assert rollback_artifact(pair[0].parent).artifact == pair[0].name, "the way back is known"


def test_a_canary_damaged_since_it_was_loaded_is_not_promoted(
    serve: Callable[..., Gateway], pair: tuple[Path, Path]
) -> None:
    gateway = serve(canary=canary_of(pair[1]))
    eventually(lambda: gateway.learning()["canary"]["status"] == "running")
    (pair[1] / "cost.safetensors").write_bytes(b"damaged")
    refused = gateway.client.post("/admin/learning/canary/promote")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "artifact_unusable")
    assert (pair[0].parent / "current").resolve() == pair[0]
    assert read_history(pair[0].parent) == ()
    assert gateway.learning()["canary"]["status"] == "running"


def test_only_administrators_see_and_change_it(serve: Callable[..., Gateway], pair: tuple[Path, Path]) -> None:
    gateway = serve(canary=canary_of(pair[1]))
    plain = gateway.client.post("/admin/keys", json={"name": "plain"}).json()["token"]
    for method, path in (("GET", ""), ("POST", "/canary/rollback"), ("POST", "/canary/promote")):
        url = f"/admin/learning{path}"
        assert gateway.client.request(method, url, headers={"authorization": f"Bearer {plain}"}).status_code == 403
        with httpx.Client(base_url=gateway.process.url, trust_env=False) as nobody:
            assert nobody.request(method, url).status_code == 401


def test_artifacts_that_cannot_be_loaded_leave_the_gateway_as_it_is(
    serve: Callable[..., Gateway], pair: tuple[Path, Path]
) -> None:
    (pair[1] / "quality.safetensors").write_bytes(b"not an artifact")
    gateway = serve(canary=canary_of(pair[1], share=1.0), shadow={"artifact": "/nowhere"})
    assert gateway.ask().headers["x-llmrouter-model"] == "alpha"
    learning = gateway.learning()
    assert learning["canary"]["status"] == learning["shadow"]["status"] == "failing"
    assert "quality.safetensors" in learning["canary"]["trouble"]
    ready = gateway.client.get("/readyz").json()["learning"]
    assert ready["canary"]["trouble"] == "see the gateway's own log"
    for step in ("rollback", "promote", "restart"):
        answer = gateway.client.post(f"/admin/learning/canary/{step}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "no_canary")


def test_a_corrupt_new_artifact_leaves_the_last_good_one(
    serve: Callable[..., Gateway], pair: tuple[Path, Path]
) -> None:
    gateway = serve()
    live, other = pair
    checked = json.loads((other / "selfcheck.json").read_text()) if (other / "selfcheck.json").exists() else None
    (other / "cost.safetensors").write_bytes(b"damaged")
    artifact.promote(other)
    eventually(lambda: gateway.client.get("/readyz").json()["config"]["status"] == "failing")
    ready = gateway.client.get("/readyz").json()
    assert ready["artifact"] == live.name
    assert gateway.ask().headers["x-llmrouter-artifact"] == live.name
    assert f'artifact="{live.name}"' in gateway.client.get("/metrics").text
    artifact.promote(live)
    eventually(lambda: gateway.client.get("/readyz").json()["config"]["status"] == "ok")
    assert checked is None or checked["embeddings"]


def test_the_canary_named_by_a_link_changes_with_it(serve: Callable[..., Gateway], pair: tuple[Path, Path]) -> None:
    link = pair[0].parent / "candidate"
    link.symlink_to(pair[0].name)
    gateway = serve(canary=canary_of(link, share=1.0))
    eventually(lambda: gateway.learning()["canary"]["artifact"] == pair[0].name)
    assert "x-llmrouter-lane" not in gateway.ask().headers, "it is the live one"
    new = link.with_name("new")
    new.symlink_to(pair[1].name)
    new.rename(link)
    eventually(lambda: gateway.ask().headers.get("x-llmrouter-artifact") == pair[1].name)
    assert yaml.safe_load((pair[0].parent / ".canary.json").read_text())[pair[1].name]["status"] == "running"
