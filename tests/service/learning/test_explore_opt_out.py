"""Whoever does not want to be explored says so by header, in the body, or once for all by key."""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from starlette.datastructures import Headers

from service.chat import parse_chat
from service.control import read_control
from service.errors import APIError
from service.keys import command
from service.keys.record import KeyRecord
from service.keys.sqlite_store import SQLiteKeyStore
from service.keys.wanted import read_changes, read_new
from service.settings import RouterSettings


def parsed(headers: dict[str, str] | None = None, control: Any = None, **known: Any) -> bool:
    body: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": "Hi"}]}
    if control is not None:
        body["llmrouter"] = control
    chat = parse_chat(
        body,
        Headers(headers or {}),
        pool=("a",),
        router_name="knn",
        settings=RouterSettings(),
        request_id="r",
        **known,
    )
    return chat.routing.explore


@pytest.mark.parametrize(
    ("word", "wanted"), [("off", False), ("false", False), ("0", False), ("on", True), ("Yes", True)]
)
def test_the_header(word: str, wanted: bool) -> None:
    assert parsed({"x-llmrouter-explore": word}) is wanted


def test_the_body_goes_before_the_header_and_nobody_overrules_the_key() -> None:
    assert parsed() is True
    assert parsed({"x-llmrouter-explore": "on"}, {"explore": False}) is False
    assert parsed({"x-llmrouter-explore": "off"}, {"explore": None}) is False
    assert parsed(explore=False) is False
    assert parsed({"x-llmrouter-explore": "on"}, {"explore": True}, explore=False) is False


@pytest.mark.parametrize("given", ["maybe", "", 1])
def test_what_is_neither_is_refused(given: Any) -> None:
    with pytest.raises(APIError, match="explore"):
        read_control(Headers({}), {"explore": given}, pool=("a",))
    with pytest.raises(APIError, match="x-llmrouter-explore"):
        read_control(Headers({"x-llmrouter-explore": "maybe"}), None, pool=("a",))


def test_it_does_not_change_what_is_an_answer_to_the_same_question() -> None:
    control = read_control(Headers({"x-llmrouter-explore": "off"}), None, pool=("a",))
    assert control.answer_relevant() == {}


def test_a_key_keeps_it_and_keys_of_before_may_be_explored() -> None:
    record, _ = KeyRecord.new(now=1.0, name="careful", explore=False)
    assert KeyRecord.from_json(record.to_json()).explore is False
    assert record.principal().explore is False
    assert record.document(2.0)["explore"] is False
    other, _ = KeyRecord.new(now=1.0, name="plain")
    assert "explore" not in json.loads(other.to_json()), "gateways that do not know it can read the key"
    assert KeyRecord.from_json(other.to_json()).principal().explore is True


@pytest.mark.parametrize("value", [None, "no", 0])
def test_a_key_says_yes_or_no(value: Any) -> None:
    assert read_changes({"explore": False}, now=1.0) == {"explore": False}
    assert read_new({"name": "a", "explore": None}, now=1.0) == {"name": "a"}
    with pytest.raises(APIError, match="'explore': must be true or false"):
        read_changes({"explore": value}, now=1.0)


def test_the_command_makes_such_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    for words in (["create", "--no-explore", "--name", "careful"], ["create", "--name", "plain"]):
        assert command.run(parser.parse_args(words)) == 0
    assert "explore" in capsys.readouterr().out

    async def stored() -> dict[str, bool]:
        store = SQLiteKeyStore("keys.db")
        records = await store.page(after=None, limit=10)
        await store.aclose()
        return {record.name: record.explore for record in records}

    assert asyncio.run(stored()) == {"careful": False, "plain": True}
