"""What the log keeps of prompts, by the key that sends them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
from keyed_gateway import Keyed

from llmrouter.exceptions import LLMRouterError
from service.keys import command
from service.keys.record import KeyRecord

PROMPT = "a prompt that a key keeps to itself"
BODY = {"model": "auto", "messages": [{"role": "user", "content": PROMPT}]}


def outcome(gateway: Keyed, key: str) -> dict[str, Any]:
    answer = gateway.ask("POST", "/v1/chat/completions", key=key, json=BODY)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = gateway.ask("GET", f"/v1/outcomes/{answer.headers['x-request-id']}", key="admin").json()
    return found


@pytest.mark.parametrize(
    ("prompts", "text", "digest"), [("hash", False, True), ("none", False, False), (None, True, True)]
)
def test_a_keys_own_setting_holds(gateway: Keyed, prompts: str | None, text: bool, digest: bool) -> None:
    gateway.make(f"keeps {prompts}", prompts=prompts)
    found = outcome(gateway, f"keeps {prompts}")
    assert (found["prompt"] == PROMPT, found["prompt_sha256"] is not None) == (text, digest)


def test_it_can_be_changed_and_taken_away(gateway: Keyed) -> None:
    gateway.make("changing", prompts="none")
    (key,) = [k for k in gateway.ask("GET", "/admin/keys", key="admin").json()["data"] if k["name"] == "changing"]
    assert key["prompts"] == "none"
    for value, kept in (("text", True), ("hash", False), (None, True)):
        changed = gateway.ask("PATCH", f"/admin/keys/{key['id']}", key="admin", json={"prompts": value})
        assert changed.json()["prompts"] == value
        assert (outcome(gateway, "changing")["prompt"] is not None) == kept
    wrong = gateway.ask("PATCH", f"/admin/keys/{key['id']}", key="admin", json={"prompts": "all"})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "prompts")
    assert "text, hash, embedding, none" in wrong.json()["error"]["message"]


def test_a_key_without_it_is_stored_as_before() -> None:
    """So that gateways of the version before can read it."""
    record, _ = KeyRecord.new(now=1.0, name="n")
    assert b"prompts" not in record.to_json()
    private, _ = KeyRecord.new(now=1.0, name="n", prompts="hash")
    assert KeyRecord.from_json(private.to_json()).principal().prompts == "hash"
    assert KeyRecord.from_json(record.to_json()).principal().prompts is None


def test_the_command_sets_and_changes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Any:
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        assert command.run(parser.parse_args([*arguments, "--json"])) == 0
        return json.loads(capsys.readouterr().out)

    made = run("create", "--name", "n", "--rpm", "5", "--prompts", "embedding")
    assert made["prompts"] == "embedding"
    changed = run("update", made["id"], "--prompts", "hash")
    assert (changed["prompts"], changed["name"], changed["limits"]) == ("hash", "n", {"rpm": 5})
    renamed = run("update", made["id"], "--name", "other", "--tpm", "7")
    assert (renamed["prompts"], renamed["name"], renamed["limits"]) == ("hash", "other", {"rpm": 5, "tpm": 7})
    assert "token" not in renamed
    with pytest.raises(LLMRouterError, match="nothing is to be changed"):
        run("update", made["id"])
    with pytest.raises(LLMRouterError, match="There is no key"):
        run("update", "0" * 12, "--prompts", "none")
