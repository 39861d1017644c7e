"""The report page: its sections, that its figures are the result's, that it makes no request, degenerate results."""

import base64
import dataclasses
import hashlib
import html.parser
import json
import math
import re

import numpy as np
import pytest

from llmrouter.evaluation import Cell, ProtocolResult, evaluate, render_page
from llmrouter.evaluation._format import FEW, contenders, number, share
from llmrouter.evaluation._page._columns import COLUMNS, GROUPS
from llmrouter.evaluation._page._figure import make_scenes
from llmrouter.evaluation._page._points import matched_point
from llmrouter.evaluation._page._savings import savings
from llmrouter.evaluation._scene import COLOURS, GHOST, build_scene

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&\"'$x$"
MANY = {f"knn {k}": f"knn:k={k}" for k in (3, 5, 7, 9, 11, 13, 15, 20, 25, 30, 40)}


class Page(html.parser.HTMLParser):
    """Checks that tags nest, and keeps attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.texts, self.scripts = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in {"meta", "br", "input"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self):
        """All text outside scripts and styles, without line breaks."""
        return " ".join(" ".join(self.texts).split())

    def having(self, name):
        """Elements with an attribute."""
        return [attributes for _, attributes in self.elements if name in attributes]


@pytest.fixture(scope="module")
def result(topics):
    table, X = topics
    tasks = tuple("even" if row % 4 == 0 else "odd" for row in range(len(table)))
    return evaluate(dataclasses.replace(table, tasks=tasks), X, routers=MANY, resamples=40)


@pytest.fixture(scope="module")
def page(result):
    return Page(render_page(result))


def test_every_section_is_there_and_linked(page):
    links = [attributes["href"] for tag, attributes in page.elements if tag == "a"]
    ids = [attributes["id"] for attributes in page.having("id")]
    assert len(ids) == len(set(ids))
    sections = ["leaderboard", "tasks", "errors", "calibration-section", "points-section", "models-section"]
    assert links == [f"#{name}" for name in [*sections, "provenance-section"]]
    assert {link[1:] for link in links} <= set(ids)
    for title in ("Leaderboard", "Quality by task", "Where the router goes wrong", "Operating points", "Models"):
        assert title in page.texts


def test_the_policy_allows_this_script_and_no_request(result):
    text = render_page(result)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text).group(1)
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL).group(1)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "script-src 'unsafe-inline'" not in policy
    page = Page(text)
    for tag, attributes in page.elements:
        assert tag not in {"img", "link", "iframe", "object", "embed", "form", "base", "image", "use"}
        assert not any(name.startswith("on") for name in attributes)
        assert attributes.get("href", "#").startswith("#")
        assert "src" not in attributes
    assert "http:" not in text
    assert "https:" not in text
    assert "@import" not in text
    assert "innerHTML" not in text


def test_every_router_baseline_and_bound_has_a_toggle(result, page):
    toggles = page.having("data-s")
    boxes = [attributes for attributes in toggles if attributes.get("type") == "checkbox"]
    data = json.loads(page.scripts[0])
    assert sorted(int(box["data-s"]) for box in boxes) == list(range(len(result.routers)))
    assert {router["name"] for router in data["routers"]} == set(result.routers)
    on = [data["routers"][int(box["data-s"])]["name"] for box in boxes if "checked" in box]
    best = [router.name for router in contenders(result)[:FEW]]
    assert on[:FEW] == best
    assert set(on[FEW:]) == {name for name, router in result.routers.items() if router.kind != "router"}
    assert {attributes["value"] for attributes in page.having("name") if attributes["name"] == "axis"} == {
        "linear",
        "log",
    }
    assert all("hidden" in attributes for tag, attributes in page.elements if attributes.get("class") == "tools")


def test_without_a_script_one_plot_is_seen_with_the_best_few(result, page):
    plots = page.having("data-axis")
    assert [("hidden" in plot, plot["tabindex"]) for plot in plots] == [(False, "0"), (True, "0")]
    groups = [attributes for tag, attributes in page.elements if tag == "g" and "data-s" in attributes]
    off = [attributes["data-s"] for attributes in groups if attributes["class"] == "s off"]
    assert len(off) == 2 * (len(MANY) - FEW)
    assert len(groups) == 2 * len(result.routers)


def test_the_points_are_those_of_the_curves(result, page):
    data = json.loads(page.scripts[0])
    assert set(data["axes"]) == {"linear", "log"}
    for place, router in enumerate(data["routers"]):
        curve = result.routers[router["name"]].curve
        qualities = {number(value) for value in curve.mean_quality.tolist()}
        assert {quality for _, quality, _, _ in router["points"]} <= qualities
        for axis in data["axes"].values():
            assert len(axis[place]) == len(router["points"])
            assert all(0 <= x <= 1200 and 0 <= y <= 760 for x, y in axis[place])
        if result.routers[router["name"]].kind == "router":
            distinct = set(zip(curve.mean_cost.tolist(), curve.mean_quality.tolist()))
            assert len(router["points"]) == len(distinct)


def test_the_leaderboard_holds_the_results_figures(result):
    text = render_page(result)
    board = re.search(r'<table class="board".*?</table>', text, re.DOTALL).group(0)
    rows = re.findall(r'<tr><th class="first" scope="row" data-name="([^"]*)">(.*?)</tr>', board)
    assert {name for name, _ in rows} == set(result.routers)
    assert [name for name, _ in rows][: len(MANY)] == [router.name for router in contenders(result)]
    for name, cells in rows:
        router = result.routers[name]
        values = re.findall(r'data-v="([^"]*)"', cells)
        assert float(values[0]) == router.aiq
        shown = re.sub(r"<[^>]*>", " ", cells)
        for value in (number(router.aiq), number(router.peak_quality), share(router.qnc)):
            assert value in shown
        interval = router.intervals.get("aiq_minus_zero")
        if interval is not None:
            assert f"[{number(interval.low, signed=True)}, {number(interval.high, signed=True)}]" in shown
    kinds = re.findall(r'scope="rowgroup">(\w+)<', board)
    assert kinds == ["Routers", "Baselines", "Bounds"]


def test_every_metric_has_a_column_a_definition_and_a_group(result, page):
    known = {column.name for column in COLUMNS}
    metrics = {name for router in result.routers.values() for name in router.metrics}
    assert metrics - known == {"oracle_independent"}
    assert {column.group for column in COLUMNS} <= {group.identity for group in GROUPS}
    for column in COLUMNS:
        assert column.definition in page.texts
    folds = {attributes["data-group"] for attributes in page.having("data-group")}
    assert {"headline", "routerbench", "routellm", "uniroute", "arena", "lrb", "calibration", "speed"} <= folds
    sortable = page.having("aria-sort")
    assert [int(head["data-column"]) for head in sortable] == list(range(len(sortable)))
    assert [head["aria-sort"] for head in sortable].count("descending") == 1


def test_a_metric_without_a_definition_is_shown_all_the_same(result):
    routers = {
        name: dataclasses.replace(router, metrics={**router.metrics, "<new>": 0.123456})
        for name, router in result.routers.items()
    }
    text = render_page(dataclasses.replace(result, routers=routers))
    assert "&lt;new&gt;" in text
    assert "<new>" not in text
    assert "0.1235" in text


def test_the_headline_says_what_is_saved_and_whether_it_is_significant(result, page):
    best = contenders(result)[0]
    found = savings(best, result)[0]
    text = page.text
    assert f"{best.name} has the highest AIQ of {len(MANY)} routers, policies and flows: {number(best.aiq)}" in text
    assert "significantly above the best mixture of single models" in text
    assert f"At equal quality it saves {share(1 - found.share)} of the cost of org/model-2" in text
    assert f"[{share(1 - found.high)}, {share(1 - found.low)}]" in text
    assert "chosen in hindsight" in text
    assert f"The oracle, which knows every outcome, reaches {number(result.routers['oracle'].peak_quality)}" in text


def test_outcome_classes_and_worst_prompts_are_by_id(result, page):
    text = page.text
    for title in ("optimal", "too dear", "too cheap", "dear and wrong", "none correct"):
        assert title in page.texts
    assert "Chosen model (rows) against the cheapest best model (columns)" in text
    shown = [identity for identity in result.prompt_ids if identity in page.texts]
    best = contenders(result)[0]
    lost = result.quality.max(axis=1) > best.curve.quality[matched_point(best, result)]
    assert 0 < len(shown) <= 20
    assert shown
    assert lost.any()
    assert "secret prompt" not in text


def test_calibration_gives_both_errors_with_counts(result, page):
    best = contenders(result)[0]
    text = page.text
    assert f"ECE {number(best.calibration.ece)} over {int(best.calibration.count.sum()):,} predictions" in text
    assert f"over the {len(result.prompt_ids)} chosen" in text


def test_kinds_are_kept_apart(result):
    kinds = {"knn 3": "policy", "knn 5": "flow"}
    routers = {
        name: dataclasses.replace(router, kind=kinds.get(name, router.kind)) for name, router in result.routers.items()
    }
    text = render_page(dataclasses.replace(result, routers=routers))
    assert re.findall(r'scope="rowgroup">(\w+)<', text) == ["Routers", "Policies", "Flows", "Baselines", "Bounds"]
    assert Page(text).text.count("11 routers, policies and flows") == 1


def test_hostile_names_everywhere(table_of):
    quality = np.array([[0.2, 0.9], [0.4, 0.8], [0.1, 0.7], [0.3, 0.6]] * 4)
    table = table_of(quality, [1.0, 2.0], name=HOSTILE, models=[HOSTILE, "plain"])
    table = dataclasses.replace(table, tasks=(HOSTILE,) * 16, prompt_ids=tuple(f"{HOSTILE}{row}" for row in range(16)))
    found = evaluate(table, np.eye(16), routers={HOSTILE: "knn:k=2"}, resamples=5, context={HOSTILE: HOSTILE})
    protocol = ProtocolResult(
        HOSTILE,
        {"name": HOSTILE, "sha256": HOSTILE},
        (Cell(HOSTILE, HOSTILE, {HOSTILE: HOSTILE}, (0.5, math.nan), (0, 1)),),
        {HOSTILE: {HOSTILE: [HOSTILE]}},
        notes=(HOSTILE,),
    )
    text = render_page(found, protocols=[protocol])
    page = Page(text)
    assert {tag for tag, _ in page.elements}.isdisjoint({"img"})
    assert text.count("<script") == 2
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert HOSTILE in page.texts
    assert json.loads(page.scripts[0])["routers"][0]["name"] == HOSTILE


# protocols


def cells(axis, values, figures, routers=("a", "zero", "best-single")):
    return tuple(
        Cell(router, figure, {axis: value}, (0.1 * place + 0.5, 0.1 * place + 0.6), (0, 1))
        for place, value in enumerate(values)
        for router in routers
        for figure in figures
    )


def protocol_page(result, protocol, found, **data):
    described = {"name": "made-up", "sha256": result.data["sha256"], **data}
    return Page(render_page(result, protocols=[ProtocolResult(protocol, described, found, {"draws": 2})]))


@pytest.mark.parametrize(
    ("protocol", "found", "texts"),
    [
        (
            "new-models",
            cells("scored", (0, 20, 100, "all"), ("aiq", "share_of_gain"), routers=("a",)),
            ["New models", "share of the AIQ gain", "known from the start", "scored prompts"],
        ),
        ("learning-curve", cells("train_prompts", (50, 100), ("aiq", "quality")), ["Learning curves", "train prompts"]),
        (
            "ood",
            cells("held_out", ("x", "every group"), ("aiq_minus_zero", "aiq_lost")),
            ["Out of distribution", "AIQ lost", "+0.5500"],
        ),
        ("splits", cells("test_share", (0.3,), ("aiq",)), ["Random splits", "0.3"]),
        ("missing", cells("models_per_prompt", (1, 3), ("aiq",)), ["Missing outcomes", "models per train prompt"]),
    ],
)
def test_protocols_have_a_section(result, protocol, found, texts):
    page = protocol_page(result, protocol, found)
    for text in texts:
        assert any(text in piece for piece in page.texts), text
    assert ("a", {"href": "#protocol-1"}) in page.elements
    assert number(0.55) in page.text
    assert "Not the data of this page" not in page.text
    tracks = [attributes for tag, attributes in page.elements if "against" in attributes.get("aria-label", "")]
    assert bool(tracks) == (protocol not in ("ood", "splits"))


def test_a_protocol_of_other_data_says_so(result):
    page = protocol_page(result, "splits", cells("test_share", (0.3,), ("aiq",)), sha256="other", name="elsewhere")
    assert "Not the data of this page" in page.text
    assert "Random splits (elsewhere)" in page.texts


def test_an_unknown_protocol_of_nothing_is_a_table(result):
    page = protocol_page(result, "tomorrow", (Cell("a", "f", {"x": None}, (math.nan,), (0,)),))
    assert "tomorrow" in page.texts
    assert protocol_page(result, "new-models", ()).text


# degenerate results


def two_models(table_of, quality, cost, **options):
    return evaluate(table_of(quality, cost), None, resamples=5, **options)


@pytest.mark.parametrize(
    ("quality", "cost"),
    [
        ([[0.5]] * 6, [1.0]),
        ([[0.9, 0.5]] * 6, [1.0, 2.0]),
        ([[0.5, 0.9]] * 6, [0.0, 0.0]),
        ([[0.5, 0.9]] * 6, [1.0, 1.0]),
        ([[0.0, 0.0]] * 6, [1.0, 2.0]),
        ([[1.0, 1.0]] * 6, [1.0, 2.0]),
        ([[0.5, 0.9]] * 6, [0.0, 1.0]),
    ],
)
@pytest.mark.parametrize("resamples", [0, 5])
def test_degenerate_results_with_a_router(table_of, quality, cost, resamples):
    n = len(quality)
    result = evaluate(table_of(quality, cost), np.eye(n), routers=["knn:k=1"], resamples=resamples)
    page = Page(render_page(result))
    assert "Leaderboard" in page.texts
    assert "nan" not in page.text.lower().split()
    assert "The data set names no tasks." in page.texts
    assert json.loads(page.scripts[0])["routers"]


def test_undefined_aiq_is_told(table_of):
    result = evaluate(table_of([[0.9, 0.5]] * 6, [1.0, 2.0]), np.eye(6), routers=["knn:k=1"], resamples=5)
    assert math.isnan(result.routers["knn:k=1"].aiq)
    page = Page(render_page(result))
    assert "AIQ is undefined here" in page.text
    assert "Why some figures are undefined" in page.texts


def test_no_router_at_all(table_of):
    page = Page(render_page(two_models(table_of, [[0.2, 0.9]] * 6, [1.0, 2.0])))
    assert "No router was evaluated: baselines and bounds only." in page.texts
    assert "Where the router goes wrong" not in page.text


def test_a_result_without_metrics_tasks_or_calibration(result):
    routers = {
        name: dataclasses.replace(
            router, metrics={}, undefined={}, calibration=None, model_calibration={}, intervals={}, operating_points=()
        )
        for name, router in result.routers.items()
    }
    bare = dataclasses.replace(result, routers=routers, tasks=(), train_quality_mean=None)
    page = Page(render_page(bare))
    assert "Calibration of the predicted quality" not in page.texts
    assert "The data set names no tasks." in page.texts


def test_choices_that_are_averages(result):
    router = result.routers["knn 15"]
    blurred = dataclasses.replace(router, curve=dataclasses.replace(router.curve, choices=None))
    references = {name: router for name, router in result.routers.items() if router.kind != "router"}
    routers = {**references, "knn 15": blurred}
    page = Page(render_page(dataclasses.replace(result, routers=routers)))
    assert "Regret by task" in page.texts
    assert "Chosen model (rows)" not in page.text


# the still picture


def test_the_picture_names_the_best_few_and_greys_the_rest(result):
    scene = build_scene(result)
    shown = [series for series in scene.series if series.shown and series.kind == "router"]
    assert {series.name for series in shown} == {router.name for router in contenders(result)[:FEW]}
    assert sorted(series.colour for series in shown) == sorted(COLOURS)
    assert sum(line.colour == GHOST for line in scene.lines) == len(MANY) - FEW
    titles = [text.text for text in scene.texts]
    assert all(series.title in titles for series in shown)
    assert f"the {FEW} best of {len(MANY)} routers in colour" in " ".join(titles)
    hidden = [series for series in scene.series if not series.shown]
    assert all(series.curve.dash for series in hidden)


def test_everything_lies_inside_the_picture_on_both_axes(result):
    for scene in make_scenes(result).values():
        for line in scene.lines:
            assert all(0 <= x <= 1200 and 0 <= y <= 760 for x, y in line.points)
        for series in scene.series:
            assert series.curve is None or all(84 <= x <= 981 for x, _ in series.curve.points)


def test_long_names_are_cut_to_the_room_beside_the_plot(topics):
    table, X = topics
    scene = build_scene(evaluate(table, X, routers={"x" * 80: "knn:k=5"}, resamples=0))
    (series,) = [series for series in scene.series if series.kind == "router"]
    assert series.name == "x" * 80
    assert series.title.endswith("…")
    assert len(series.title) < 25
