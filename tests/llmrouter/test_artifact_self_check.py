"""An artifact whose routers are read otherwise than they were written is refused."""

import dataclasses
import hashlib
import json
import shutil

import numpy as np
import pytest

from llmrouter import artifact
from llmrouter.encoders import load_encoder
from llmrouter.evaluation import prepare
from llmrouter.exceptions import ArtifactCorruptError
from llmrouter.outcomes import OutcomeTable
from llmrouter.routers import KNNRouter
from llmrouter.types import ModelCard, Price
from training.train import calibration_of, fit

MODELS = ("alpha", "beta")
CARDS = tuple(ModelCard(model, Price(1.0, 2.0)) for model in MODELS)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An artifact with held-out estimates, as training makes it."""
    n = 60
    texts = tuple(f"What is {i} plus {i + 3}?" if i % 2 else f"Write the word number{i} backwards" for i in range(n))
    odd = np.arange(n) % 2
    table = OutcomeTable(
        prompt_ids=tuple(f"p{i}" for i in range(n)),
        models=MODELS,
        texts=texts,
        tasks=(None,) * n,
        splits=("train",) * n,
        quality=np.stack([odd, 1 - odd], axis=1).astype(float),
        cost_usd=np.full((n, 2), 2e-5),
        input_tokens=np.full((n, 2), 8.0),
        output_tokens=np.tile([4.0, 9.0], (n, 1)),
        propensity=np.ones((n, 2)),
        prices=(Price(1.0, 2.0), Price(1.0, 2.0)),
        name="sums and words",
    )
    encoder = load_encoder("static")
    X = encoder.encode(texts)
    ready = prepare("knn:k=5", table, X, crossed=True)
    learned = fit(table, X, name="knn", parameters={"k": 5}, calibration=calibration_of(ready, table, X))
    return save(learned, tmp_path_factory.mktemp("artifacts"))


def save(trained, folder):
    spec = artifact.EncoderSpec("static", {}, load_encoder("static").fingerprint)
    return artifact.save(trained, folder, encoder=spec, training={})


def rewritten(made, folder, change):
    """Return a copy whose samples are changed, and whose hashes fit."""
    copy = save(artifact.load(made, CARDS).trained, folder)
    path = copy / "selfcheck.json"
    document = change(json.loads(path.read_text()))
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"]["selfcheck.json"] = hashlib.sha256(path.read_bytes()).hexdigest()
    content = {key: value for key, value in manifest.items() if key != "id"}
    manifest["id"] = f"knn-{artifact._digest(content)}"
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


def test_training_leaves_samples_and_they_pass(made):
    trained = artifact.load(made, CARDS).trained
    count = artifact.self_check(made, trained)
    assert 1 <= count <= 32
    document = json.loads((made / "selfcheck.json").read_text())
    assert np.array(document["quality"]).shape == np.array(document["cost"]).shape == (count, 2)
    assert "plus" not in (made / "selfcheck.json").read_text(), "embeddings, no texts"


def test_code_that_computes_otherwise_is_refused(made, monkeypatch):
    predict = KNNRouter.predict
    monkeypatch.setattr(KNNRouter, "predict", lambda self, X: predict(self, X) + 1e-4)
    with pytest.raises(ArtifactCorruptError, match="fails its self-check: for sample 0 the quality router expects"):
        artifact.load(made, CARDS)
    monkeypatch.setattr(KNNRouter, "predict", lambda self, X: predict(self, X) + 1e-9)
    assert artifact.load(made, CARDS).artifact_id == made.name


@pytest.mark.parametrize("label", ["quality", "cost"])
def test_one_value_that_differs_is_named(made, tmp_path, label):
    def change(document):
        document[label][2][1] += 0.01
        return document

    copy = rewritten(made, tmp_path, change)
    with pytest.raises(ArtifactCorruptError, match=f"sample 2 the {label} router expects .* of 'beta'"):
        artifact.load(copy, CARDS)


@pytest.mark.parametrize(
    "change",
    [
        lambda _: "{",
        lambda _: [],
        lambda document: {**document, "embeddings": [[1.0]]},
        lambda document: {name: document[name] for name in ("embeddings", "quality")},
        lambda document: {**document, "quality": "high"},
    ],
)
def test_samples_that_cannot_be_read_are_named(made, tmp_path, change):
    with pytest.raises(ArtifactCorruptError, match="selfcheck.json is damaged"):
        artifact.load(rewritten(made, tmp_path, change), CARDS)


def test_an_artifact_without_samples_passes(made, tmp_path):
    trained = dataclasses.replace(artifact.load(made, CARDS).trained, calibration=None)
    folder = save(trained, tmp_path)
    assert not (folder / "selfcheck.json").exists()
    assert artifact.self_check(folder, trained) == 0
    assert artifact.load(folder, CARDS).artifact_id == folder.name


def test_a_link_that_moves_while_an_artifact_is_loaded_gives_the_first(made, tmp_path, monkeypatch):
    first = shutil.copytree(made, tmp_path / made.name)
    (tmp_path / "other").mkdir()
    link = artifact.promote(first)
    read = artifact.read_manifest

    def moved_afterwards(folder):
        manifest = read(folder)
        artifact.promote(tmp_path / "other")
        return manifest

    monkeypatch.setattr(artifact, "read_manifest", moved_afterwards)
    assert artifact.load(link, CARDS).artifact_id == made.name
