"""Training: what is chosen, what is written, and logs that cannot be replayed."""

import json

import numpy as np
import pytest

from llmrouter import artifact
from llmrouter.exceptions import ArtifactError, DataError
from llmrouter.learning import current_artifact, rollback_artifact
from llmrouter.outcomes import OutcomeTable
from llmrouter.types import ModelCard, Price, RoutingRequest
from training.train import UNTUNED, train

PRICES = (Price(1.0, 1.0), Price(5.0, 5.0))
WORDS = ("apple", "river", "stone", "cloud", "tiger")


def table(n=60, *, splits=("train", "test"), one_armed=False, texts=True):
    rng = np.random.default_rng(0)
    numeric = rng.random(n) < 0.5
    prompts = [f"What is {i} plus {i + 3}?" if flag else f"Spell {WORDS[i % 5]} {i}" for i, flag in enumerate(numeric)]
    quality = np.stack([(~numeric).astype(float), np.ones(n)], axis=1)
    if one_armed:
        hidden = rng.integers(0, 2, n)
        quality[np.arange(n), hidden] = np.nan
    tokens = np.full((n, 2), 8.0)
    cost = (tokens * 2 * [price.input for price in PRICES]) / 1e6
    cost[np.isnan(quality)] = np.nan
    return OutcomeTable(
        prompt_ids=tuple(f"p{i}" for i in range(n)),
        models=("small", "large"),
        texts=tuple(prompts) if texts else (None,) * n,
        tasks=(None,) * n,
        splits=tuple(splits[i % len(splits)] for i in range(n)),
        quality=quality,
        cost_usd=cost,
        input_tokens=tokens,
        output_tokens=tokens,
        propensity=np.where(np.isnan(quality), np.nan, 1.0),
        prices=PRICES,
        name="toy",
    )


def test_artifact_carries_its_evaluation_and_routes(tmp_path):
    trained = train(table(), tmp_path, router="knn", encoder="static", say=lambda line: None)
    assert (tmp_path / "current").resolve() == trained.folder
    document = json.loads((trained.folder / "evaluation.json").read_text())
    assert set(document["routers"]) >= {"knn", "zero", "oracle", "best-single", "random"}
    assert document["routers"]["knn"]["parameters"] == dict(trained.parameters)
    cards = [ModelCard(name, price) for name, price in zip(("small", "large"), PRICES)]
    engine = artifact.load(trained.folder, cards)
    assert engine.route(RoutingRequest("Spell cloud 7", prompt_tokens=3)).model == "small"
    assert engine.route(RoutingRequest("What is 5 plus 9?", prompt_tokens=5)).model == "large"


def test_training_is_reproducible(tmp_path):
    first, second = (train(table(), tmp_path / name, router="knn:k=5", say=lambda line: None) for name in "ab")
    assert first.folder.name == second.folder.name
    ours, theirs = (artifact.read_manifest(found.folder)["files"] for found in (first, second))
    assert {name for name in ours if ours[name] != theirs[name]} <= {"evaluation.json"}  # it holds timings


def test_without_a_test_split_parameters_are_tuned_on_train(tmp_path):
    lines = []
    trained = train(table(splits=("train",)), tmp_path, router="knn", promote=False, say=lines.append)
    assert trained.evaluation is None
    assert trained.parameters["k"] in range(5, 60)
    assert not (tmp_path / "current").exists()
    assert any("not evaluated" in line for line in lines)


def test_a_one_armed_log_is_trained_on_with_strong_smoothing(tmp_path):
    lines = []
    trained = train(table(one_armed=True), tmp_path, router="knn", say=lines.append)
    assert dict(trained.parameters) == {"k": 100, "shrinkage": 5.0}
    assert UNTUNED["knn"] == "knn:k=100,shrinkage=5.0"
    assert any("not evaluated" in line for line in lines)
    assert any("not tuned" in line for line in lines)


@pytest.mark.parametrize(
    ("outcomes", "match"),
    [(table(texts=False), "no text"), (table(splits=("test",)), "no train split")],
)
def test_what_cannot_be_trained_on(tmp_path, outcomes, match):
    with pytest.raises(DataError, match=match):
        train(outcomes, tmp_path, say=lambda line: None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("router", ["stack", "knn:k=5"])
def test_too_few_judged_prompts(tmp_path, router):
    with pytest.raises(
        DataError, match="toy has 4 prompts with a quality in its train split; training needs 5 at least"
    ):
        train(table(4, splits=("train",)), tmp_path, router=router, say=lambda line: None)
    assert list(tmp_path.iterdir()) == []
    assert train(table(5, splits=("train",)), tmp_path, router=router, say=lambda line: None).folder.is_dir()


def test_nothing_judged(tmp_path):
    unjudged = table()
    unjudged.quality[:] = np.nan
    with pytest.raises(DataError, match="has 0 prompts with a quality"):
        train(unjudged, tmp_path, say=lambda line: None)


def test_a_place_that_cannot_be_written_is_told_before_the_fit(tmp_path):
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        lines = []
        with pytest.raises(ArtifactError, match=f"cannot write artifacts into {place}: .*; choose another folder"):
            train(table(), place, say=lines.append)
        assert lines == []


def test_the_way_back_is_known(tmp_path):
    made = [train(table(), tmp_path, router=f"knn:k={k}", say=lambda line: None).folder.name for k in (3, 5, 7)]
    assert current_artifact(tmp_path) == made[2]
    for expected in made[1::-1]:
        assert rollback_artifact(tmp_path).artifact == expected
    assert current_artifact(tmp_path) == made[0]
