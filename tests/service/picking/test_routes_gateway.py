"""A whole gateway with routes in words: who answers, what is told, counted and paid, and reloads."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from starlette.datastructures import Headers
from starlette.testclient import TestClient

from llmrouter.engine import RoutingEngine
from llmrouter.pool import ScriptedBackend
from service.app import create_app
from service.chat import parse_chat
from service.gateway import Gateway
from service.keys.principal import Principal
from service.picking.policy import with_routes
from service.reload import Reloader
from service.settings import Settings, build_engine, configured_policy, load_settings, parse_settings

PRICE = {"input": 1.0, "output": 2.0}
CODE = {"name": "code", "description": "Writing, fixing or explaining program code", "models": ["beta", "alpha"]}
POEMS = {"name": "poems", "description": "Poems, songs and verses", "models": ["alpha"], "only": True}
ASK = {"kind": "model", "model": "arch", "timeout_s": 0.5}


class Pool:
    """Backends that answer from a script, and a gateway in this process over them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reply: Any = '{"route": "code"}'
        self.arch = ScriptedBackend("arch", reply=lambda body: self.reply)
        self.backends = {"arch": self.arch, "alpha": ScriptedBackend("alpha"), "beta": ScriptedBackend("beta")}

    def tree(self, chooser: dict[str, Any] | None = None, **sections: Any) -> dict[str, Any]:
        pool = [{"name": name, "backend": "scripted", "price": PRICE} for name in self.backends]
        log = {"store": f"sqlite:///{self.folder}/outcomes.db", "flush_interval_s": 0.02}
        router: dict[str, Any] = {"routes": [CODE, POEMS]}
        if chooser is not None:
            router["chooser"] = chooser
        limits = {"state": "memory://", **sections.pop("limits", {})}
        return {"pool": pool, "router": router, "log": log, "limits": limits, **sections}

    @contextmanager
    def serving(self, chooser: dict[str, Any] | None = None, **sections: Any) -> Iterator[TestClient]:
        settings = parse_settings(yaml.safe_dump(self.tree(chooser, **sections)), source="it", environment={})
        policy = with_routes(configured_policy(settings), settings)
        engine = _engine(settings).with_policy(policy) if settings.router.picks_only is None else None
        with TestClient(create_app(settings, engine=engine, backends=self.backends)) as client:
            yield client


_engines: list[RoutingEngine] = []


def _engine(settings: Settings) -> RoutingEngine:
    """Return an engine over the whole pool; loading an artifact for every test would take most of their time."""
    if not _engines:
        _engines.append(build_engine(settings))
    return _engines[0]


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    return Pool(tmp_path)


def chat(client: TestClient, *texts: str, path: str = "/v1/chat/completions", **body: Any) -> Any:
    messages = [{"role": "user" if i % 2 == 0 else "assistant", "content": text} for i, text in enumerate(texts)]
    return client.post(path, json={"model": "auto", "messages": messages, **body})


def dry(client: TestClient, *texts: str, **body: Any) -> Any:
    return chat(client, *texts, path="/v1/route", **body).json()


def outcome(client: TestClient, answer: Any) -> Any:
    return client.get(f"/v1/outcomes/{answer.headers['x-request-id']}").json()


def picks(client: TestClient) -> set[str]:
    lines = client.get("/metrics").text.splitlines()
    return {line.removeprefix("llmrouter_") for line in lines if line.startswith("llmrouter_route_picks_total{")}


