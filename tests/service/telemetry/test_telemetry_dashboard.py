"""Dashboard, alert rules and documentation name metrics that exist, with labels that they have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.telemetry.catalogue import FAMILIES, PREFIX, Family

ROOT = Path(__file__).parents[3]
DASHBOARD = ROOT / "service" / "telemetry" / "dashboard.json"
PAGE = ROOT / "docs" / "observability.md"
_METRIC = re.compile(rf"\b{PREFIX}(\w+)(?:\{{([^}}]*)\}})?")
_LABEL = re.compile(r"(\w+)\s*(?:=~|!=|!~|=)")
_GIVEN_BY_PROMETHEUS = {"job", "instance", "le"}


def _family(name: str) -> Family:
    for suffix in ("", "_bucket", "_count", "_sum"):
        family = FAMILIES.get(name.removesuffix(suffix))
        if family is not None and (not suffix or (family.kind == "histogram" and name.endswith(suffix))):
            # The numbers of a histogram are in its parts.
            assert (family.kind == "histogram") == bool(suffix), name
            return family
    raise AssertionError(f"there is no metric {PREFIX}{name}")


def _check(expression: str) -> None:
    families = []
    for name, selector in _METRIC.findall(expression):
        if name == "build_info":
            continue
        family = _family(name)
        families.append(family)
        used = set(_LABEL.findall(selector)) - _GIVEN_BY_PROMETHEUS
        assert used <= set(family.labels), f"{name} has no labels {used - set(family.labels)}"
    known = {label for family in families for label in family.labels} | _GIVEN_BY_PROMETHEUS
    for listed in re.findall(r"\bby \(([^)]*)\)", expression):
        assert {label.strip() for label in listed.split(",")} <= known, expression
    assert expression.count("(") == expression.count(")")


def _rules() -> list[dict[str, Any]]:
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (groups,) = (tree for block in blocks if "groups" in (tree := yaml.safe_load(block)))
    rules: list[dict[str, Any]] = groups["groups"][0]["rules"]
    return rules


def _expressions() -> Iterator[Any]:
    document = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    for panel in document["panels"]:
        for target in panel.get("targets", ()):
            yield pytest.param(target["expr"], id=f"panel {panel['title']} {target['refId']}")
    for annotation in document["annotations"]["list"]:
        yield pytest.param(annotation["expr"], id=f"annotation {annotation['name']}")
    for rule in _rules():
        yield pytest.param(rule["expr"], id=rule["alert"])


@pytest.mark.parametrize("expression", list(_expressions()))
def test_an_expression_names_what_exists(expression: str) -> None:
    _check(expression)


@pytest.mark.parametrize(
    "wrong",
    [
        "llmrouter_request_total",
        'llmrouter_requests_total{key="x"}',
        "sum by (key) (llmrouter_requests_total)",
        "llmrouter_overhead_seconds",
        "llmrouter_requests_total_bucket",
    ],
)
def test_the_check_finds_what_does_not_exist(wrong: str) -> None:
    with pytest.raises(AssertionError):
        _check(wrong)


def test_panels_have_ids_and_places_of_their_own() -> None:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells


def test_the_page_lists_every_metric_with_its_labels() -> None:
    rows = re.findall(r"^\| (`[^|]*`) \|([^|]*)\|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    listed = {name: labels for names, labels in rows for name in re.findall(r"`(\w+)`", names)}
    assert set(listed) == {*FAMILIES, "build_info"}
    for name, family in FAMILIES.items():
        assert tuple(re.findall(r"\w+", listed[name])) == family.labels, name


def test_the_page_shows_the_defaults() -> None:
    from service.telemetry.settings import TelemetrySettings

    block = re.search(r"```yaml\n(telemetry:.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    shown = yaml.safe_load(block[1])["telemetry"]
    assert shown == TelemetrySettings().model_dump()
