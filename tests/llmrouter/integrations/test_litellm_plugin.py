"""The plugin in LiteLLM's own Router, offline."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

import pytest

from llmrouter import artifact
from llmrouter.exceptions import ArtifactError, ConfigError
from llmrouter.integrations.litellm import LLMRouterPlugin
from llmrouter.types import ModelCard, Price

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else its import calls out

pytestmark = pytest.mark.skipif(
    not (artifact.default_artifact() / "manifest.json").is_file(), reason="no artifact ships with this build"
)

NAMES = ("pocket-mini", "pocket-numbers", "pocket-words", "pocket-max")
POOL = {f"openai/{name}": name for name in NAMES}
SUM, REVERSE = "What is 17 + 25?", "Reverse the word: lantern"


@dataclass
class FakeContext:
    structured_messages: list[dict[str, object]]
    candidate_models: list[str]
    metadata: dict[str, object] = field(default_factory=dict)
    signals: dict[str, object] = field(default_factory=dict)


def asked(text: object = SUM, *candidates: str, **metadata: object) -> FakeContext:
    return FakeContext([{"role": "user", "content": text}], list(candidates or POOL), metadata)


@pytest.fixture(scope="module")
def plugin() -> LLMRouterPlugin:
    return LLMRouterPlugin(pool=POOL, cost_weight=0.3)


async def test_the_best_model_for_the_prompt_is_left(plugin: LLMRouterPlugin) -> None:
    for text, best in ((SUM, "openai/pocket-numbers"), (REVERSE, "openai/pocket-words")):
        context = await plugin.run(asked(text))
        assert context.candidate_models == [best]
        signal: Any = context.signals["llmrouter"]
        assert signal["kept"] == [best]
        assert signal["model"] == best.removeprefix("openai/")
        assert {entry["model"] for entry in signal["ranking"]} == set(NAMES)
        assert 0 <= signal["ranking"][0]["expected_quality"] <= 1
        assert signal["ranking"][0]["expected_cost_usd"] > 0
        assert signal["propensity"] == 1.0


async def test_more_of_the_ranking_can_be_kept_in_its_order() -> None:
    plugin = LLMRouterPlugin(pool=POOL, keep=2)
    context = await plugin.run(asked(SUM))
    signal: Any = context.signals["llmrouter"]
    ranked = [f"openai/{entry['model']}" for entry in signal["ranking"]]
    assert context.candidate_models == ranked[:2]


async def test_every_deployment_of_the_kept_model_stays(plugin: LLMRouterPlugin) -> None:
    context = await plugin.run(asked(SUM, *POOL, "openai/pocket-numbers"))
    assert context.candidate_models == ["openai/pocket-numbers"] * 2


async def test_candidates_restrict_the_choice(plugin: LLMRouterPlugin) -> None:
    context = await plugin.run(asked(SUM, "openai/pocket-mini", "openai/pocket-words"))
    assert len(context.candidate_models) == 1
    assert context.candidate_models[0] in ("openai/pocket-mini", "openai/pocket-words")
    one = await plugin.run(asked(SUM, "openai/pocket-mini"))
    assert (one.candidate_models, one.signals) == (["openai/pocket-mini"], {})


async def test_a_retry_takes_the_next_of_the_ranking_and_starts_again_at_its_end(plugin: LLMRouterPlugin) -> None:
    chosen = [(await plugin.run(asked(SUM, request_retry_count=n))).candidate_models for n in range(5)]
    assert sorted(model for (model,) in chosen[:4]) == sorted(POOL)
    assert chosen[4] == chosen[0]


async def test_a_request_says_what_it_wants(plugin: LLMRouterPlugin) -> None:
    cheap = await plugin.run(asked(SUM, llmrouter={"cost_weight": 1000}))
    assert cheap.candidate_models == ["openai/pocket-mini"]
    assert cheap.candidate_models != (await plugin.run(asked(SUM))).candidate_models


@pytest.mark.parametrize(
    "context",
    [
        asked(SUM, *POOL, "openai/unheard-of"),
        asked(7),
        asked(SUM, llmrouter={"cost_weigth": 1}),
        asked(SUM, llmrouter={"cost_weight": "much"}),
        asked(SUM, llmrouter=3),
        asked([{"type": "image_url", "image_url": {"url": "data:"}}]),
        FakeContext([{"content": "no role"}], list(POOL)),
        FakeContext(None, list(POOL)),  # type: ignore[arg-type]
    ],
    ids=["no price", "no text", "unknown wish", "odd wish", "no wishes", "no model sees", "no role", "no messages"],
)
async def test_trouble_leaves_the_context_as_it_is(
    plugin: LLMRouterPlugin, context: FakeContext, caplog: pytest.LogCaptureFixture
) -> None:
    plugin._told.clear()
    before = list(context.candidate_models)
    with caplog.at_level(logging.DEBUG, "llmrouter.integrations.litellm"):
        for _ in range(2):
            assert await plugin.run(context) is context
    assert context.candidate_models == before
    assert context.signals == {}
    assert [record.levelname for record in caplog.records] == ["WARNING", "DEBUG"], "told once"


async def test_names_cards_and_prices() -> None:
    plugin = LLMRouterPlugin(
        pool={
            "openai/pocket-numbers": ModelCard("pocket-numbers", Price(1.0, 1.0)),
            "bedrock/big": Price(5.0, 5.0),
        },
        policy={"kind": "utility", "cost_weight": 0.0},
    )
    context = await plugin.run(asked(SUM, "openai/pocket-numbers", "bedrock/big", "hosted_vllm/pocket-mini"))
    signal: Any = context.signals["llmrouter"]
    assert {entry["model"] for entry in signal["ranking"]} == {"pocket-numbers", "bedrock/big", "pocket-mini"}
    assert plugin._cards["hosted_vllm/pocket-mini"].price.source == "pocket"


async def test_requests_at_once(plugin: LLMRouterPlugin) -> None:
    fresh = LLMRouterPlugin(pool=POOL, cost_weight=0.3)
    contexts = await asyncio.gather(*(fresh.run(asked((SUM, REVERSE)[i % 2])) for i in range(20)))
    assert [context.candidate_models for context in contexts[:2]] * 10 == [c.candidate_models for c in contexts]


@pytest.mark.parametrize(
    ("parameters", "error"),
    [
        ({"keep": 0}, ConfigError),
        ({"cost_weight": 0.1, "policy": {"kind": "utility"}}, ConfigError),
        ({"policy": {"kind": "no such"}}, ConfigError),
        ({"artifact": "/nowhere"}, ArtifactError),
        ({"prices": "/nowhere.yaml"}, ConfigError),
    ],
)
def test_wrong_parameters_are_refused_at_once(parameters: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        LLMRouterPlugin(**parameters)


def test_litellm_is_not_imported() -> None:
    program = (
        "import sys\n"
        "from llmrouter.integrations.litellm import LLMRouterPlugin\n"
        "LLMRouterPlugin()\n"
        "assert 'litellm' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# In LiteLLM's Router


def model_list(**replies: object) -> list[dict[str, Any]]:
    return [
        {
            "model_name": "auto",
            "litellm_params": {"model": f"openai/{name}", "api_key": "x", "mock_response": replies.get(name, name)},
        }
        for name in NAMES
    ]


async def ask(router: Any, text: str, metadata: dict[str, Any] | None = None) -> str:
    answer = await router.acompletion(
        model="auto", messages=[{"role": "user", "content": text}], metadata={} if metadata is None else metadata
    )
    content: str = answer.choices[0].message.content
    return content


@pytest.fixture(scope="module")
def litellm() -> Any:
    return pytest.importorskip("litellm")


async def test_litellm_takes_it_for_a_plugin(litellm: Any, plugin: LLMRouterPlugin) -> None:
    from litellm.types.router import RoutingPlugin

    assert isinstance(plugin, RoutingPlugin)
    assert inspect.iscoroutinefunction(plugin.run)
    router = litellm.Router(plugins=[plugin], model_list=model_list())
    for _ in range(4):
        assert await ask(router, SUM) == "pocket-numbers"
        assert await ask(router, REVERSE) == "pocket-words"


async def test_litellm_keeps_the_decision(litellm: Any, plugin: LLMRouterPlugin) -> None:
    router = litellm.Router(plugins=[plugin], model_list=model_list())
    metadata: dict[str, Any] = {}
    await ask(router, SUM, metadata)
    assert metadata["routing_plugin_signals"]["llmrouter"]["model"] == "pocket-numbers"


async def test_litellm_retries_with_the_second_best(litellm: Any, plugin: LLMRouterPlugin) -> None:
    models = model_list(**{"pocket-numbers": "litellm.InternalServerError"})
    router = litellm.Router(
        plugins=[plugin], model_list=models, num_retries=1, retry_after=0, allowed_fails=0, cooldown_time=60
    )
    second = (await plugin.run(asked(SUM, request_retry_count=1))).candidate_models
    # The first request meets the failure, the second one finds the model cooling down.
    assert [f"openai/{await ask(router, SUM)}" for _ in range(2)] == second * 2


async def test_trouble_leaves_the_choice_to_litellm(litellm: Any) -> None:
    router = litellm.Router(plugins=[LLMRouterPlugin()], model_list=[*model_list(), unknown_model()])
    answers = {await ask(router, SUM) for _ in range(40)}
    assert len(answers) > 1
    assert answers <= {*NAMES, "unheard-of"}


def unknown_model() -> dict[str, Any]:
    parameters = {"model": "openai/unheard-of", "api_key": "x", "mock_response": "unheard-of"}
    return {"model_name": "auto", "litellm_params": parameters}