def test_similar_words_pick_and_the_rest_is_the_ordinary_policys(pool: Pool) -> None:
    with pool.serving() as client:
        told = dry(client, "Fix the bug in this Python function")
        assert (told["route"]["name"], told["route"]["chooser"], told["model"]) == ("code", "embedding", "beta")
        assert "the most similar of all routes" in told["route"]["reason"]
        assert told["policy"] == "route(code)"
        answer = chat(client, "Write a poem about the sea")
        assert answer.headers["x-llmrouter-route"] == "poems"
        assert answer.headers["x-llmrouter-model"] == "alpha"
        assert outcome(client, answer)["policy"] == "route(poems)"
        other = chat(client, "What is the capital of Peru?")
        assert other.headers["x-llmrouter-route"] == "other"
        assert other.headers["x-llmrouter-policy"] == "utility(0.3)"
        follow_up = dry(client, "Write a poem about the sea", "Here it is ...", "shorter, please")
        assert follow_up["route"]["name"] == "poems"
        pinned = chat(client, "Write a poem", model="beta")
        assert "x-llmrouter-route" not in pinned.headers
        assert picks(client) == {
            'route_picks_total{result="picked",route="code"} 1.0',
            'route_picks_total{result="picked",route="poems"} 2.0',
            'route_picks_total{result="other",route="other"} 1.0',
        }
        chosen = chat(client, "Write a poem", llmrouter={"models": ["beta"]})
        assert chosen.status_code == 400, "nobody but alpha may answer on that route"
        assert "not among the allowed models" in chosen.json()["error"]["message"]
        assert not any("route" in str(body.get("messages")) for body in pool.arch.bodies), "no model was asked to pick"


def test_a_classifier_learns_from_a_file(pool: Pool) -> None:
    labels = pool.folder / "labels.jsonl"
    rows = [("sort this list in python", "code"), ("a compiler error", "code"), ("a sonnet", "poems")]
    labels.write_text("".join(json.dumps({"text": text, "route": route}) + "\n" for text, route in rows))
    with pool.serving({"kind": "classifier", "examples_file": str(labels), "threshold": 0.3}) as client:
        told = dry(client, "python compiler")
        assert (told["route"]["name"], told["route"]["chooser"]) == ("code", "classifier")
        assert set(told["route"]["scores"]) == {"code", "poems"}


def test_a_model_picks_once_for_a_question_and_its_cost_is_the_routers(pool: Pool) -> None:
    with pool.serving(ASK) as client:
        answer = chat(client, "Sort this")
        assert answer.headers["x-llmrouter-route"] == "code"
        assert answer.headers["x-llmrouter-model"] == "beta"
        recorded = outcome(client, answer)
        asked = pool.arch.bodies[0]
        words = sum(len(message["content"].split()) for message in asked["messages"])
        assert recorded["overhead_cost_usd"] == pytest.approx((words + 2 * 2) / 1e6)
        total = recorded["cost_usd"] + recorded["overhead_cost_usd"]
        assert float(answer.headers["x-llmrouter-cost"]) == pytest.approx(total)
        again = dry(client, "Sort this")
        assert (again["route"]["name"], again["route"]["known"], again["route"]["cost_usd"]) == ("code", True, 0.0)
        step = client.post(
            "/v1/chat/completions",
            json={
                "model": "auto",
                "messages": [
                    {"role": "user", "content": "Sort this"},
                    {"role": "assistant", "content": "I call a tool"},
                    {"role": "tool", "content": "its output", "tool_call_id": "1"},
                ],
            },
        )
        assert step.headers["x-llmrouter-route"] == "code"
        assert len(pool.arch.bodies) == 1, "every step of an agent's loop is on the route of its question"
        chat(client, "Sort this", "Done", "Now backwards")
        assert "assistant: Done\n\nuser: Now backwards" in pool.arch.bodies[1]["messages"][1]["content"]
        assert 'cost_usd_total{kind="router"' in client.get("/metrics").text


@pytest.mark.parametrize(("reply", "failure"), [("code", "broken"), ('{"route": "x"}', "unknown_route")])
def test_a_broken_reply_falls_to_other_and_is_counted(pool: Pool, reply: str, failure: str) -> None:
    pool.reply = reply
    with pool.serving(ASK) as client:
        told = dry(client, "Sort this")
        assert (told["route"]["name"], told["route"]["failure"], told["policy"]) == ("other", failure, "utility(0.3)")
        assert told["route"]["cost_usd"] > 0
        assert picks(client) == {f'route_picks_total{{result="{failure}",route="other"}} 1.0'}


def test_a_model_that_never_picks_in_time_is_left_alone_for_a_while(pool: Pool) -> None:
    pool.arch.delay_s = 30
    with pool.serving({**ASK, "timeout_s": 0.02}) as client:
        for number in range(5):
            assert dry(client, f"Sort {number}")["route"]["name"] == "other"
        assert picks(client) == {
            'route_picks_total{result="timeout",route="other"} 3.0',
            'route_picks_total{result="cooling",route="other"} 2.0',
        }
        assert client.app.state.gateway.cooldowns.cooling("arch") is False, "it may still answer requests"  # type: ignore[attr-defined]


