"""LiteLLM's configurations become ours: what has a counterpart is there, and nothing is dropped in silence."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmrouter.exceptions import ConfigError
from service.from_litellm import Converted, convert
from service.from_litellm._providers import PROVIDERS, split_model
from service.settings import Settings, parse_settings


class AnyVariable(dict[str, str]):
    """An environment in which every variable is set."""

    def get(self, name: str, default: Any = None) -> Any:
        return "http://set" if name.endswith("BASE") else None if name == "LLMROUTER_PRICES" else "set"


def converted(**tree: Any) -> Converted:
    return convert(yaml.safe_dump(tree), source="litellm.yaml")


def sections(**tree: Any) -> dict[str, Any]:
    return yaml.safe_load(converted(**tree).text)


def checked(text: str) -> Settings:
    return parse_settings(text, source="ours.yaml", environment=AnyVariable())


def entry(name: str, model: str, *, info: dict[str, Any] | None = None, **parameters: Any) -> dict[str, Any]:
    return {"model_name": name, "litellm_params": {"model": model, **parameters}, "model_info": info or {}}


def test_an_openai_model_takes_the_fast_path_and_its_key_from_the_environment() -> None:
    found = sections(model_list=[entry("fast", "openai/gpt-4o-mini", api_key="os.environ/MY_KEY", timeout=30)])
    model = found["pool"][0]
    assert model["backend"] == "openai"
    assert model["base_url"] == "https://api.openai.com/v1"
    assert model["model"] == "gpt-4o-mini"
    assert model["api_key"] == "${MY_KEY}"
    assert model["timeouts"] == {"total_s": 30}


@pytest.mark.parametrize(
    ("written", "backend", "model", "base_url", "key"),
    [
        ("gpt-4o", "openai", "gpt-4o", "https://api.openai.com/v1", "${OPENAI_API_KEY}"),
        ("groq/a-b", "openai", "a-b", "https://api.groq.com/openai/v1", "${GROQ_API_KEY}"),
        ("openrouter/x/y", "openai", "x/y", "https://openrouter.ai/api/v1", "${OPENROUTER_API_KEY}"),
        (
            "fireworks_ai/llama",
            "openai",
            "accounts/fireworks/models/llama",
            "https://api.fireworks.ai/inference/v1",
            "${FIREWORKS_API_KEY}",
        ),
        ("ollama/llama3", "openai", "llama3", "http://localhost:11434/v1", "${OLLAMA_API_KEY:-}"),
        ("anthropic/claude-x", "litellm", "anthropic/claude-x", None, None),
        ("claude-x", "litellm", "claude-x", None, None),
        ("bedrock/anthropic.claude:0", "litellm", "bedrock/anthropic.claude:0", None, None),
    ],
)
def test_providers(written: str, backend: str, model: str, base_url: str | None, key: str | None) -> None:
    made = sections(model_list=[entry("a", written)])["pool"][0]
    assert (made["backend"], made["model"], made.get("base_url"), made.get("api_key")) == (
        backend,
        model,
        base_url,
        key,
    )


def test_a_server_of_ones_own() -> None:
    made = sections(
        model_list=[entry("own", "hosted_vllm/Qwen/Qwen3-8B", api_base="os.environ/VLLM_BASE", max_parallel_requests=8)]
    )
    model = made["pool"][0]
    assert (model["base_url"], model["model"]) == ("${VLLM_BASE}", "Qwen/Qwen3-8B")
    assert model["api_key"] == "${HOSTED_VLLM_API_KEY:-}", "such servers often ask for none"
    assert made["limits"]["models"]["own"] == {"concurrency": 8}


def test_what_else_a_provider_of_another_protocol_needs_goes_into_options() -> None:
    made = sections(
        model_list=[
            entry("b", "azure/mine", api_base="https://x", api_version="2024-10-21", rpm=6, extra_headers={"a": "$b"})
        ]
    )
    model = made["pool"][0]
    assert model["options"] == {"api_version": "2024-10-21"}
    assert model["headers"] == {"a": "$$b"}
    assert made["limits"]["models"] == {"b": {"rpm": 6}}


def test_entries_of_one_name_are_deployments_of_one_model() -> None:
    found = converted(
        model_list=[
            entry("a", "openai/gpt-4o", rpm=10, tpm=100, weight=3),
            entry("a", "azure/mine", rpm=20, api_base="https://x", info={"base_model": "azure/gpt-4o"}),
        ]
    )
    made = yaml.safe_load(found.text)
    (model,) = made["pool"]
    assert [place["backend"] for place in model["deployments"]] == ["openai", "litellm"]
    assert model["deployments"][0]["weight"] == 3
    assert made["limits"]["models"]["a"] == {"rpm": 30}
    assert any("tpm" in note for note in found.notes), "one of them had a limit that is gone now"
    assert len(checked(found.text).pool[0].deployments) == 2


def test_prices_are_per_million_and_exact() -> None:
    made = sections(
        model_list=[
            entry("a", "openai/x", input_cost_per_token=1.5e-07, output_cost_per_token="0.0000006"),
            entry("b", "openai/text-embedding-y", info={"input_cost_per_token": 2e-8, "mode": "embedding"}),
        ]
    )
    assert made["pool"][0]["price"] == {"input": 0.15, "output": 0.6}
    assert made["pool"][1]["price"] == {"input": 0.02, "output": 0.0}
    assert made["pool"][1]["endpoints"] == ["embeddings"]


def test_an_unknown_price_is_said_to_be_unknown() -> None:
    found = converted(model_list=[entry("a", "openai/nobody-knows-this")])
    assert any("price is not known" in note for note in found.notes)
    assert checked(found.text).pool[0].price.input == 0


def test_capabilities_that_are_denied_are_left_out() -> None:
    info = {"supports_function_calling": True, "supports_vision": False, "max_input_tokens": 1000}
    made = sections(model_list=[entry("a", "openai/gpt-4o", info=info)])["pool"][0]
    assert "tools" in made["capabilities"]
    assert "vision" not in made["capabilities"]
    assert made["context_window"] == 1000


def test_names_that_mean_something_else_here_are_mended_and_told() -> None:
    found = converted(
        model_list=[entry(name, "openai/gpt-4o") for name in ("auto", "a b", "a-b", "router-stack-0.5", "***x")]
    )
    names = [model["name"] for model in yaml.safe_load(found.text)["pool"]]
    assert len(set(names)) == len(names) == 4, "the wildcard is left out"
    assert not {"auto", "a b", "router-stack-0.5"} & set(names)
    assert sum("is called" in note for note in found.notes) == 3
    checked(found.text)


def test_router_settings_become_resilience() -> None:
    found = converted(
        model_list=[entry("a", "gpt-4o"), entry("b", "gpt-4o-mini")],
        router_settings={
            "num_retries": 2,
            "cooldown_time": 45,
            "allowed_fails": 4,
            "fallbacks": [{"a": ["b", "c", "d", "e", "f"]}],
            "enable_pre_call_checks": True,
        },
        litellm_settings={"request_timeout": 90},
    )
    resilience = yaml.safe_load(found.text)["resilience"]
    assert resilience["retries_same_model"] == 2
    assert resilience["breaker"] == {"cool_s": 45.0, "after_failures": 5}
    assert resilience["max_attempts"] == 6
    assert any("a -> b, c, d, e, f" in note for note in found.notes)
    assert any("enable_pre_call_checks" in note for note in found.notes)
    assert checked(found.text).pool[1].timeouts.total_s == 90


def test_keys_cache_and_redis() -> None:
    found = converted(
        model_list=[entry("a", "gpt-4o")],
        general_settings={"master_key": "sk-secret-1234", "global_max_parallel_requests": 50},
        litellm_settings={"cache": True, "cache_params": {"type": "redis", "host": "os.environ/HOST", "ttl": 60}},
    )
    made = yaml.safe_load(found.text)
    assert made["auth"] == {}
    assert made["redis"] == {"url": "redis://${HOST}:6379/0"}
    assert made["cache"] == {"store": "redis", "ttl_s": 60}
    assert made["limits"]["gateway"] == {"concurrency": 50}
    assert "sk-secret-1234" not in found.text
    assert any("llmrouter keys create --admin" in note for note in found.notes)
    checked(found.text)


def test_notes_are_comments_even_when_what_they_quote_has_line_breaks() -> None:
    found = converted(model_list=[entry("evil\nname: x\n#", "gpt-4o")], **{"top\nlevel": 1})
    head = found.text.partition("\n\npool:")[0]
    assert all(line.startswith("#") for line in head.splitlines())
    checked(found.text)


@pytest.mark.parametrize("text", ["pool: []", "model_list: {}", "[]", "model_list: [{model_name: a}]", "model_list: ["])
def test_what_is_no_such_configuration_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        convert(text, source="x.yaml")


def test_a_literal_key_is_kept_and_told() -> None:
    found = converted(model_list=[entry("a", "gpt-4o", api_key="sk-$1${2}")])
    assert any("stands in the file itself" in note for note in found.notes)
    assert not any("sk-" in note for note in found.notes), "but not shown"
    key = checked(found.text).pool[0].api_key
    assert key is not None
    assert key.get_secret_value() == "sk-$1${2}"


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=12)
VALUES = st.one_of(st.none(), st.booleans(), st.integers(-5, 500), st.floats(0.1, 100), WORDS)
MODELS = st.one_of(
    st.sampled_from([f"{name}/some-model" for name in PROVIDERS if PROVIDERS[name].base_url]),
    st.sampled_from(["gpt-4o", "azure/x", "anthropic/claude-sonnet-4-5", "gemini/gemini-2.5-pro"]),
)
PARAMETERS = st.fixed_dictionaries(
    {"model": MODELS},
    optional={
        "api_key": st.one_of(WORDS, st.just("os.environ/SOME_KEY")),
        "api_base": st.just("os.environ/SOME_BASE"),
        "rpm": st.integers(1, 10**6),
        "max_parallel_requests": st.integers(0, 100),
        "timeout": st.integers(1, 600),
        "weight": st.integers(1, 5),
        "input_cost_per_token": st.floats(0, 1e-3),
        "output_cost_per_token": st.floats(0, 1e-3),
        "temperature": VALUES,
        "extra_headers": st.dictionaries(WORDS, WORDS, max_size=2),
    },
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.tuples(WORDS, PARAMETERS), min_size=1, max_size=4),
    st.dictionaries(st.sampled_from(["num_retries", "allowed_fails", "routing_strategy", "redis_port"]), VALUES),
    st.dictionaries(WORDS.map("other_{}".format), VALUES, max_size=3),
)
def test_what_comes_out_is_right_whatever_went_in(
    models: list[tuple[str, dict[str, Any]]], router: dict[str, Any], litellm: dict[str, Any]
) -> None:
    usable = [(name, parameters) for name, parameters in models if "*" not in name]
    tree = {
        "model_list": [{"model_name": name, "litellm_params": parameters} for name, parameters in models],
        "router_settings": router,
        "litellm_settings": litellm,
    }
    if not usable:
        with pytest.raises(ConfigError):
            converted(**tree)
        return
    found = converted(**tree)
    result = checked(found.text)
    assert len(result.pool) == len({name for name, _ in usable})
    untranslated = [key for key, value in litellm.items() if value is not None and value is not False]
    told = sum(note.startswith("litellm_settings.other_") for note in found.notes)
    assert (told > 0) == bool(untranslated)


def test_model_names_are_split_as_litellm_does() -> None:
    assert split_model("groq/x") == ("groq", "x")
    assert split_model("o3-mini") == ("openai", "o3-mini")
    assert split_model("ollama-like") == ("", "ollama-like")
    assert split_model("x/y", provider="custom_openai") == ("custom_openai", "x/y")
    assert not any(re.search(r"/$", provider.base_url or "") for provider in PROVIDERS.values())
