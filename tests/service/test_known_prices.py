"""What the configuration fills in of models that are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from llmrouter.exceptions import ConfigError
from llmrouter.pool import CostMap
from llmrouter.types import Price, PriceTier
from service.config_checks import check_pool, pocket_cards, with_known_prices
from service.pricing_settings import PriceSettings, PricingSettings

MAP = """{"gpt-small": {"input_cost_per_token": 1.5e-07, "output_cost_per_token": 6e-07, "litellm_provider": "openai",
"max_input_tokens": 128000, "mode": "chat", "supports_vision": true}}"""


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "map.json").write_text(MAP)
    cost_map = CostMap(tmp_path / "map.json", source="litellm 9.9")
    monkeypatch.setattr("llmrouter.pool._prices.installed_cost_map", lambda: cost_map)
    monkeypatch.setattr("service.config_checks.installed_cost_map", lambda: cost_map)
    monkeypatch.delenv("LLMROUTER_PRICES", raising=False)


def filled(entry: dict[str, Any], **tree: Any) -> dict[str, Any]:
    (done,) = with_known_prices({"pool": [entry], **tree}, environment={})["pool"]
    return done


def test_what_an_entry_leaves_out_is_filled_in() -> None:
    done = filled({"name": "small", "model": "gpt-small", "base_url": "https://api.openai.com/v1"})
    assert (done["price"]["input"], done["price"]["output"]) == (0.15, 0.6)
    assert (done["context_window"], done["capabilities"]) == (128000, ["vision"])
    assert PriceSettings.model_validate(done["price"]).price.output == 0.6


@pytest.mark.parametrize(
    ("key", "value"),
    [("price", {"input": 9, "output": 9}), ("context_window", 5), ("context_window", None), ("capabilities", [])],
)
def test_what_an_entry_says_stays(key: str, value: object) -> None:
    done = filled({"name": "gpt-small", key: value})
    assert done[key] == value
    assert {"price", "context_window", "capabilities"} <= done.keys()


def test_entries_that_nobody_knows_stay_as_they_are() -> None:
    for entry in ({"name": "x"}, {"name": "gpt-small", "backend": "scripted"}, {"name": 3}, {}):
        assert filled(entry) == entry
    assert with_known_prices({"pool": [None, 3]}, environment={}) == {"pool": [None, 3]}
    assert with_known_prices({"pool": 3}) == {"pool": 3}
    assert with_known_prices(None) is None


def test_another_providers_price_is_not_taken() -> None:
    assert "price" not in filled({"name": "gpt-small", "base_url": "https://api.groq.com/openai/v1"})


def test_the_price_file_of_the_configuration_and_of_the_environment(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("small: {input: 1, output: 2}")
    (tmp_path / "b.yaml").write_text("small: {input: 3, output: 4}")
    entry = {"name": "small", "model": "gpt-small"}
    assert filled(entry, pricing={"file": str(tmp_path / "a.yaml")})["price"]["input"] == 1
    tree = {"pool": [entry]}
    environment = {"LLMROUTER_PRICES": str(tmp_path / "b.yaml")}
    assert with_known_prices(tree, environment=environment)["pool"][0]["price"]["input"] == 3
    tree["pricing"] = {"file": str(tmp_path / "a.yaml")}
    assert with_known_prices(tree, environment=environment)["pool"][0]["price"]["input"] == 1
    with pytest.raises(ConfigError, match="cannot read the price file"):
        filled(entry, pricing={"file": str(tmp_path / "absent.yaml")})


def test_a_missing_price_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {"name": "x", "backend": "scripted"}
    message = check_pool({"pool": [entry]})["pool", 0, "price"]
    assert "price of this model is not known here, and litellm 9.9 does not list 'x'" in message
    assert "write {input: ..., output: ...} in USD per million tokens, or name the model in pricing.file" in message
    monkeypatch.setattr("service.config_checks.installed_cost_map", lambda: None)
    message = check_pool({"pool": [entry]})["pool", 0, "price"]
    assert "pip install 'llmrouter-service[litellm]'" in message


def test_the_pocket_pool() -> None:
    if not pocket_cards():
        pytest.skip("built without the pocket pool")
    done = filled({"name": "mini", "model": "pocket-mini"})
    assert done["price"]["input"] == pocket_cards()["pocket-mini"]["price"]["input"]


# Settings


def test_a_full_price() -> None:
    settings = PriceSettings.model_validate(
        {
            "input": 1,
            "output": 2,
            "cached_input": 0.5,
            "cache_write": 1.25,
            "reasoning_output": 3,
            "input_audio": 4,
            "output_audio": 5,
            "per_request": 0.01,
            "tiers": [{"above_tokens": 1000, "input": 2, "output": 4}],
            "as_of": "2026-11-01",
            "source": "contract",
        }
    )
    assert settings.price == Price(1, 2, 0.5, 1.25, 3, 4, 5, 0.01, (PriceTier(1000, 2, 4),), "2026-11-01", "contract")
    assert PriceSettings(input=1, output=2).price == Price(1, 2)


@pytest.mark.parametrize(
    "wrong", [{"as_of": "soon"}, {"as_of": 3}, {"cache_write": -1}, {"tiers": [{"above_tokens": 0}]}, {"per_call": 1}]
)
def test_wrong_prices(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PriceSettings.model_validate({"input": 1, "output": 2, **wrong})


def test_no_price_file_by_default() -> None:
    assert PricingSettings().file is None
