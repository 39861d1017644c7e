"""What the guides show is what the gateway takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from pydantic import BaseModel
from starlette.datastructures import Headers

from llmrouter.types import RoutingRequest
from service import configuration_page, openapi
from service.chat import parse_chat
from service.settings import RouterSettings, Settings, build_engine, parse_settings

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
BLOCK = re.compile(r"^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)(?P<target>[^)#\s]*)(?:#(?P<anchor>[^)\s]*))?\)")
ENVIRONMENT = {"OPENAI_API_KEY": "x", "ANTHROPIC_API_KEY": "x"}


def blocks(page: Path, language: str) -> list[str]:
    return [match["text"] for match in BLOCK.finditer(page.read_text()) if match["language"] == language]


def examples() -> list[Any]:
    pages = [DOCS / "serve.md", ROOT / "README.md"]
    found = [(page.name, i, text) for page in pages for i, text in enumerate(blocks(page, "yaml"))]
    return [pytest.param(text, id=f"{name}-{i}") for name, i, text in found]


@pytest.mark.parametrize("text", examples())
def test_every_configuration_that_is_shown_is_right(text: str) -> None:
    settings = parse_settings(text, source="an example", environment=ENVIRONMENT)
    assert settings.pool


@pytest.mark.parametrize("page", [ROOT / "README.md", DOCS / "serve.md"], ids=["README", "serve"])
def test_the_first_pool_that_is_shown_starts_before_anything_was_trained(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = next(text for text in blocks(page, "yaml") if "pool:" in text)
    engine = build_engine(parse_settings(text, source=page.name, environment=ENVIRONMENT))
    assert engine.route(RoutingRequest("What is 12 + 7?", prompt_tokens=8)).model == "small"


def test_there_are_examples() -> None:
    assert len(blocks(DOCS / "serve.md", "yaml")) >= 10


@pytest.mark.parametrize("page", ["security.md", "observability.md", "resilience.md", "learn.md"])
def test_sections_that_other_pages_show_are_right(page: str) -> None:
    shown = 0
    for text in blocks(DOCS / page, "yaml"):
        tree = yaml.safe_load(text)
        if not isinstance(tree, dict) or not tree.keys() <= Settings.model_fields.keys():
            continue
        pool = {"pool": [{"name": "a", "base_url": "http://a/v1", "price": {"input": 1, "output": 1}}]}
        parse_settings(yaml.safe_dump(pool | tree), source=page, environment={"KEY_EAST": "x", "KEY_WEST": "x"})
        shown += 1
    assert shown


def test_the_request_that_is_shown_is_right() -> None:
    (text,) = blocks(DOCS / "serve.md", "json")
    chat = parse_chat(
        orjson.loads(text),
        Headers({}),
        pool=("small", "large"),
        router_name="stack",
        settings=RouterSettings(),
        request_id="req_1",
    )
    assert chat.control.models == ("small",)


def test_every_endpoint_is_in_the_guide() -> None:
    guide = (DOCS / "serve.md").read_text()
    for path in openapi.document()["paths"]:
        assert path in guide or path.startswith("/admin/keys/"), path


def test_every_header_of_an_answer_is_in_the_guide() -> None:
    guide = (DOCS / "serve.md").read_text()
    for name in openapi.document()["components"]["headers"]:
        short = name.removeprefix("x-llmrouter")
        assert f"`{short}`" in guide or name.startswith(("x-ratelimit-", "retry-after", "x-should")), name


def test_the_page_of_the_configuration_is_up_to_date() -> None:
    shown = (DOCS / "configuration.md").read_text()
    assert shown == configuration_page.render(), "run: python -m service.configuration_page > docs/configuration.md"


def test_what_is_said_beside_the_docstrings_is_of_keys_that_exist() -> None:
    for model, name in (*configuration_page._PLAIN, *configuration_page._FILLED_IN):
        assert name in model.model_fields, (model, name)


def test_a_key_without_a_meaning_is_refused() -> None:
    class Silent(BaseModel):
        key: int = 1

    part = configuration_page._Part(Silent, ["silent"])
    words = configuration_page._Words({}, {})
    with pytest.raises(ValueError, match=r"Silent\.key"):
        configuration_page._section(part, Silent.model_json_schema(), words)


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted(DOCS.glob("*.md"))], ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for match in LINK.finditer(BLOCK.sub("", page.read_text())):
        target = page if not match["target"] else page.parent / match["target"]
        assert target.exists(), match[0]
        if match["anchor"]:
            titles = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert match["anchor"] in {configuration_page._anchor(title) for title in titles}, match[0]
