"""What the gateway needs of an engine, asked of our own and of any other.

Our own serves the pocket pool. Any other: ``LLMROUTER_ENGINE_URL=http://localhost:8000/v1 pytest
tests/contracts/test_engine_contract.py``, and where they are needed ``LLMROUTER_ENGINE_MODEL`` (by default the first
that is listed), ``LLMROUTER_ENGINE_KEY``, and ``LLMROUTER_ENGINE_OFFERS=tools,json_schema,logprobs,completions,
embeddings`` for what is to be checked beyond plain chats.
"""

from __future__ import annotations

import importlib.resources
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from contracts import engine_kit
from contracts.engine_kit import ALWAYS, OPTIONAL, EngineUnderTest

from service.app import create_app
from service.server import GatewayThread
from service.settings import Settings

URL = os.environ.get("LLMROUTER_ENGINE_URL", "").rstrip("/")
OFFERS = frozenset(filter(None, os.environ.get("LLMROUTER_ENGINE_OFFERS", "").replace(" ", "").split(",")))
NAMES = ("ours", "url") if URL else ("ours",)


@pytest.fixture(scope="module")
def ours() -> Iterator[EngineUnderTest]:
    pytest.importorskip("torch", reason="our own engine needs the extra [moe]")
    from llmrouter.moe import MachinePrice, load_engine
    from service.moe import create_app as create_moe_app

    folder = Path(str(importlib.resources.files("llmrouter"))) / "assets" / "pocket" / "pocket-mini"
    engine = load_engine(folder, "pocket-mini", price=MachinePrice(usd_per_hour=1.0))
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_moe_app([engine]), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    base_url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    # No tools: their calls are held to the schema, but this model never ends a string (`tests/service/moe` has others).
    offers = frozenset({"completions", "embeddings", "json_schema", "logprobs"})
    yield EngineUnderTest(base_url, "pocket-mini", offers=offers)
    server.should_exit = True
    thread.join(60)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def given() -> EngineUnderTest:
    unknown = OFFERS - OPTIONAL.keys()
    assert not unknown, f"LLMROUTER_ENGINE_OFFERS: {sorted(unknown)} are none of {sorted(OPTIONAL)}"
    key = os.environ.get("LLMROUTER_ENGINE_KEY")
    model = os.environ.get("LLMROUTER_ENGINE_MODEL") or _listed(EngineUnderTest(URL, "", key))[0]["id"]
    return EngineUnderTest(URL, model, key, OFFERS)


@pytest.fixture(scope="module", params=NAMES)
def engine(request: pytest.FixtureRequest) -> EngineUnderTest:
    found: EngineUnderTest = request.getfixturevalue("ours" if request.param == "ours" else "given")
    return found


def _listed(engine: EngineUnderTest) -> list[dict[str, Any]]:
    answer = httpx.get(f"{engine.base_url}/models", headers=engine.headers, timeout=30, trust_env=False)
    assert answer.status_code == 200, f"{engine.base_url}/models answered {answer.status_code}: {answer.text:.200}"
    models: list[dict[str, Any]] = answer.json()["data"]
    return models


def test_another_engine_is_checked_where_one_is_given() -> None:
    if not URL:
        pytest.skip("LLMROUTER_ENGINE_URL is not set: our own engine is checked, and no other")
    assert URL.startswith(("http://", "https://")), f"LLMROUTER_ENGINE_URL must be a URL; got {URL!r}"


@pytest.mark.parametrize("check", ALWAYS, ids=lambda check: check.__name__.removeprefix("check_"))
async def test_contract(engine: EngineUnderTest, check: Any) -> None:
    await check(engine)


@pytest.mark.parametrize("offer", sorted(OPTIONAL))
async def test_what_it_offers(engine: EngineUnderTest, offer: str) -> None:
    if offer not in engine.offers:
        pytest.skip(f"not said to offer {offer}")
    await OPTIONAL[offer](engine)


async def test_a_prompt_beyond_the_window_is_refused(engine: EngineUnderTest) -> None:
    window = next((model.get("max_model_len") for model in _listed(engine) if model["id"] == engine.model), None)
    if window is None:
        pytest.skip("the engine does not say how many tokens it takes")
    await engine_kit.check_a_prompt_beyond_the_window_is_refused(engine, window)


async def test_its_load_can_be_read(engine: EngineUnderTest, request: pytest.FixtureRequest) -> None:
    is_ours = request.node.callspec.params["engine"] == "ours"
    if not is_ours and not (await engine_kit.looked_at(engine)).reports_load:
        pytest.skip("the engine reports no load")
    await engine_kit.check_its_load_can_be_read(engine, is_priced=is_ours)


def test_it_answers_through_a_gateway(engine: EngineUnderTest, tmp_path: Path) -> None:
    entry: dict[str, Any] = {"name": "local", "model": engine.model, "base_url": engine.base_url}
    entry |= {"price": {"input": 1.0, "output": 2.0}}
    if engine.api_key is not None:
        entry["api_key"] = engine.api_key
    settings = Settings.model_validate({"pool": [entry], "log": {"store": f"sqlite:///{tmp_path}/outcomes.db"}})
    body = {"model": "auto", **engine_kit.chat()}
    with GatewayThread(create_app(settings)) as gateway:
        client = httpx.Client(base_url=gateway.url, timeout=120, trust_env=False)
        whole = client.post("/v1/chat/completions", json=body)
        streamed = client.post("/v1/chat/completions", json={**body, "stream": True})
        client.close()
    assert whole.status_code == 200, whole.text
    assert whole.headers["x-llmrouter-model"] == "local"
    usage = whole.json()["usage"]
    expected = (usage["prompt_tokens"] * 1.0 + usage["completion_tokens"] * 2.0) / 1e6
    assert float(whole.headers["x-llmrouter-cost"]) == pytest.approx(expected)
    assert streamed.status_code == 200
    assert streamed.text.rstrip().endswith("data: [DONE]")


def test_a_gateway_decides_by_the_load_of_our_engine(ours: EngineUnderTest, tmp_path: Path) -> None:
    pool = [
        {"name": "local", "model": ours.model, "base_url": ours.base_url, "price": {"input": 7.0, "output": 7.0}},
        {"name": "other", "backend": "scripted", "price": {"input": 1.0, "output": 2.0}},
    ]
    pool[0]["load"] = {"every_s": 0.2}
    settings = Settings.model_validate({"pool": pool, "log": {"store": f"sqlite:///{tmp_path}/outcomes.db"}})
    with (
        GatewayThread(create_app(settings)) as gateway,
        httpx.Client(base_url=gateway.url, timeout=120, trust_env=False) as client,
    ):
        for _ in range(2):
            assert client.post("/v1/chat/completions", json={"model": "local", **engine_kit.chat()}).status_code == 200
        deadline = time.monotonic() + 20
        while True:
            found = client.post("/v1/route", json={"model": "auto", **engine_kit.chat()}).json()
            price = found["prices"]["local"]
            if price["from"] == "load" and price["output"] > 0:  # beside a request that runs, a token may cost nothing
                break
            assert time.monotonic() < deadline, price
            time.sleep(0.05)
    assert price["output"] != 7.0
    assert price["seconds_per_output_token"] > 0
    assert found["prices"]["other"]["from"] == "configuration"
