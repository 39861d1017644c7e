"""A gateway over engines that report their load: what is decided follows the report, what is charged does not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from contracts.misbehaving_upstream import MisbehavingUpstream
from gateway_process import MODELS, make_artifact
from live_gateway import well_behaved
from loads.load_server import LoadServer, entry, load_server

from llmrouter.types import Decision, RoutingRequest
from service.app import create_app
from service.gateway import Gateway
from service.server import GatewayThread
from service.settings import Settings

PRICE = {"input": 1.0, "output": 2.0}
SUM = "What is 3 plus 6?"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_artifact(tmp_path_factory.mktemp("artifacts"))


@pytest.fixture
def engine() -> Iterator[LoadServer]:
    with load_server() as server:
        yield server


@pytest.fixture
def start(
    trained: Path, upstream: MisbehavingUpstream, engine: LoadServer, tmp_path: Path
) -> Iterator[Callable[..., tuple[httpx.Client, Gateway]]]:
    upstream.behaviours.update(dict.fromkeys(MODELS, well_behaved))
    with ExitStack() as stack:

        def started(**sections: Any) -> tuple[httpx.Client, Gateway]:
            pool = [{"name": name, "base_url": upstream.base_url, "price": PRICE} for name in MODELS]
            pool[0]["load"] = {"url": f"{engine.url}/load", "every_s": 0.1, "stale_s": 0.5, "timeout_s": 0.3}
            tree = {"pool": pool, "router": {"artifact": trained}, "log": {"store": f"sqlite:///{tmp_path}/o.db"}}
            app = create_app(Settings.model_validate({**tree, **sections}))
            running = stack.enter_context(GatewayThread(app))
            client = stack.enter_context(httpx.Client(base_url=running.url, timeout=30, trust_env=False))
            return client, app.state.gateway

        yield started


def decided(client: httpx.Client) -> dict[str, Any]:
    found = client.post("/v1/route", json={"model": "auto", "messages": [{"role": "user", "content": SUM}]})
    assert found.status_code == 200, found.text
    document: dict[str, Any] = found.json()
    return document


def until(look: Callable[[], Any], condition: Callable[[Any], bool]) -> Any:
    deadline = time.monotonic() + 10
    while not condition(found := look()):
        assert time.monotonic() < deadline, found
        time.sleep(0.01)
    return found


def cost_of(decision: dict[str, Any], name: str) -> float:
    return next(ranked["expected_cost_usd"] for ranked in decision["ranking"] if ranked["model"] == name)


def test_decisions_follow_the_report_and_fall_back_to_the_configured_price(
    start: Callable[..., tuple[httpx.Client, Gateway]], engine: LoadServer
) -> None:
    engine.status = 500
    client, _ = start()
    first = decided(client)
    assert first["model"] == "alpha"  # the better one for sums
    assert first["prices"]["alpha"]["from"] == "configuration"
    assert first["prices"]["beta"] == {"input": 1.0, "output": 2.0, "from": "configuration"}

    engine.says(entry("alpha", 2e3, 4e3))  # crowded: two thousand times as dear
    crowded = until(lambda: decided(client), lambda found: found["prices"]["alpha"]["from"] == "load")
    assert crowded["model"] == "beta"
    assert crowded["prices"]["alpha"]["output"] == 4e3
    assert crowded["prices"]["alpha"]["age_s"] < 5
    assert cost_of(crowded, "alpha") == pytest.approx(2e3 * cost_of(first, "alpha"))
    assert cost_of(crowded, "beta") == cost_of(first, "beta")

    engine.says(entry("alpha", None, None))  # started again, and has measured nothing yet
    assert until(lambda: decided(client), lambda found: found["model"] == "alpha")["prices"]["alpha"]["reason"]

    engine.says(entry("alpha", 2e3, 4e3))
    until(lambda: decided(client), lambda found: found["model"] == "beta")
    engine.status = 500  # gone
    gone = until(lambda: decided(client), lambda found: found["model"] == "alpha")
    assert "older than 0.5 s" in gone["prices"]["alpha"]["reason"]
    assert cost_of(gone, "alpha") == cost_of(first, "alpha")


def test_bills_and_budgets_follow_the_configured_price(
    start: Callable[..., tuple[httpx.Client, Gateway]], engine: LoadServer, tmp_path: Path
) -> None:
    engine.says(entry("alpha", 1e-3, 1e-3))
    client, gateway = start(limits={"state": f"sqlite:///{tmp_path}/limits.db", "gateway": {"budget_usd": 1.0}})
    until(lambda: decided(client), lambda found: found["prices"]["alpha"]["from"] == "load")
    taken: list[float] = []
    acquire = gateway.limiter.acquire

    async def watched(*arguments: Any, **keywords: Any) -> Any:
        taken.append(keywords["cost_usd"])
        return await acquire(*arguments, **keywords)

    gateway.limiter.acquire = watched  # type: ignore[method-assign]
    answer = client.post("/v1/chat/completions", json={"model": "auto", "messages": [{"role": "user", "content": SUM}]})
    assert answer.headers["x-llmrouter-model"] == "alpha"
    usage = answer.json()["usage"]
    listed = (usage["prompt_tokens"] * PRICE["input"] + usage["completion_tokens"] * PRICE["output"]) / 1e6
    assert float(answer.headers["x-llmrouter-cost"]) == pytest.approx(listed)
    assert float(answer.headers["x-llmrouter-expected-cost"]) < listed / 100
    assert taken[0] >= 256 * PRICE["output"] / 1e6  # set aside as if it answered at the usual length


def test_metrics_tell_how_old_the_reading_is_and_how_many_failed(
    start: Callable[..., tuple[httpx.Client, Gateway]], engine: LoadServer
) -> None:
    engine.says(entry("alpha", 0.1, 0.2))
    client, _ = start()
    until(lambda: decided(client), lambda found: found["prices"]["alpha"]["from"] == "load")

    def metrics() -> dict[str, float]:
        lines = client.get("/metrics").text.splitlines()
        return {
            name: float(value)
            for name, _, value in (line.rpartition(" ") for line in lines if "_load_" in line)
            if not name.startswith("#")
        }

    found = metrics()
    assert found['llmrouter_load_price_in_use{model="alpha"}'] == 1
    assert found['llmrouter_load_age_seconds{model="alpha"}'] < 5
    engine.status = 500
    found = until(metrics, lambda now: now['llmrouter_load_price_in_use{model="alpha"}'] == 0)
    assert found['llmrouter_load_failures_total{model="alpha"}'] >= 1


def test_a_gateway_without_such_engines_says_nothing_of_prices(
    start: Callable[..., tuple[httpx.Client, Gateway]], upstream: MisbehavingUpstream
) -> None:
    pool = [{"name": name, "base_url": upstream.base_url, "price": PRICE} for name in MODELS]
    client, _ = start(pool=pool)
    assert "prices" not in decided(client)


def test_no_request_waits_for_a_reading(start: Callable[..., tuple[httpx.Client, Gateway]], engine: LoadServer) -> None:
    engine.hold.clear()  # it takes the question and never answers
    client, gateway = start()
    until(lambda: engine.asked, bool)
    answer = client.post("/v1/chat/completions", json={"model": "auto", "messages": [{"role": "user", "content": SUM}]})
    assert answer.headers["x-llmrouter-model"] == "alpha"
    assert decided(client)["prices"]["alpha"]["reason"].startswith("the load was not read yet")
    until(gateway.loads.failures, lambda failures: failures["alpha"] >= 1)  # given up, and asked again


def test_a_shadow_follows_the_same_prices(
    start: Callable[..., tuple[httpx.Client, Gateway]], engine: LoadServer, trained: Path
) -> None:
    engine.says(entry("alpha", 2e3, 4e3))
    client, gateway = start(learning={"shadow": {"artifact": trained}})
    live = until(lambda: decided(client), lambda found: found["prices"]["alpha"]["from"] == "load")
    assert gateway.lanes is not None
    assert gateway.lanes.shadow is not None
    (shadow,) = gateway.lanes.shadow.engine.route_many([RoutingRequest(text=SUM, prompt_tokens=8)])
    assert isinstance(shadow, Decision)
    assert shadow.model == live["model"] == "beta"
    assert next(one.expected_cost_usd for one in shadow.ranking if one.model == "alpha") > 1e-3
