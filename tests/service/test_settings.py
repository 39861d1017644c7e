"""The configuration: what is accepted, and every mistake with its path, its value and the remedy."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as trials
from hypothesis import strategies as st
from live_gateway import FakeEngine

from llmrouter.encoders import CachedEncoder
from llmrouter.exceptions import ConfigError
from llmrouter.policy import LatencyPolicy, UtilityPolicy
from llmrouter.pool import LiteLLMBackend, OpenAIBackend, ScriptedBackend, Timeouts
from llmrouter.types import Capability, ModelCard, Price, RoutingRequest, Speed
from service.backends import build_backends
from service.gateway import Gateway
from service.resilience.state import Resilience
from service.settings import DEFAULT_CONFIG, Settings, build_engine, build_policy, load_settings, parse_settings
from service.shared import spool_path

ONE = {"name": "a", "base_url": "http://127.0.0.1:1/v1", "price": {"input": 1, "output": 2}}


def parse(text: str, **environment: str) -> Settings:
    return parse_settings(text, source="test.yaml", environment=environment)


def of(tree: dict[str, Any], **environment: str) -> Settings:
    return parse(yaml.safe_dump({"pool": [ONE], **tree}), **environment)


def problems(tree: Any, **environment: str) -> dict[str, str]:
    """Return path -> message of everything that is said to be wrong."""
    with pytest.raises(ConfigError) as caught:
        parse(tree if isinstance(tree, str) else yaml.safe_dump(tree), **environment)
    head, *lines = str(caught.value).splitlines()
    assert head == f"test.yaml has {len(lines)} problem{'s' if len(lines) > 1 else ''}"
    return dict(line.strip().split(": ", 1) for line in lines)


def test_a_full_configuration() -> None:
    settings = parse(
        """
        pool:
          - name: gpt-4o-mini
            backend: openai
            model: gpt-4o-mini-2024
            base_url: https://api.openai.com/v1
            api_key: ${OPENAI_API_KEY}
            price: {input: 0.15, cached_input: 0.075, output: 0.60}
            capabilities: [tools, vision, json_schema]
            context_window: 128000
            prior_quality: 0.7
            timeouts: {first_byte_s: 10}
          - {name: claude, backend: litellm, model: anthropic/claude, price: {input: 3, output: 15}}
          - {name: echo, backend: scripted, price: {input: 0, output: 0}, options: {reply: hello}}
        router: {artifact: artifacts/current, encoder: static, text: last_user_turn}
        policy: {kind: utility, cost_weight: 0.5}
        log: {store: "sqlite:///x.db", prompts: hash}
        server: {host: 127.0.0.1, port: 9000, workers: 1}
        cache: {}
        """,
        OPENAI_API_KEY="sk-1",
    )
    assert settings.cards[0] == ModelCard(
        "gpt-4o-mini",
        Price(0.15, 0.6, 0.075),
        context_window=128000,
        capabilities=frozenset({Capability.TOOLS, Capability.VISION, Capability.JSON_SCHEMA, Capability.JSON_MODE}),
        prior_quality=0.7,
    )
    assert settings.pool[0].timeouts.timeouts() == Timeouts(first_byte_s=10)
    policy = build_policy(settings.policy)
    assert isinstance(policy, UtilityPolicy)
    assert policy.cost_weight == 0.5


async def test_backends_are_built_as_configured() -> None:
    settings = of(
        {
            "pool": [
                {**ONE, "api_key": "sk-1", "headers": {"x-team": "t"}},
                {"name": "b", "backend": "scripted", "price": ONE["price"], "options": {"reply": "hello"}},
                {"name": "c", "backend": "litellm", "model": "anthropic/x", "price": ONE["price"]},
            ]
        }
    )
    from llmrouter.pool import HTTPSessions

    backends = build_backends(settings, HTTPSessions(), Resilience(settings.resilience, ()))
    assert [type(backend) for backend in backends.values()] == [OpenAIBackend, ScriptedBackend, LiteLLMBackend]
    assert backends["c"].model == "anthropic/x"  # type: ignore[attr-defined]


def test_options_that_a_backend_does_not_know() -> None:
    settings = of({"pool": [{"name": "b", "backend": "scripted", "price": ONE["price"], "options": {"rply": "x"}}]})
    with pytest.raises(ConfigError, match="rply"):
        Gateway(settings, engine=FakeEngine(settings.cards))


def test_the_embedded_default() -> None:
    settings = load_settings(environment={"LLMROUTER_POCKET_PORT": "7001"})
    assert [card.name for card in settings.cards] == ["pocket-mini", "pocket-numbers", "pocket-words", "pocket-max"]
    assert {model.base_url for model in settings.pool} == {"http://127.0.0.1:7001/v1"}
    assert settings.router.artifact is None
    assert settings.log.store == "sqlite:///outcomes.db"
    prices = [card.price.output for card in settings.cards]
    assert prices[0] == min(prices)
    assert prices[3] == max(prices)
    assert all(card.context_window for card in settings.cards)
    assert "8090" in str(load_settings(environment={}).pool[0].base_url)
    assert DEFAULT_CONFIG.is_file()


def test_settings_are_frozen() -> None:
    settings = of({})
    with pytest.raises(ValueError, match="frozen"):
        settings.server.port = 1  # type: ignore[misc]


def test_policy_values_may_come_from_variables() -> None:
    policy = build_policy(of({"policy": {"cost_weight": "${WEIGHT:-0.7}"}}).policy)
    assert isinstance(policy, UtilityPolicy)
    assert policy.cost_weight == 0.7


def test_policies_nest_and_their_values_are_converted() -> None:
    settings = of({"policy": {"kind": "latency", "limit_s": "${LIMIT:-2}", "base": {"cost_weight": "0.7"}}})
    policy = build_policy(settings.policy)
    assert isinstance(policy, LatencyPolicy)
    assert policy.limit_s == 2.0
    assert isinstance(policy.base, UtilityPolicy)
    assert policy.base.cost_weight == 0.7


@pytest.mark.parametrize(
    "section",
    [
        {"kind": "quality_floor", "floor": 0.97, "confidence": 0.9, "bound": "normal"},
        {"kind": "budget", "usd_per_1k": 2, "burst_requests": 50},
        {"kind": "quota", "shares": {"a": 0.2}, "rate": 0.01, "window": 100, "base": {"kind": "thompson", "seed": 3}},
        {"kind": "sticky", "idle_s": 60, "base": {"kind": "category_map", "usd_per_1k": 1.5, "clusters": 8}},
        {"kind": "subset", "max_models": 3, "latency_s": 2.5, "base": {"kind": "ucb", "preference": {"a": 0.8}}},
    ],
)
def test_every_policy_can_be_configured(section: dict[str, Any]) -> None:
    policy = build_policy(of({"policy": section}).policy)
    assert policy.name.startswith(section["kind"])


def test_speed_and_energy_of_a_model() -> None:
    entry = {**ONE, "speed": {"time_to_first_token_s": 0.4, "tokens_per_s": 80}, "energy_j_per_token": 2.5}
    card = of({"pool": [entry]}).cards[0]
    assert card.speed == Speed(0.4, 80.0)
    assert card.energy_j_per_token == 2.5
    assert of({}).cards[0].speed is None


def test_overrides() -> None:
    settings = of({})
    moved = settings.at(host="127.0.0.2", port=0)
    assert (moved.server.host, moved.server.port) == ("127.0.0.2", 0)
    assert settings.at() == settings
    with pytest.raises(ConfigError, match=r"server\.port: input should be less than or equal to 65535; got 70000"):
        settings.at(port=70000)


# Environment variables


def test_variables() -> None:
    text = """
    pool:
      - name: a
        base_url: http://${HOST}:${PORT:-8000}/v1
        price: {input: "${PRICE:-1}", output: 2}
        model: "$${HOST} $$5 ${EMPTY:-}"
    """
    (model,) = parse(text, HOST="h", EMPTY="").pool
    assert model.base_url == "http://h:8000/v1"
    assert model.model == "${HOST} $5 "
    assert model.price.input == 1.0


def test_a_missing_variable_is_named_with_its_path() -> None:
    found = problems({"pool": [{**ONE, "api_key": "${MY_KEY}", "base_url": "${MY_URL}/v1"}]})
    assert set(found) == {"pool[0].api_key", "pool[0].base_url"}
    assert "MY_KEY is not set" in found["pool[0].api_key"]


@pytest.mark.parametrize("text", ["${", "${}", "${1X}", "${A B}", "${A-b}"])
def test_malformed_variables(text: str) -> None:
    assert "is not a variable" in problems({"pool": [{**ONE, "model": text}]}, A="a")["pool[0].model"]


def test_an_empty_variable_counts_as_unset_only_with_a_default() -> None:
    assert of({"pool": [{**ONE, "model": "${X:-d}"}]}, X="").pool[0].model == "d"
    assert of({"pool": [{**ONE, "model": "${X}"}]}, X="").pool[0].model == ""


# Mistakes


def nested(depth: int) -> dict[str, Any]:
    """A policy that wraps that many others."""
    return {"kind": "sticky", "base": nested(depth - 1)} if depth else {}


@pytest.mark.parametrize(
    ("change", "path", "said"),
    [
        ({"poool": []}, "poool", "unknown key; allowed: auth, cache,"),
        ({"poool": []}, "poool", "did you mean 'pool'?"),
        ({"router": {"encodr": "x"}}, "router.encodr", "did you mean 'encoder'?"),
        (
            {"router": {"text": "last"}},
            "router.text",
            "must be 'last_user_turn' or 'system_and_last_turns'; got 'last'",
        ),
        ({"router": {"turns": 0}}, "router.turns", "greater than 0; got 0"),
        ({"router": 5}, "router", "must be a mapping; got 5"),
        ({"policy": {"kind": "utilty"}}, "policy.kind", "did you mean 'utility'?"),
        ({"policy": {"cost_wieght": 1}}, "policy.cost_wieght", "did you mean 'cost_weight'?"),
        ({"policy": {"cost_weight": -1}}, "policy", "cost_weight must be a finite number >= 0; got -1"),
        (
            {"policy": {"cost_weight": "high"}},
            "policy.cost_weight",
            "valid number, unable to parse string as a number; got 'high'",
        ),
        ({"policy": {"reference_cost_usd": 1}}, "policy.reference_cost_usd", "unknown key"),
        ({"policy": {"kind": "sticky", "clock": 1}}, "policy.clock", "unknown key"),
        ({"policy": {"kind": "latency"}}, "policy.limit_s", "is required"),
        (
            {"policy": {"kind": "sticky", "base": {"cost_wieght": 1}}},
            "policy.base.cost_wieght",
            "did you mean 'cost_weight'?",
        ),
        (
            {"policy": {"kind": "sticky", "base": {"kind": "quota", "shares": {"a": 1}, "base": {"kind": "bugdet"}}}},
            "policy.base.base.kind",
            "did you mean 'budget'?",
        ),
        (
            {"policy": {"kind": "sticky", "base": {"kind": "budget", "usd_per_1k": -1}}},
            "policy.base",
            "usd_per_1k must be a finite number > 0; got -1",
        ),
        ({"policy": {"kind": "sticky", "base": "utility"}}, "policy.base", "must be a mapping; got 'utility'"),
        ({"policy": {"kind": "quota", "shares": {"a": "x"}}}, "policy.shares.a", "got 'x'"),
        ({"policy": {"kind": "quota", "shares": {"a": 1.5}}}, "policy", "shares.a must be a finite number"),
        ({"policy": nested(9)}, "policy" + ".base" * 8, "policies nest at most 8 deep"),
        (
            {"pool": [{**ONE, "speed": {"time_to_first_token_s": -1, "tokens_per_s": 80}}]},
            "pool[0].speed.time_to_first_token_s",
            "greater than 0",
        ),
        ({"pool": [{**ONE, "speed": {"tokens_per_s": 80}}]}, "pool[0].speed.time_to_first_token_s", "is required"),
        ({"log": {"prompts": "all"}}, "log.prompts", "must be 'text', 'hash', 'embedding' or 'none'; got 'all'"),
        ({"log": {"flush_interval_s": 0}}, "log.flush_interval_s", "greater than 0; got 0"),
        (
            {"server": {"port": "http"}},
            "server.port",
            "valid integer, unable to parse string as an integer; got 'http'",
        ),
        ({"server": {"port": 70000}}, "server.port", "got 70000"),
        ({"server": {"workers": 0}}, "server.workers", "got 0"),
        ({"learning": {"every_s": 60}}, "learning.every_s", "unknown key"),
        ({"auth": {"keys": []}}, "auth.keys", "unknown key"),
        ({"redis": "redis://x"}, "redis", "must be a mapping; got 'redis://x'"),
        ({"pool": [{**ONE, "endpoints": ["chat", "chatt"]}]}, "pool[0].endpoints[1]", "did you mean 'chat'?"),
        ({"pool": [{**ONE, "deployments": [{"base_url": "x"}]}]}, "pool[0].deployments[0].base_url", "http://"),
        ({"pool": []}, "pool", "is empty"),
        ({"pool": None}, "pool", "must be a list; got None"),
        ({"pool": {"a": 1}}, "pool", "must be a list; got a mapping"),
        ({"pool": ["a"]}, "pool[0]", "must be a mapping; got 'a'"),
        ({"pool": [ONE, ONE]}, "pool[1].name", "is the name of pool[0] already"),
        ({"pool": [{**ONE, "name": "auto"}]}, "pool[0].name", "asks for routing"),
        ({"pool": [{**ONE, "name": "router-knn-0.3"}]}, "pool[0].name", "asks for routing"),
        ({"pool": [{**ONE, "name": "two words"}]}, "pool[0].name", "hold only letters"),
        ({"pool": [{**ONE, "name": "x\r\nevil: 1"}]}, "pool[0].name", "hold only letters"),
        ({"pool": [{**ONE, "backend": "opnai"}]}, "pool[0].backend", "did you mean 'openai'?"),
        ({"pool": [{**ONE, "base_url": "localhost:8000"}]}, "pool[0].base_url", "http://"),
        ({"pool": [{k: v for k, v in ONE.items() if k != "base_url"}]}, "pool[0].base_url", "is required"),
        ({"pool": [{k: v for k, v in ONE.items() if k != "name"}]}, "pool[0].name", "is required"),
        (
            {"pool": [{k: v for k, v in ONE.items() if k != "price"}]},
            "pool[0].price",
            "price of this model is not known",
        ),
        ({"pool": [{**ONE, "price": {"input": "cheap", "output": 1}}]}, "pool[0].price.input", "got 'cheap'"),
        ({"pool": [{**ONE, "price": {"input": 1}}]}, "pool[0].price.output", "is required"),
        ({"pool": [{**ONE, "price": {"input": -1, "output": 1}}]}, "pool[0].price.input", "got -1"),
        ({"pool": [{**ONE, "price": {"input": 1, "ouput": 1}}]}, "pool[0].price.ouput", "did you mean 'output'?"),
        ({"pool": [{**ONE, "capabilities": ["tols"]}]}, "pool[0].capabilities[0]", "did you mean 'tools'?"),
        ({"pool": [{**ONE, "capabilities": "tools"}]}, "pool[0].capabilities", "must be a list; got 'tools'"),
        ({"pool": [{**ONE, "context_window": 0}]}, "pool[0].context_window", "got 0"),
        ({"pool": [{**ONE, "prior_quality": 1.5}]}, "pool[0].prior_quality", "got 1.5"),
        ({"pool": [{**ONE, "timeouts": {"total": 5}}]}, "pool[0].timeouts.total", "did you mean 'total_s'?"),
        ({"pool": [{**ONE, "timeouts": {"total_s": 0}}]}, "pool[0].timeouts.total_s", "got 0"),
    ],
)
def test_each_mistake(change: dict[str, Any], path: str, said: str) -> None:
    found = problems({"pool": [ONE], **change})
    assert said in found[path]


def test_every_problem_is_listed() -> None:
    found = problems(
        {"pool": [{**ONE, "prise": 1}], "router": {"txt": 1}, "log": {"prompts": 5}, "server": {"port": -1}}
    )
    assert set(found) == {"pool[0].prise", "router.txt", "log.prompts", "server.port"}


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n"])
def test_an_empty_file_lacks_a_pool(text: str) -> None:
    assert problems(text) == {"pool": "is required"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pool: [a", "line 1, column"),
        ("pool:\n  - name: a\n   base_url: x\n", "line 3, column"),
        ("pool: a\npool: b\n", "line 2, column 1 is not valid YAML: the key 'pool' is there twice (first in line 1)"),
        ("pool:\n  - {name: a, name: b}\n", "the key 'name' is there twice"),
        ("- a\n", "must hold a mapping"),
        ("x", "must hold a mapping"),
        ("pool: !!python/object/apply:os.system ['true']\n", "is not valid YAML"),
        ("\tpool: x\n", "is not valid YAML"),
        ("a: \x00", "is not valid YAML"),
    ],
)
def test_yaml_mistakes(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match="test.yaml") as caught:
        parse(text)
    assert said in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_settings(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_settings(tmp_path / "latin.yaml")


@trials(max_examples=60)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["pool", "name", "price", "policy", "kind", "server", "router"]), inner)
        ),
        max_leaves=12,
    )
)
def test_any_tree_is_accepted_or_refused_with_an_explanation(tree: Any) -> None:
    with suppress(ConfigError):
        parse(yaml.safe_dump(tree))


# Secrets


SECRET = "sk-very-secret"


@pytest.mark.parametrize(
    "change",
    [
        {"pool": [{**ONE, "apikey": SECRET}]},
        {"pool": [{**ONE, "api_key": [SECRET]}]},
        {"pool": [{**ONE, "api_key": {"value": SECRET}}]},
        {"pool": [{**ONE, "headers": SECRET}]},
        {"pool": [{**ONE, "headers": {"authorization": [SECRET]}}]},
        {"pool": [{**ONE, "base_url": f"ftp://user:{SECRET}@host/v1"}]},
        {"pool": SECRET and [[SECRET]]},
        {"auth": {"keys": [SECRET]}},
        {"pool": [{**ONE, "api_key": "${KEY}", "context_window": "${KEY}"}]},
    ],
)
def test_secrets_are_never_shown_in_errors(change: dict[str, Any]) -> None:
    text = yaml.safe_dump({"pool": [ONE], **change})
    with pytest.raises(ConfigError) as caught:
        parse(text, KEY=SECRET)
    error: BaseException | None = caught.value
    while error is not None:
        assert SECRET not in f"{error} {error!r}"
        error = error.__cause__ or error.__context__


def test_secrets_are_not_in_a_repr() -> None:
    pool = [{**ONE, "api_key": SECRET, "headers": {"x": SECRET}, "options": {"aws_secret": SECRET}}]
    settings = of({"pool": pool})
    assert SECRET not in f"{settings!r} {settings}"
    assert SECRET not in settings.model_dump_json(exclude={"pool": {"__all__": {"options"}}})


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ({"store": "sqlite:///data/log.db"}, "data/log.db.spool.jsonl"),
        ({"store": "memory://"}, "outcomes.spool.jsonl"),
        ({"spool": "/var/spool/x.jsonl"}, "/var/spool/x.jsonl"),
    ],
)
def test_the_place_of_the_spool(log: dict[str, str], expected: str) -> None:
    assert spool_path(of({"log": log}).log) == Path(expected)


def test_vectors_of_the_latest_texts_are_kept_where_it_is_wanted() -> None:
    plain, kept = build_engine(of({})), build_engine(of({"router": {"embedding_cache": 10}}))
    assert not isinstance(plain.encoder, CachedEncoder), "a token table is as fast as a look-up"
    assert isinstance(kept.encoder, CachedEncoder)
    request = RoutingRequest("What is 2 plus 3?")
    assert kept.route(request).ranking == kept.route(request).ranking == plain.route(request).ranking
    assert kept.encoder.statistics[:2] == (1, 1)
    assert "router.embedding_cache" in problems({"pool": [ONE], "router": {"embedding_cache": -1}})
