"""The commands that show prices and recompute costs."""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import pytest

from llmrouter.exceptions import ConfigError
from llmrouter.outcomes import SQLiteOutcomeStore
from llmrouter.pool import CostMap
from llmrouter.types import Outcome
from service import price_command, reprice_command

RAW = {"prompt_tokens": 1000, "completion_tokens": 500, "total_tokens": 1500}
MAP = """{"gpt-small": {"input_cost_per_token": 1.5e-07, "output_cost_per_token": 6e-07, "mode": "chat",
"cache_read_input_token_cost": 7.5e-08, "input_cost_per_token_above_200k_tokens": 3e-07}}"""


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "map.json").write_text(MAP)
    cost_map = CostMap(tmp_path / "map.json", source="litellm 9.9")
    monkeypatch.setattr("llmrouter.pool._prices.installed_cost_map", lambda: cost_map)
    monkeypatch.delenv("LLMROUTER_PRICES", raising=False)
    monkeypatch.chdir(tmp_path)


def run(command: Any, *arguments: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    code: int = command.run(parser.parse_args(arguments))
    return code


def test_prices_show(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(price_command, "gpt-small") == 0
    shown = capsys.readouterr().out
    assert "gpt-small: USD per million tokens, from litellm 9.9, as of (not dated)" in shown
    assert "cached_input       0.075" in shown
    assert "above 200,000 prompt tokens: input 0.3, output 0.6" in shown


def test_an_override_is_compared_with_the_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p.yaml").write_text("gpt-small: {input: 0.3, output: 0.6, as_of: 2026-11-01}")
    run(price_command, "gpt-small", "--prices", "p.yaml")
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].endswith("from file, as of 2026-11-01")
    assert "not used: litellm 9.9, as of (not dated) (gpt-small)" in shown
    assert "  input              0.15 instead of 0.3 (+100.0% used against it)" in shown
    assert "  cached_input       0.075 instead of nothing" in shown
    assert not any(line.startswith("  output             0.6 instead") for line in shown)


def test_the_price_of_a_pool_entry(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.yaml").write_text(
        "pool: [{name: small, model: gpt-small, base_url: 'http://h/v1', price: {input: 1, output: 2}}]"
    )
    run(price_command, "small", "--config", "c.yaml", "--json")
    used, other = json.loads(capsys.readouterr().out)
    assert (used["price"]["input"], used["price"]["source"]) == (1.0, "config")
    assert (other["name"], other["price"]["input"], other["context_window"]) == ("gpt-small", 0.15, None)


def test_a_model_without_a_price() -> None:
    with pytest.raises(ConfigError, match="no price is known for 'zz'"):
        run(price_command, "zz")


# Repricing


@pytest.fixture
def log(tmp_path: Path) -> SQLiteOutcomeStore:
    store = SQLiteOutcomeStore(tmp_path / "o.db")
    store.append(
        [
            Outcome("wrong", 1_762_000_000.0, "gpt-small", usage=RAW, cost_usd=0.5),
            Outcome("right", 1_762_000_001.0, "gpt-small", usage=RAW, cost_usd=0.00045),
            Outcome("later", 1_772_000_000.0, "gpt-small", usage=RAW),
            Outcome("zz", 1_772_000_000.0, "zz", usage=RAW, cost_usd=1.0),
        ]
    )
    return store


def costs(store: SQLiteOutcomeStore) -> dict[str, float | None]:
    return {outcome.request_id: outcome.cost_usd for outcome in store.scan()}


def test_nothing_is_changed_unless_asked(
    log: SQLiteOutcomeStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = costs(log)
    assert run(reprice_command, "--store", "sqlite:///o.db") == 0
    assert costs(log) == before
    assert not list(tmp_path.glob("*.csv"))
    printed = capsys.readouterr()
    assert "4 outcomes: 3 computed, 2 come out otherwise; 0 from the cache, 0 without usage, 1 without" in printed.out
    assert "gpt-small: 3 outcomes, 0.500450 -> 0.001350 USD (-0.499100; price: litellm 9.9)" in printed.out
    assert "zz: 1 outcomes, no price is known" in printed.err


def test_costs_are_written_and_the_old_ones_kept_in_the_report(log: SQLiteOutcomeStore, tmp_path: Path) -> None:
    run(reprice_command, "--store", "sqlite:///o.db", "--write", "--report", "r.csv")
    assert costs(log) == {"wrong": 0.00045, "right": 0.00045, "later": 0.00045, "zz": 1.0}
    found = log.get("wrong")
    assert found is not None
    assert found.price_as_of == "litellm 9.9"
    with (tmp_path / "r.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows == [
        {"request_id": "wrong", "model": "gpt-small", "old_cost_usd": "0.5", "new_cost_usd": "0.00045",
         "price": "litellm 9.9"},
        {"request_id": "later", "model": "gpt-small", "old_cost_usd": "", "new_cost_usd": "0.00045",
         "price": "litellm 9.9"},
    ]  # fmt: skip


def test_writing_always_leaves_a_report(log: SQLiteOutcomeStore, tmp_path: Path) -> None:
    run(reprice_command, "--store", "sqlite:///o.db", "--write")
    (report,) = tmp_path.glob("reprice-*.csv")
    assert "wrong,gpt-small,0.5,0.00045" in report.read_text()


def test_a_report_is_not_overwritten(log: SQLiteOutcomeStore, tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("precious")
    before = costs(log)
    with pytest.raises(ConfigError, match="cannot create r.csv"):
        run(reprice_command, "--store", "sqlite:///o.db", "--write", "--report", "r.csv")
    assert (tmp_path / "r.csv").read_text() == "precious"
    assert costs(log) == before


@pytest.mark.parametrize(("since", "n"), [("2026-01-01", 2), ("1762000001", 3), ("2025-11-01T12:26:41+00:00", 3)])
def test_since(log: SQLiteOutcomeStore, capsys: pytest.CaptureFixture[str], since: str, n: int) -> None:
    run(reprice_command, "--store", "sqlite:///o.db", "--since", since, "--json")
    assert json.loads(capsys.readouterr().out)["n"] == n


def test_a_time_that_is_none(log: SQLiteOutcomeStore) -> None:
    with pytest.raises(ConfigError, match=r"--since: must be a date, or seconds since 1970; got 'monday'"):
        run(reprice_command, "--store", "sqlite:///o.db", "--since", "monday")


def test_pool_names_have_the_prices_of_the_configuration(
    log: SQLiteOutcomeStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text("pool: [{name: zz, base_url: 'http://h/v1', price: {input: 1, output: 2}}]")
    run(reprice_command, "--store", "sqlite:///o.db", "--config", "c.yaml", "--json")
    report = json.loads(capsys.readouterr().out)
    assert report["without_price"] == {}
    assert {model["model"]: model["after_usd"] for model in report["models"]}["zz"] == 0.002