def test_a_model_that_only_picks_answers_nobody(pool: Pool) -> None:
    with pool.serving({**ASK, "answers": False}) as client:
        assert [entry["id"] for entry in client.get("/v1/models").json()["data"] if entry["id"] in pool.backends] == [
            "alpha",
            "beta",
        ]
        assert chat(client, "Hi", model="arch").status_code == 404
        assert {entry["model"] for entry in dry(client, "Hi")["ranking"]} == {"alpha", "beta"}


def test_a_request_over_its_limit_costs_no_pick_and_a_dry_run_is_charged(pool: Pool) -> None:
    with pool.serving(ASK, limits={"gateway": {"rpm": 1}}) as client:
        assert chat(client, "one").status_code == 200
        assert chat(client, "two").status_code == 429
        assert len(pool.arch.bodies) == 1
    with pool.serving(ASK, limits={"gateway": {"budget_usd": 5.0}}) as client:
        told = dry(client, "three")
        gateway: Gateway = client.app.state.gateway  # type: ignore[attr-defined]
        spent = gateway.limiter.ledger.accounts["gateway:gateway"].spent  # type: ignore[attr-defined]
        assert spent == pytest.approx(told["route"]["cost_usd"])
        answer = chat(client, "four")
        wanted = spent + float(answer.headers["x-llmrouter-cost"])
        client.portal.call(gateway.reservations.finished)  # type: ignore[union-attr]
        assert gateway.limiter.ledger.accounts["gateway:gateway"].spent == pytest.approx(wanted)  # type: ignore[attr-defined]


def test_a_key_without_the_picking_model_keeps_its_prompts_from_it(pool: Pool) -> None:
    with pool.serving(ASK) as client:
        gateway: Gateway = client.app.state.gateway  # type: ignore[attr-defined]
        key = Principal("k1", "mine", models=("alpha", "beta"))
        body = {"model": "auto", "messages": [{"role": "user", "content": "Sort this"}]}
        parsed = parse_chat(body, Headers({}), request_id="req_1", **gateway.parsing(key))

        async def decide() -> Any:
            return await gateway.decide(parsed, principal=key)

        decision = client.portal.call(decide)  # type: ignore[union-attr]
        assert decision.route.failure == "not_allowed"
        assert pool.arch.bodies == []


async def test_routes_reload_hot_and_what_they_do_not_change_goes_on(pool: Pool) -> None:
    tree = pool.tree()
    routes = pool.folder / "routes.yaml"
    tree["router"] = {"routes_file": str(routes), "chooser": ASK}
    routes.write_text(yaml.safe_dump([CODE]))
    config = pool.folder / "config.yaml"
    config.write_text(yaml.safe_dump(tree))
    app = create_app(load_settings(config), backends=pool.backends)
    first: Gateway = app.state.gateway
    reloader = Reloader(
        app,
        config,
        build=lambda settings, old: Gateway(settings, backends=pool.backends, reuse=old),
        interval_s=0,
        retire_s=0.01,
    )
    await first.start()
    assert not await reloader._changed()
    assert first.picker is not None
    routes.write_text(yaml.safe_dump([{**CODE, "models": ["alpha"]}, POEMS]))
    assert await reloader._changed()
    result = await reloader.reload()
    assert result.ok, result.error
    second: Gateway = app.state.gateway
    assert [route.name for route in second.settings.router.routes or ()] == ["code", "poems"]
    assert second.picker is not None
    assert second.picker.model is not first.picker.model
    routes.write_text(yaml.safe_dump([{**CODE, "description": ""}]))
    refused = await reloader.reload()
    assert "router.routes[0].description" in refused.error
    assert app.state.gateway is second
    config.write_text(yaml.safe_dump({**tree, "policy": {"kind": "utility", "cost_weight": 0.9}}))
    routes.write_text(yaml.safe_dump([{**CODE, "models": ["alpha"]}, POEMS]))
    assert (await reloader.reload()).ok
    third: Gateway = app.state.gateway
    assert third.picker is not None
    assert third.picker.model is second.picker.model, "it remembers its picks"
    assert third.deciding.name == "utility(0.9)"
    await third.aclose()
