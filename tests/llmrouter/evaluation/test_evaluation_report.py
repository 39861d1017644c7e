"""Reports: pinned JSON, decisions without prompts, an escaped page, a picture, a table."""

import dataclasses
import html.parser
import json
import re
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from llmrouter.evaluation import evaluate, format_result, render_page, results_as_json, write_report
from llmrouter.evaluation._format import plain_number
from llmrouter.evaluation._labels import overlap, place_labels
from llmrouter.evaluation._scene import build_scene
from llmrouter.exceptions import DataError

HOSTILE = '</script><script>alert(1)</script>&"$x$'


@pytest.fixture(scope="module")
def result(topics):
    table, X = topics
    return evaluate(table, X, routers=["knn:k=15"], resamples=50)


@pytest.fixture(scope="module")
def folder(result, tmp_path_factory):
    target = tmp_path_factory.mktemp("report") / "new"
    write_report(result, target)
    return target


def test_pinned_results_json(folder, result):
    found = json.loads((folder / "results.json").read_text())
    knn = found["routers"]["knn:k=15"]
    assert {"aiq", "aiq_code", "qnc", "peak_quality", "intervals"} <= set(knn)
    assert knn["aiq"] == result.routers["knn:k=15"].aiq
    differences = {"aiq_minus_zero", "aiq_minus_best_single", "quality_minus_best_single"}
    assert set(knn["intervals"]) == {"aiq", "quality", *differences}
    assert set(knn["intervals"]["aiq"]) == {"estimate", "low", "high", "level", "undefined"}
    assert found["settings"]["seed"] == 0
    assert found["versions"]["numpy"] == np.__version__
    assert found["data"]["sha256"] == result.data["sha256"]
    assert found["cost"]["interval"] == list(result.cost_interval)
    assert len(knn["curve"]["cost"]) == 75


def test_json_has_no_nan_or_infinity(table_of):
    values = results_as_json(evaluate(table_of([[0.9, 0.5]] * 6, [1.0, 2.0]), None, resamples=5))
    text = json.dumps(values, allow_nan=False)
    assert values["routers"]["zero"]["aiq"] is None
    assert "AIQ is undefined" in text


def test_decisions_hold_ids_choices_and_outcomes(folder, result):
    table = pq.read_table(folder / "decisions.parquet")
    assert table.column_names == [
        "prompt_id",
        "router",
        "cost_weight",
        "model",
        "expected_quality",
        "expected_cost",
        "quality",
        "cost",
    ]
    rows = [row for row in table.to_pylist() if row["router"] == "knn:k=15" and row["cost_weight"] == 0]
    router = result.routers["knn:k=15"]
    assert [row["prompt_id"] for row in rows] == list(result.prompt_ids)
    assert [row["model"] for row in rows] == [result.models[column] for column in router.curve.choices[0]]
    assert np.mean([row["quality"] for row in rows]) == pytest.approx(router.curve.mean_quality[0])
    columns = router.curve.choices[0].astype(int)
    assert [row["expected_quality"] for row in rows] == pytest.approx(
        router.expected_quality[np.arange(len(rows)), columns].tolist()
    )
    assert {"best-single", "cheapest", "oracle"} <= set(table.column("router").to_pylist())


def test_no_file_holds_a_prompt(folder):
    for path in folder.iterdir():
        assert b"secret prompt" not in path.read_bytes()


def test_png_is_a_picture(folder):
    data = (folder / "curve.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(data[16:20]) == 2400


class Outline(html.parser.HTMLParser):
    """Collects elements and attributes."""

    def __init__(self):
        super().__init__()
        self.tags, self.links, self.open, self.ids = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in {"src", "href", "action", "srcset", "data", "poster"}]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in {"meta", "br", "input"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)


def test_page_is_well_formed_and_self_contained(folder):
    page = (folder / "report.html").read_text()
    outline = Outline()
    outline.feed(page)
    assert outline.open == []
    assert len(set(outline.ids)) == len(outline.ids)
    assert {f"#{identity}" for identity in outline.ids} >= set(outline.links)
    assert "url(" not in page
    assert "http:" not in page
    assert "https:" not in page
    assert "svg" in outline.tags
    assert "default-src 'none'" in page


