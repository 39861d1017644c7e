"""What docs/engines.md shows is what the gateway takes and answers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from jsonschema import validate

from service import openapi
from service.engines import kinds
from service.loads.settings import LoadSettings
from service.settings import parse_settings

PAGE = Path(__file__).parents[3] / "docs" / "engines.md"
TEXT = PAGE.read_text(encoding="utf-8")
ENTRIES = re.findall(r"^```yaml\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
KEYS = {"VLLM_KEY": "x", "LLAMA_KEY": "x"}


@pytest.mark.parametrize("text", ENTRIES)
def test_every_entry_that_is_shown_is_right(text: str) -> None:
    assert parse_settings(text, source="an example", environment=KEYS).pool


def test_each_engine_that_is_told_apart_has_an_entry() -> None:
    for kind in (kinds.VLLM, kinds.SGLANG, kinds.OLLAMA, kinds.LLAMA_CPP, kinds.TGI):
        section = TEXT.split(f"\n## {kind.name}\n")[1].split("\n## ")[0]
        assert "```yaml" in section
        assert kind.health in section
        assert kind.version in section
    assert len(ENTRIES) == 6


def test_the_defaults_that_are_shown_are_the_defaults() -> None:
    shown = LoadSettings()
    assert f"every_s: {shown.every_s:g}, timeout_s: {shown.timeout_s:g}, stale_s: {shown.stale_s:g}" in TEXT


def test_the_prices_of_a_dry_run_are_described() -> None:
    (text,) = re.findall(r"^```json\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    document = openapi.document()
    schema = document["components"]["schemas"]["Decision"]["properties"]["prices"]
    validate(json.loads(text)["prices"], schema)
