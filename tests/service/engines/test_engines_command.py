"""`llmrouter config engines`, and `config check --connect`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from engines.fake_engine import LLAMA_CPP, OK, TGI, VLLM, engine, models

from llmrouter.exceptions import ConfigError
from service import config_commands
from service.settings import parse_settings

PRICE = "price: {input: 1, output: 2}"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run_command(*arguments: str) -> tuple[int, str, str]:
        parser = argparse.ArgumentParser()
        config_commands.add_arguments(parser)
        status = config_commands.run(parser.parse_args([str(argument) for argument in arguments]))
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run_command


def written(folder: Path, *entries: str) -> Path:
    file = folder / "config.yaml"
    file.write_text("pool:\n" + "".join(f"  - {{{entry}, {PRICE}}}\n" for entry in entries))
    return file


def test_what_is_served_is_shown_and_what_is_not_is_warned_of(run: Run, tmp_path: Path) -> None:
    with engine(VLLM) as (vllm, asked), engine(LLAMA_CPP) as (llama, _):
        config = written(
            tmp_path,
            f"name: good, model: Qwen/Qwen3-8B, base_url: '{vllm}', context_window: 32768",
            f"name: typo, model: qwen3-8b, base_url: '{vllm}'",
            f"name: wide, model: Qwen/Qwen3-8B, base_url: '{vllm}', context_window: 131072",
            f"name: unsaid, model: Qwen/Qwen3-8B, base_url: '{vllm}', load: true",
            f"name: any, base_url: '{llama}'",
            "name: scripted, backend: scripted",
        )
        status, out, err = run("engines", "--config", config)
    assert status == 0
    assert "engine     good: vLLM 0.11.0, serves 1 model" in out
    assert "scripted" not in out
    assert [path for path, _ in asked] == ["/v1/models", "/health", "/version"]  # asked once for all of them
    for warning in (
        "typo: the model 'qwen3-8b' is not served; served: 'Qwen/Qwen3-8B'; write one of these as `model`",
        "wide: context_window is 131072, and the engine takes 32768 tokens",
        "unsaid: the engine takes 32768 tokens; write context_window: 32768",
        "unsaid: load is on, and this engine reports none",
        "any: llama.cpp serves 'm.gguf' and answers under any name",
    ):
        assert f"warning: {warning}" in err
    assert "good:" not in err


def test_warnings_fail_where_that_is_wanted(run: Run, tmp_path: Path) -> None:
    with engine(TGI) as (url, _):
        config = written(tmp_path, f"name: tgi, base_url: '{url}'")
        assert run("engines", "--config", config)[0] == 0
        assert run("engines", "--config", config, "--strict")[0] == 1


def test_an_address_that_does_not_answer_is_a_problem(run: Run, tmp_path: Path) -> None:
    with engine(VLLM) as (url, _):
        places = f"deployments: [{{base_url: '{url}'}}, {{base_url: 'http://127.0.0.1:9/v1', model: other}}]"
        config = written(tmp_path, f"name: a, model: Qwen/Qwen3-8B, context_window: 5, {places}")
        status, out, err = run("engines", "--config", config)
    assert status == 1
    assert "engine     a (deployment 1): vLLM" in out
    assert "problem: a (deployment 2): no answer" in err


def test_check_connect_says_it_too(run: Run, tmp_path: Path) -> None:
    with engine(VLLM) as (url, _):
        config = written(tmp_path, f"name: typo, model: qwen3-8b, base_url: '{url}', load: {{every_s: 5}}")
        status, out, err = run("check", "--config", config, "--connect")
    assert status == 0, err
    assert f"decided about by {url}/load, read every 5 s" in out
    assert "engine     typo: vLLM 0.11.0" in out
    assert "warning: typo: the model 'qwen3-8b' is not served" in err
    assert "is right" in err


def test_entries_for_what_is_served_can_be_pasted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_KEY", "sk-secret")
    ours = {"/v1/models": models("a", "b", owner="llmrouter", max_model_len=64), "/readyz": OK, "/v1/load": (200, {})}
    with engine(ours) as (url, asked):
        status, out, _ = run("engines", "--url", url, "--key-from", "ENGINE_KEY")
    assert status == 0
    assert "sk-secret" not in out
    assert asked[0] == ("/v1/models", "Bearer sk-secret")
    assert f"# {url}: llmrouter, serves 2 models, reports its load" in out
    settings = parse_settings(out, source="printed", environment={"ENGINE_KEY": "k"})
    assert [model.name for model in settings.pool] == ["a", "b"]
    assert settings.pool[0].context_window == 64
    assert settings.pool[0].load is not None
    assert yaml.safe_load(out)["pool"][0]["api_key"] == "${ENGINE_KEY}"


def test_a_url_where_nobody_is(run: Run) -> None:
    status, out, _ = run("engines", "--url", "http://127.0.0.1:9/v1")
    assert status == 1
    assert out == "# http://127.0.0.1:9/v1: no answer (ClientConnectorError)\n"


def test_keys_that_are_not_there_are_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(ConfigError, match="NO_SUCH_KEY is not set"):
        run("engines", "--url", "http://127.0.0.1:9/v1", "--key-from", "NO_SUCH_KEY")
    with pytest.raises(ConfigError, match="is for --url"):
        run("engines", "--key-from", "NO_SUCH_KEY")
