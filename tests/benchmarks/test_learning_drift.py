"""The benchmarks of online adaptation, in small: a change is learned, and replicas answer alike."""

import dataclasses
import json

import numpy as np
import pytest

from benchmarks.learning import drift, replicas
from benchmarks.learning._drift_playback import Playback, Scenario
from benchmarks.learning._population import population_of
from benchmarks.learning._result_files import provenance, rounded, write_result
from llmrouter.learning import OnlineParameters
from llmrouter.outcomes import OutcomeTable


class Encoder:
    """Embeddings come with the outcomes; nothing is encoded."""

    fingerprint, dimension = "none-1", 6

    def encode(self, texts, /):
        raise AssertionError(texts)


def population(n=900):
    """Return prompts at which `good` is right nine times in ten, `fair` seven times, at the same price."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 6)).astype(np.float32)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    quality = (rng.random((n, 2)) < [0.9, 0.7]).astype(float)
    unknown = np.full((n, 2), np.nan)
    table = OutcomeTable(
        prompt_ids=tuple(f"p{i}" for i in range(n)),
        models=("good", "fair"),
        texts=(None,) * n,
        tasks=(None,) * n,
        splits=("train",) * n,
        quality=quality,
        cost_usd=np.full((n, 2), 0.01),
        input_tokens=unknown,
        output_tokens=unknown,
        propensity=np.ones((n, 2)),
        prices=(None, None),
        name="small",
    )
    rows = np.arange(n)
    about = {"data": "small", "scored_prompts": 200, "scored_split": "the last 200"}
    return population_of(table, X, traffic=rows[:-200], scored=rows[-200:], axis="usd", about=about)


SMALL = Scenario(before=150, after=300, each=50)


def test_a_change_is_learned_and_told_and_calm_traffic_stays_as_it_is():
    people = population()
    worse = Playback(people, Encoder(), spec="ridge", scenario=SMALL, seed=0)
    course = worse.run(OnlineParameters())
    assert course.changed == "good"
    before, after = course.requests <= 0, course.requests > 0
    assert np.allclose(course.frozen[before], course.informed[before])
    assert course.informed[after].min() > course.frozen[after].max() + 0.05
    assert course.adapted[-1] > course.frozen[-1] + 0.3 * (course.informed[-1] - course.frozen[-1])  # it is bounded
    assert any(model == "good" and side == "worse" and at > 0 for at, model, side in worse.alarms_as_trained())
    calm = Playback(
        people, Encoder(), spec="ridge", scenario=dataclasses.replace(SMALL, kind="none"), seed=0, like=worse
    )
    assert calm.engine is worse.engine
    course = calm.run(OnlineParameters())
    assert course.changed == ""
    assert np.array_equal(course.frozen, course.informed)
    assert course.adapted.min() > course.frozen.min() - 0.03
    assert calm.alarms_as_trained() == []


def test_what_gets_better_is_the_model_that_it_makes_a_difference_for():
    playback = Playback(
        population(),
        Encoder(),
        spec="ridge",
        scenario=dataclasses.replace(SMALL, kind="better", explore=0.3),
        seed=0,
    )
    course = playback.run(OnlineParameters())
    assert course.changed == "fair"
    assert course.informed[-1] > course.frozen[-1]


def test_every_figure_of_the_page_is_in_the_file(tmp_path):
    people = population()
    rows = drift.run(people, Encoder(), routers=["ridge"], seeds=2, before=100, after=150)
    assert [row["kind"] for row in rows] == ["worse", "better", "none"]
    worse = rows[0]
    assert worse["regret"]["frozen"] > worse["regret"]["adapted"]
    assert worse["requests"][-1] == 150
    document = {
        **provenance("python -m benchmarks.learning drift"),
        "about": people.about,
        "scenario": dataclasses.asdict(SMALL),
        "seeds": 2,
        "rows": rows,
    }
    write_result(tmp_path, "drift", document, drift.page(document))
    drift.plot(document, tmp_path / "drift.png")
    assert (tmp_path / "drift.png").stat().st_size > 10_000
    kept = json.loads((tmp_path / "drift.json").read_text())
    assert kept["rows"] == rounded(rows)
    page = (tmp_path / "drift.md").read_text()
    gain = worse["adapted"][worse["requests"].index(100)] - worse["frozen"][worse["requests"].index(100)]
    assert f"| ridge | residuals | worse | {gain:+.3f} |" in page
    assert "`python -m benchmarks.learning drift`" in page


@pytest.mark.slow
def test_replicas_on_one_redis_stream_answer_alike(tmp_path):
    """Three gateway processes, one of them killed in between; every dry run the same to the byte."""
    result = replicas.run(replicas.Plan(outcomes=45, prompts=60), tmp_path / "run")
    assert result["different_live"] == result["different_after_kill"] == 0
    assert result["answers_changed_by_learning"] > 0
    assert set(result["events"].values()) == {45}
    assert result["met"]
    assert "1 dry runs identically: met" in replicas.page({**result, "prompts": 1})


def test_a_difference_between_replicas_is_a_missed_target():
    result = {
        "prompts": 10,
        "outcomes": 5,
        "different_live": 1,
        "different_after_kill": 0,
        "answers_changed_by_learning": 3,
        "models_changed_by_learning": 1,
        "settled_s": 1.0,
        "met": False,
    }
    assert "**missed**" in replicas.page(result)
