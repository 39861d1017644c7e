"""``llmrouter keys``: it works on the store, without a gateway."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
from contracts.redis_server import RedisServer

from llmrouter.exceptions import ConfigError, LLMRouterError
from service.keys import command
from service.keys.principal import DEFAULT_SCOPES
from service.keys.record import KeyRecord
from service.keys.sqlite_store import SQLiteKeyStore
from service.keys.token import digest_of, id_in


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(arguments))


async def stored(path: str = "keys.db") -> list[KeyRecord]:
    store = SQLiteKeyStore(path)
    records = await store.page(after=None, limit=100)
    await store.aclose()
    return records


def created(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert run("create", *arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


async def _only(path: str = "keys.db") -> KeyRecord:
    (record,) = await stored(path)
    return record


def test_the_first_admin_key(capsys: pytest.CaptureFixture[str]) -> None:
    import asyncio

    assert run("create", "--admin") == 0
    shown = capsys.readouterr().out
    token = shown.splitlines()[0]
    record = asyncio.run(_only())
    assert id_in(token) == record.id
    assert record.digest == digest_of(token)
    assert record.principal().is_admin
    assert record.name == "admin"
    assert "once" in shown


def test_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    document = created(
        capsys,
        *("--name", "ci", "--team", "red", "--scopes", "inference, route", "--models", "small,gpt-*"),
        *("--rpm", "5", "--tpm", "1000", "--concurrency", "2", "--budget-usd", "1.5", "--budget-period", "month"),
        *("--expires", "30d"),
    )
    assert document["scopes"] == ["inference", "route"]
    assert document["models"] == ["small", "gpt-*"]
    assert document["limits"] == {
        "rpm": 5, "tpm": 1000, "concurrency": 2, "budget_usd": 1.5, "budget_period": "month",
    }  # fmt: skip
    assert document["team"] == "red"
    assert document["expires"] > document["created"]


def test_list_and_show_hold_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list") == 0
    assert "no keys" in capsys.readouterr().out
    first, second = created(capsys, "--name", "one"), created(capsys, "--name", "two")
    assert run("list") == 0
    table = capsys.readouterr().out
    assert run("show", first["id"]) == 0
    shown = capsys.readouterr().out
    assert table.index(first["id"]) < table.index(second["id"])
    for text in (table, shown):
        assert first["token"][-20:] not in text
        assert digest_of(first["token"]).hex() not in text
    assert run("list", "--json") == 0
    assert [key["name"] for key in json.loads(capsys.readouterr().out)] == ["one", "two"]


def test_rotate_and_revoke(capsys: pytest.CaptureFixture[str]) -> None:
    key = created(capsys)
    assert run("rotate", key["id"], "--grace", "0s", "--json") == 0
    rotated = json.loads(capsys.readouterr().out)
    assert rotated["id"] == key["id"]
    assert rotated["token"] != key["token"]
    assert run("revoke", rotated["token"]) == 0
    assert "auth.cache_s" in capsys.readouterr().out
    assert run("show", key["id"], "--json") == 0
    assert json.loads(capsys.readouterr().out)["state"] == "revoked"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("create", "--scopes", "everything"), "everything"),
        (("create", "--rpm", "-5"), "limits.rpm"),
        (("create", "--expires", "yesterday"), "expires"),
        (("show", "AAAAAAAAAAAA"), "There is no key"),
        (("rotate", "x", "--grace", "1y"), "grace_s"),
        (("list", "--config", "absent.yaml"), "absent.yaml"),
    ],
)
def test_what_is_wrong_is_said(arguments: tuple[str, ...], said: str) -> None:
    with pytest.raises(LLMRouterError, match=said):
        run(*arguments)


def test_the_configured_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # The rest of the configuration may need variables that are not set here.
    Path("c.yaml").write_text(
        "pool: [{name: a, api_key: '${UNSET_VARIABLE_OF_THE_POOL}'}]\nauth: {store: 'sqlite:///sub/other.db'}\n"
    )
    created(capsys, "--config", "c.yaml")
    assert (tmp_path / "sub" / "other.db").exists()
    assert not (tmp_path / "keys.db").exists()


def test_a_configuration_without_keys_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    Path("c.yaml").write_text("pool: []\n")
    assert run("create", "--admin", "--config", "c.yaml") == 0
    assert "auth: {}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("auth: {store: 'mysql://x'}", r"auth\.store"),
        ("auth: {stor: x}", "did you mean 'store'"),
        ("auth: {store: 'sqlite:///${UNSET_VARIABLE}'}", "UNSET_VARIABLE"),
        ("auth: {store: redis}", r"auth\.store"),
        ("auth: [", "not valid YAML"),
    ],
)
def test_a_wrong_section_is_said(text: str, said: str) -> None:
    Path("c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        run("list", "--config", "c.yaml")


def test_keys_in_redis(redis_server: RedisServer, capsys: pytest.CaptureFixture[str]) -> None:
    redis_server.flush()
    Path("c.yaml").write_text(f"auth: {{store: redis}}\nredis: {{url: '{redis_server.url}', prefix: mine}}\n")
    key = created(capsys, "--admin", "--config", "c.yaml")
    assert run("show", key["id"], "--config", "c.yaml", "--json") == 0
    assert json.loads(capsys.readouterr().out)["scopes"] == [*DEFAULT_SCOPES, "admin"]
    assert redis_server.command("HEXISTS", "mine:keys", key["id"]) == b":1\r\n"
