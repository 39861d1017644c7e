"""What docs/routes.md shows is what the gateway takes and answers."""

import json
import re
from pathlib import Path

import pytest
import yaml

from llmrouter.exceptions import ConfigError
from service.settings import Settings, parse_settings

PAGE = (Path(__file__).parents[3] / "docs" / "routes.md").read_text()
POOL = [{"name": name, "base_url": "http://a/v1", "price": {"input": 1, "output": 1}} for name in ("large", "small")]
POOL += [{**POOL[0], "name": name} for name in ("local", "picker")]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def settings_of(tree: object) -> Settings:
    return parse_settings(yaml.safe_dump(tree), source="config.yaml", environment={})


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put what the examples name into the working directory."""
    monkeypatch.chdir(tmp_path)
    first = yaml.safe_load(blocks("yaml")[0])
    Path("routes.yaml").write_text(yaml.safe_dump(first["router"]["routes"]))
    labels = [{"text": "Hello", "route": "small_talk"}, {"text": "Cook a soup", "route": "other"}]
    Path("labels.jsonl").write_text("".join(json.dumps(label) + "\n" for label in labels))


@pytest.mark.usefixtures("files")
def test_every_configuration_of_the_page_is_taken() -> None:
    shown = [settings_of({"pool": POOL, **yaml.safe_load(text)}) for text in blocks("yaml")]
    assert [one.router.picks_by.kind for one in shown] == ["embedding", "model", "classifier"]
    assert all(
        [route.name for route in one.router.routes or ()] == ["code", "patient_records", "small_talk"] for one in shown
    )
    assert "picker" not in [card.name for card in shown[1].cards]


def test_the_error_of_the_page_is_the_gateways() -> None:
    routes = [
        {"name": "code", "description": "Code", "models": ["lrge"]},
        {"name": "talk", "description": "", "models": ["small"]},
    ]
    with pytest.raises(ConfigError) as caught:
        settings_of({"pool": POOL[:2], "router": {"routes": routes}})
    (shown,) = blocks("text")
    for line, expected in zip(str(caught.value).splitlines(), shown.splitlines(), strict=True):
        assert line.startswith(expected.removesuffix("..."))


def test_every_key_is_in_the_tables_or_the_examples() -> None:
    from service.picking.settings import ChooserSettings, RouteSettings

    for key in RouteSettings.model_fields:
        assert f"| `{key}` |" in PAGE
    for key in ChooserSettings.model_fields:
        assert key in PAGE or key == "instructions", key
