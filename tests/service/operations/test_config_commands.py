"""`llmrouter config`: check, show, from-litellm."""

from __future__ import annotations

import argparse
import stat
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from llmrouter.exceptions import ConfigError
from service import config_commands
from service.config_commands import Variable, hidden, variables_in
from service.settings import parse_settings

PRICE = "price: {input: 1, output: 2}"
SECRET = "sk-very-secret-value"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run_command(*arguments: str) -> tuple[int, str, str]:
        parser = argparse.ArgumentParser()
        config_commands.add_arguments(parser)
        status = config_commands.run(parser.parse_args([str(argument) for argument in arguments]))
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run_command


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "config.yaml"


@pytest.fixture
def upstream() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_right_configuration_is_summed_up_without_values_of_variables(
    run: Callable[..., tuple[int, str, str]], config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY_THAT_IS_SET", SECRET)
    monkeypatch.delenv("KEY_WITH_DEFAULT", raising=False)
    config.write_text(
        f"pool:\n  - {{name: a, base_url: 'http://u/v1', api_key: '${{KEY_THAT_IS_SET}}', {PRICE}}}\n"
        f"  - {{name: b, base_url: 'http://u/v1', api_key: '${{KEY_WITH_DEFAULT:-none}}', {PRICE}}}\n"
        "policy: {kind: utility, cost_weight: 0.2}\n"
    )
    status, out, err = run("check", "--config", config)
    assert status == 0, err
    assert "is right" in err
    for part in ("a: openai, 1 in and 2 out", "cost_weight: 0.2", "KEY_THAT_IS_SET: set", "no keys", "knows 0 of 2"):
        assert part in out, out
    assert "KEY_WITH_DEFAULT: not set, the default holds" in out
    assert SECRET not in out + err


def test_every_problem_is_told(run: Callable[..., tuple[int, str, str]], config: Path) -> None:
    config.write_text("pool: [{name: a, backend: opnai}]\nserver: {port: none}\nlogs: {}\n")
    status, out, err = run("check", "--config", config)
    assert status == 1
    assert out == ""
    for part in ("pool[0].backend", "pool[0].price", "server.port", "logs"):
        assert part in err


def test_what_lies_beyond_the_file_is_checked_too(run: Callable[..., tuple[int, str, str]], config: Path) -> None:
    config.write_text(
        f"pool: [{{name: a, backend: scripted, {PRICE}}}]\n"
        "router: {artifact: /no/such/artifact}\nserver: {host: 0.0.0.0, workers: 2}\nlimits: {gateway: {rpm: 5}}\n"
    )
    status, _, err = run("check", "--config", config)
    assert status == 1
    assert "problem: server.workers" in err
    assert "problem: router.artifact" in err
    assert "problem: server.host" in err


def test_a_missing_package_is_named_with_its_remedy(
    run: Callable[..., tuple[int, str, str]], config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text(f"pool: [{{name: a, backend: scripted, {PRICE}}}]\nredis: {{url: 'redis://h'}}\n")
    find = config_commands.importlib.util.find_spec
    monkeypatch.setattr(
        config_commands.importlib.util, "find_spec", lambda name, *rest: None if name == "redis" else find(name, *rest)
    )
    status, _, err = run("check", "--config", config)
    assert status == 1
    assert "llmrouter-service[redis]" in err


def test_upstreams_are_asked_when_wanted(run: Callable[..., tuple[int, str, str]], config: Path, upstream: str) -> None:
    deployments = f"deployments: [{{base_url: '{upstream}'}}, {{base_url: 'http://127.0.0.1:9/v1'}}]"
    config.write_text(
        f"pool:\n  - {{name: a, base_url: '{upstream}', {PRICE}}}\n"
        f"  - {{name: b, base_url: '{upstream}', {PRICE}, {deployments}}}\n"
    )
    status, out, err = run("check", "--config", config, "--connect")
    assert status == 1
    assert "upstream   a: answers" in out
    assert "upstream   b (deployment 1): answers" in out
    assert "upstream   b (deployment 2): does not answer" in out
    assert "problem: b (deployment 2)" in err


def test_what_is_in_effect_is_shown_without_secrets(
    run: Callable[..., tuple[int, str, str]], config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THE_KEY", SECRET)
    config.write_text(
        f"pool: [{{name: a, base_url: 'http://u/v1', api_key: '${{THE_KEY}}', headers: {{x-own: '{SECRET}'}}, {PRICE}, "
        f"options: {{aws_secret_access_key: '{SECRET}', aws_region_name: us-east-1}}}}]\n"
        f"redis: {{url: 'redis://:{SECRET}@h:6379'}}\n"
        f"telemetry: {{traces: {{otlp_endpoint: 'http://user:{SECRET}@collector:4318'}}}}\n"
    )
    status, out, _ = run("show", "--config", config)
    assert status == 0
    assert SECRET not in out
    shown = yaml.safe_load(out)
    assert shown["pool"][0]["api_key"] == "(hidden)"
    assert shown["pool"][0]["options"]["aws_region_name"] == "us-east-1"
    assert shown["server"]["port"] == 8080, "defaults are there too"
    assert shown["telemetry"]["traces"]["otlp_endpoint"] == "http://(hidden)@collector:4318"
    assert shown["limits"]["key_default"]["budget_period"] == "month"


def test_the_embedded_configuration_is_right_and_shown(run: Callable[..., tuple[int, str, str]]) -> None:
    status, out, err = run("check")
    assert status == 0, err
    assert "knows 4 of 4 models" in out
    status, out, _ = run("show")
    assert status == 0
    assert parse_settings(out, source="shown").pool[0].name == "pocket-mini"


def test_secrets_are_hidden_by_their_place() -> None:
    tree = {
        "headers": {"a": "b"},
        "api_key": "c",
        "max_tokens": 5,
        "url": "https://u:p@h/x",
        "list": [{"password": "d"}],
    }
    assert hidden(tree) == {
        "headers": {"a": "(hidden)"},
        "api_key": "(hidden)",
        "max_tokens": 5,
        "url": "https://(hidden)@h/x",
        "list": [{"password": "(hidden)"}],
    }


def test_variables_are_found_once_and_dollars_are_none() -> None:
    text = "a: ['${ONE}', '$${NOT}', 'x${TWO:-y}${ONE}']"
    assert list(variables_in(text, "x")) == [Variable("ONE", has_default=False), Variable("TWO", has_default=True)]


def test_a_conversion_is_written_for_its_owner_alone_and_never_over_a_file(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    source, target = tmp_path / "litellm.yaml", tmp_path / "ours.yaml"
    source.write_text("model_list: [{model_name: a, litellm_params: {model: gpt-4o}}]\nx: 1\n")
    status, out, err = run("from-litellm", source)
    assert status == 0
    assert yaml.safe_load(out)["pool"][0]["name"] == "a"
    assert "note: x has no counterpart" in err
    run("from-litellm", source, "-o", target)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert target.read_text() == out
    target.write_text("precious")
    with pytest.raises(ConfigError, match="--force"):
        run("from-litellm", source, "-o", target)
    assert target.read_text() == "precious"
    run("from-litellm", source, "-o", target, "--force")
    assert target.read_text() == out
    with pytest.raises(ConfigError, match="cannot read"):
        run("from-litellm", tmp_path / "absent.yaml")