def test_page_escapes_every_name(table_of):
    quality = np.array([[0.2, 0.9], [0.4, 0.8], [0.1, 0.7], [0.3, 0.6]] * 4)
    table = table_of(quality, [1.0, 2.0], name=HOSTILE, models=[HOSTILE, "plain"])
    result = evaluate(table, np.eye(16), routers={HOSTILE: "knn:k=2"}, resamples=5, context={HOSTILE: HOSTILE})
    page = render_page(result)
    assert "<script>alert" not in page
    assert page.count("</script>") == 2
    block = re.search(r'id="points">(.*?)</script>', page, re.DOTALL).group(1)
    assert not set("<>&") & set(block)
    points = json.loads(block)
    assert points["routers"][0]["name"] == HOSTILE
    assert HOSTILE.rsplit("/", 1)[-1] in points["models"]
    outline = Outline()
    outline.feed(page)
    assert outline.open == []


def test_hostile_names_can_be_drawn_and_written(table_of, tmp_path):
    table = table_of([[0.2, 0.9], [0.4, 0.8]] * 4, [1.0, 2.0], name=HOSTILE, models=[HOSTILE, "$\\frac{"])
    paths = write_report(evaluate(table, None, resamples=0), tmp_path)
    assert all(path.stat().st_size > 0 for path in paths)


@pytest.mark.parametrize("cost", [[1.0, 1.0], [0.0, 0.0], [0.0, 1.0], [1.0, 5000.0], [1e-9, 1e-3]])
def test_every_cost_scale_can_be_drawn(table_of, cost, tmp_path):
    result = evaluate(table_of([[0.5, 0.9], [0.5, 0.7]] * 4, cost), None, resamples=0)
    for x, y in [(mark.x, mark.y) for mark in build_scene(result).marks]:
        assert 0 <= x <= 1200
        assert 0 <= y <= 760
    assert len(write_report(result, tmp_path)) == 4


def test_constant_quality_can_be_drawn(table_of):
    assert build_scene(evaluate(table_of([[0.5, 0.5]] * 6, [1.0, 2.0]), None, resamples=0)).lines


def test_an_unwritable_folder_is_a_data_error(result, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="cannot write the report"):
        write_report(result, tmp_path / "file")


def test_terminal_table_is_aligned_ascii(result):
    text = format_result(result)
    assert text.isascii()
    lines = text.splitlines()
    rule = next(index for index, line in enumerate(lines) if line.startswith("---"))
    table = lines[rule - 1 : rule + 1 + len(result.routers)]
    ends = [match.end() for match in re.finditer("-+", table[1])]
    for line in [table[0], *table[2:]]:
        assert len(line) == len(table[1])
        for end in ends[1:]:
            assert line[end - 1] != " "
    assert "knn:k=15 reaches the quality of org/model-2" in text
    assert max(map(len, lines[rule:])) <= 160


def test_the_terminal_tells_what_tuning_chose_and_of_many_routers_the_best_few(topics):
    table, X = topics
    found = evaluate(table, X, routers=[f"knn:k={k}" for k in range(1, 9)], resamples=0)
    tuned = dataclasses.replace(
        found.routers["knn:k=1"], tuning={"folds": 5}, parameters={"penalty": None, "length": 0.5, "flag": True}
    )
    text = format_result(dataclasses.replace(found, routers={**found.routers, "knn:k=1": tuned}))
    assert "knn:k=1 was tuned on train: penalty=None, length=0.5, flag=True." in text
    assert text.count("reaches the quality of") == 6
    assert "2 more are in the report" in text


def test_labels_cover_neither_points_nor_each_other():
    random = np.random.default_rng(0)
    anchors = [(x, y, f"model-{i}") for i, (x, y) in enumerate(random.uniform(50, 750, size=(25, 2)).tolist())]
    labels = place_labels(anchors, bounds=(0, 0, 900, 800), font_size=13)
    boxes = [label.box for label in labels]
    for index, box in enumerate(boxes):
        assert box[0] >= 0
        assert box[2] <= 900
        assert all(overlap(box, other) == 0 for other in boxes[:index])
        assert all(overlap(box, (x - 4, y - 4, x + 4, y + 4)) == 0 for x, y, _ in anchors)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (4.967, "4.97"), (0.0812, "0.0812"), (12345.6, "12,346"), (0.1, "0.100")]
)
def test_plain_number(value, text):
    assert plain_number(value) == text


def test_import_is_light():
    code = (
        "import sys, llmrouter.evaluation; "
        "print([m for m in ('torch', 'sklearn', 'pyarrow', 'matplotlib', 'faiss', 'litellm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
