"""Where prices come from, in which order, and what is said of where they come from."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmrouter.exceptions import ConfigError, DataError
from llmrouter.pool import CostMap, PriceBook, installed_cost_map
from llmrouter.pool import _cost_map as cost_map_module
from llmrouter.types import Capability, Price, PriceTier

ENTRIES: dict[str, dict[str, Any]] = {
    "gpt-small": {
        "input_cost_per_token": 1.5e-07,
        "output_cost_per_token": 6e-07,
        "cache_read_input_token_cost": 7.5e-08,
        "input_cost_per_token_batches": 1e-09,
        "litellm_provider": "openai",
        "max_input_tokens": 128000,
        "mode": "chat",
        "supports_function_calling": True,
        "supports_vision": True,
        "supports_audio_input": False,
        "supports_response_schema": True,
    },
    "claude-big": {
        "input_cost_per_token": 3e-06,
        "output_cost_per_token": 1.5e-05,
        "cache_read_input_token_cost": 3e-07,
        "cache_creation_input_token_cost": 3.75e-06,
        "input_cost_per_token_above_200k_tokens": 6e-06,
        "output_cost_per_token_above_200k_tokens": 2.25e-05,
        "cache_read_input_token_cost_above_200k_tokens": 6e-07,
        "cache_creation_input_token_cost_above_200k_tokens": 7.5e-06,
        "input_cost_per_token_above_200k_tokens_priority": 1.0,
        "litellm_provider": "anthropic",
        "mode": "chat",
    },
    "groq/llama": {"input_cost_per_token": 5e-08, "output_cost_per_token": 8e-08, "litellm_provider": "groq"},
    "gemini-big": {
        "input_cost_per_token": 1e-06,
        "output_cost_per_token": 1e-05,
        "output_cost_per_reasoning_token": 2e-05,
        "input_cost_per_audio_token": 3e-06,
        "output_cost_per_audio_token": 4e-05,
        "litellm_provider": "vertex_ai-language-models",
        "mode": "chat",
    },
    "dashscope/qwen": {
        "litellm_provider": "dashscope",
        "mode": "chat",
        "tiered_pricing": [
            {"input_cost_per_token": 5e-08, "output_cost_per_token": 4e-07, "range": [0, 256000.0]},
            {"input_cost_per_token": 2.5e-07, "output_cost_per_token": 2e-06, "range": [256000.0, 1000000.0]},
        ],
    },
    "embed": {"input_cost_per_token": 2e-08, "mode": "embedding", "litellm_provider": "openai"},
    "draw": {"input_cost_per_token": 1e-06, "output_cost_per_token": 1e-06, "mode": "image_generation"},
    "unpriced": {"mode": "chat", "litellm_provider": "openai"},
    "online": {"input_cost_per_token": 0.0, "output_cost_per_token": 2.8e-07, "input_cost_per_request": 0.005},
}


@pytest.fixture
def cost_map(tmp_path: Path) -> CostMap:
    path = tmp_path / "map.json"
    path.write_text(json.dumps(ENTRIES))
    return CostMap(path, source="litellm 9.9")


def found(cost_map: CostMap, model: str, provider: str | None = None) -> Price:
    known = cost_map.find(model, provider=provider)
    assert known is not None
    return known.price


def test_prices_a_token_become_prices_a_million_without_binary_dust(cost_map: CostMap) -> None:
    assert found(cost_map, "gpt-small") == Price(0.15, 0.6, 0.075, source="litellm 9.9")
    known = cost_map.find("gpt-small")
    assert known is not None
    assert known.context_window == 128000
    assert known.capabilities == {Capability.TOOLS, Capability.VISION, Capability.JSON_SCHEMA}


def test_kinds_of_tokens_and_tiers(cost_map: CostMap) -> None:
    claude = found(cost_map, "claude-big")
    assert claude.cache_write == 3.75
    assert claude.tiers == (PriceTier(200_000, 6.0, 22.5, 0.6, 7.5),)
    gemini = found(cost_map, "gemini-big")
    assert (gemini.reasoning_output, gemini.input_audio, gemini.output_audio) == (20.0, 3.0, 40.0)
    qwen = found(cost_map, "dashscope/qwen")
    assert (qwen.input, qwen.output, qwen.tiers) == (0.05, 0.4, (PriceTier(256_000, 0.25, 2.0),))
    assert found(cost_map, "embed").output == 0.0
    assert found(cost_map, "online").per_request == 0.005


@pytest.mark.parametrize("model", ["draw", "unpriced", "nowhere", "nobody/gpt-small", ""])
def test_what_the_list_does_not_price(cost_map: CostMap, model: str) -> None:
    assert cost_map.find(model) is None


@pytest.mark.parametrize(
    ("model", "provider", "name"),
    [
        ("openai/gpt-small", None, "gpt-small"),
        ("anthropic/claude-big", None, "claude-big"),
        ("vertex_ai/gemini-big", None, "gemini-big"),
        ("groq/llama", None, "groq/llama"),
        ("llama", "groq", "groq/llama"),
        ("gpt-small", "openai", "gpt-small"),
        ("gpt-small", "groq", None),
        ("llama", None, None),
        ("llama", "openai", None),
    ],
)
def test_names_with_and_without_their_provider(
    cost_map: CostMap, model: str, provider: str | None, name: str | None
) -> None:
    known = cost_map.find(model, provider=provider)
    assert (None if known is None else known.name) == name


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_damaged_list(tmp_path: Path, text: str) -> None:
    (tmp_path / "map.json").write_text(text)
    with pytest.raises(DataError, match="install litellm again"):
        CostMap(tmp_path / "map.json", source="x")


def test_the_installed_list_is_found_without_importing_litellm() -> None:
    if installed_cost_map() is None:
        pytest.skip("LiteLLM is not installed")
    program = (
        "import sys\n"
        "from llmrouter.pool import PriceBook\n"
        "known = PriceBook().lookup('openai/gpt-4o-mini')\n"
        "assert known.price.source.startswith('litellm 1.'), known\n"
        "assert known.price.input > 0 and known.context_window > 0\n"
        "assert not [name for name in sys.modules if name.partition('.')[0] == 'litellm']\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_every_priced_entry_of_the_installed_list_is_read() -> None:
    installed = installed_cost_map()
    if installed is None:
        pytest.skip("LiteLLM is not installed")
    known = [entry for name in installed._entries if (entry := installed.find(name))]
    assert len(known) > len(installed) / 2
    assert all(entry.price.input >= 0 and entry.price.output >= 0 for entry in known)


def test_the_list_is_parsed_once(cost_map: CostMap, monkeypatch: pytest.MonkeyPatch) -> None:
    cost_map_module._loaded.cache_clear()
    reads = []
    monkeypatch.setattr(cost_map_module, "CostMap", lambda path, source: reads.append(path) or cost_map)
    for _ in range(3):
        assert cost_map_module._loaded(cost_map.path, 1) is cost_map
    cost_map_module._loaded(cost_map.path, 2)
    assert len(reads) == 2
    cost_map_module._loaded.cache_clear()


# The book


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_the_first_list_with_a_price_gives_it(cost_map: CostMap, tmp_path: Path) -> None:
    file = write(
        tmp_path / "prices.yaml",
        "as_of: 2026-11-01\nmodels:\n  gpt-small: {input: 0.1, output: 0.5}\n  small: {input: 7, output: 8}\n",
    )
    book = PriceBook(file=file, cost_map=cost_map, overrides={"mine": Price(1, 2)})
    known = book.lookup("gpt-small")
    assert known is not None
    assert known.price == Price(0.1, 0.5, as_of="2026-11-01", source="file")
    assert known.context_window == 128000, "what the file leaves out comes from the list"
    assert Capability.VISION in (known.capabilities or ())
    assert book.price("mine") == Price(1, 2)
    assert book.price("claude-big") == found(cost_map, "claude-big")
    by_pool_name = book.lookup("gpt-small", name="small")
    assert by_pool_name is not None
    assert by_pool_name.price.input == 7
    assert [(known.price.source, known.price.input) for known in book.listings("gpt-small", name="small")] == [
        ("file", 7.0),
        ("file", 0.1),
        ("litellm 9.9", 0.15),
    ]


def test_the_address_says_whose_price_it_is(cost_map: CostMap) -> None:
    book = PriceBook(cost_map=cost_map)
    groq = "https://api.groq.com/openai/v1"
    assert book.lookup("llama") is None
    assert book.lookup("llama", base_url=groq) is not None
    assert book.lookup("gpt-small", base_url=groq) is None, "another provider's price is no guess to make"
    assert book.lookup("gpt-small", base_url="https://proxy.example/v1") is not None
    assert book.lookup("gpt-small", "scripted") is None


def test_the_pocket_pool_needs_no_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmrouter.pool._prices.installed_cost_map", lambda: pytest.fail("LiteLLM's list was read"))
    known = PriceBook().lookup("pocket-mini")
    if known is None:
        pytest.skip("built without the pocket pool")
    assert known.price.source == "pocket"
    assert known.context_window


def test_without_litellm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert installed_cost_map() is None
    book = PriceBook(file=write(tmp_path / "p.json", '{"a": {"input": 1, "output": 2}}'))
    assert book.price("a") == Price(1, 2, source="file")
    assert book.price("gpt-4o-mini") is None


def test_the_file_of_the_environment(tmp_path: Path) -> None:
    file = write(tmp_path / "p.yaml", "a: {input: 1, output: 2}")
    other = write(tmp_path / "q.yaml", "a: {input: 3, output: 4}")
    environment = {"LLMROUTER_PRICES": str(file)}
    named = PriceBook.from_environment(environment=environment).price("a")
    given = PriceBook.from_environment(file=other, environment=environment).price("a")
    assert named is not None
    assert given is not None
    assert (named.input, given.input) == (1, 3)


# Price files


def test_a_full_price_file(tmp_path: Path) -> None:
    file = write(
        tmp_path / "p.yaml",
        """
        as_of: 2026-11-01
        models:
          a:
            input: 1
            output: 2
            cached_input: 0
            cache_write: 1.25
            reasoning_output: 3
            input_audio: 4
            output_audio: 5
            per_request: 0.01
            tiers: [{above_tokens: 200000, input: 2, output: 4, cached_input: 0.5}]
            as_of: "2026-10-01"
            source: contract
            context_window: 1000
            capabilities: [tools, logprobs]
          b: {input: 0, output: 0}
        """,
    )
    book = PriceBook(file=file)
    known = book.lookup("a")
    assert known is not None
    assert known.price == Price(
        1, 2, 0, 1.25, 3, 4, 5, 0.01, (PriceTier(200_000, 2, 4, 0.5),), "2026-10-01", "contract"
    )
    assert known.context_window == 1000
    assert known.capabilities == {Capability.TOOLS, Capability.LOGPROBS}
    assert book.price("b") == Price(0, 0, as_of="2026-11-01", source="file")


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("a: {input: cheap, output: 1}", ["a.input: must be a number of at least 0; got 'cheap'"]),
        ("a: {input: -1, output: 1}", ["a.input: must be a number of at least 0; got -1"]),
        ("a: {input: .nan, output: true}", ["a.input: must be", "a.output: must be"]),
        ("a: {input: 1}", ["a.output: is required"]),
        ("a: {input: 1, output: 1, ouput: 2}", ["a.ouput: unknown key; allowed: input, output, cached_input"]),
        ("a: 3", ["a: must be a mapping such as"]),
        ("a: {input: 1, output: 1, capabilities: [fly]}", ["a.capabilities: must be a list out of tools, vision"]),
        ("a: {input: 1, output: 1, context_window: many}", ["a.context_window: must be a whole number above 0"]),
        ("a: {input: 1, output: 1, as_of: yesterday}", ["a.as_of: must be a date such as 2026-11-01"]),
        ("a: {input: 1, output: 1, tiers: [{above_tokens: 5}]}", ["a.tiers[0].input: is required"]),
        ("a: {input: 1, output: 1, tiers: 5}", ["a.tiers: must be a list"]),
        ("models: {}\nprices: {}", ["prices: unknown key; allowed: as_of, models"]),
        ("[1]", ["must hold a mapping of models to prices, not a list"]),
        ("a: [", ["neither YAML nor JSON"]),
    ],
)
def test_problems_of_a_price_file_are_listed(tmp_path: Path, text: str, problems: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        PriceBook(file=write(tmp_path / "p.yaml", text))
    assert str(tmp_path / "p.yaml") in str(caught.value)
    for problem in problems:
        assert problem in str(caught.value)


def test_a_price_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the price file .*No such file"):
        PriceBook(file=tmp_path / "absent.yaml")
