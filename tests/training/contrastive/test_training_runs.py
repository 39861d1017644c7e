"""Whole runs: what they write, that a kill changes nothing, that a checkpoint of another run is refused."""

import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llmrouter import artifact
from llmrouter.encoders import HeadEncoder, OnnxEncoder, load_encoder
from llmrouter.encoders._head import read_head
from llmrouter.exceptions import ArtifactCorruptError, ConfigError, DataError, EncoderError, FingerprintError
from llmrouter.outcomes import load_table
from llmrouter.routers import ModelDescriptor
from llmrouter.routers.descriptors import load_descriptor, save_descriptor
from tests.contracts.served_without_torch import check_served_without_torch
from tests.contracts.tiny_sentence_encoder import save_tiny_bert

torch = pytest.importorskip("torch", reason="the extra [encoders] is not installed")
from training.contrastive import _trainer, export, served  # noqa: E402
from training.contrastive._routerdc import EndToEnd, train_routerdc  # noqa: E402
from training.contrastive._runs import train_cscr  # noqa: E402
from training.contrastive._trainer import TrainingSettings  # noqa: E402

POCKET = Path(__file__).parents[3] / "llmrouter" / "assets" / "pocket" / "outcomes"
SETTINGS = TrainingSettings(epochs=4, batch=64, learning_rate=3e-3)

KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from llmrouter.outcomes import load_table
from llmrouter.routers import ModelDescriptor
from llmrouter.routers.descriptors import load_descriptor, save_descriptor
from training.contrastive import _checkpoint
from training.contrastive._runs import train_cscr
from training.contrastive._trainer import TrainingSettings
write, done = _checkpoint.write, []
def killed(*arguments):
    write(*arguments)
    done.append(1)
    if len(done) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
_checkpoint.write = killed
table = load_table(Path(sys.argv[1]))
train_cscr(table.select(np.arange(0, len(table), 10)), Path(sys.argv[2]), encoder="static", parameters={"probes": 16},
           settings=TrainingSettings(epochs=4, batch=64, learning_rate=3e-3))
"""


@pytest.fixture(scope="module")
def table():
    whole = load_table(POCKET)
    return whole.select(np.arange(0, len(whole), 10))


def cscr(table, out, **changes):
    given = {"encoder": "static", "settings": SETTINGS, "parameters": {"probes": 16}} | changes
    return train_cscr(table, out, say=lambda line: None, **given)


@pytest.fixture(scope="module")
def finished(table, tmp_path_factory):
    lines = []
    out = tmp_path_factory.mktemp("cscr") / "run"
    given = {"encoder": "static", "settings": SETTINGS, "parameters": {"probes": 16}}
    return train_cscr(table, out, say=lines.append, **given), out, lines


def test_a_run_shows_progress_and_learns(finished):
    run, out, lines = finished
    assert sum(line.startswith("epoch ") for line in lines) == 4
    assert run.progress["history"][-1]["held_out"] < run.progress["history"][0]["held_out"]
    assert json.loads((out / "history.json").read_text())["identity"]["method"] == "cscr"
    (line,) = (out.parent / "experiments.jsonl").read_text().splitlines()
    assert json.loads(line)["run"] == "run"


def test_the_head_is_exported_and_an_encoder_of_its_own(finished, table):
    run, _, _ = finished
    assert export.largest_difference(run.encoder, read_head(run.encoder)[0]) < export.MOST_DIFFERENCE
    encoder = load_encoder(run.encoder)
    assert isinstance(encoder, HeadEncoder)
    texts = list(table.router_texts()[:5])
    frozen = load_encoder("static").encode(texts)
    np.testing.assert_allclose(encoder.encode(texts), export.run_onnx(run.encoder, frozen), atol=1e-5)


def test_an_export_that_differs_is_refused(finished, tmp_path, monkeypatch):
    run, _, _ = finished
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in run.encoder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    graph = export._graph
    monkeypatch.setattr(export, "_graph", lambda head: graph(type(head)(tuple(-layer for layer in head.layers))))
    with pytest.raises(EncoderError, match="differs"):
        export.export_head(folder)
    assert not (folder / "head.onnx").exists()


def test_the_artifact_is_served_without_torch(finished):
    run, _, _ = finished
    check_served_without_torch(run.artifact, POCKET)
    assert artifact.read_manifest(run.artifact)["training"]["router"] == "cscr"


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL on this system")
def test_a_killed_run_goes_on_and_ends_with_the_same_bits(finished, table, tmp_path):
    run, out, _ = finished
    command = [sys.executable, "-c", KILLED, str(POCKET), str(tmp_path / "run")]
    killed = subprocess.run(command, check=False, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "run" / "encoder").exists()
    lines = []
    given = {"encoder": "static", "settings": SETTINGS, "parameters": {"probes": 16}}
    again = train_cscr(table, tmp_path / "run", say=lines.append, **given)
    assert lines[0].startswith("resumed after epoch 2")
    assert [line[:8] for line in lines if line.startswith("epoch ")] == ["epoch 3/", "epoch 4/"]
    assert again.progress["history"] == run.progress["history"]
    weights = [(folder / "encoder" / "head.safetensors").read_bytes() for folder in (out, tmp_path / "run")]
    assert weights[0] == weights[1]


def test_a_checkpoint_of_another_run_is_refused(finished, table):
    _, out, _ = finished
    with pytest.raises(FingerprintError, match=r"encoder was 'static-.*now it is 'form-.*another --out"):
        cscr(table, out, encoder="form")
    with pytest.raises(FingerprintError, match="probe_set was 'outcome-16"):
        cscr(table, out, parameters={"probes": 17})
    with pytest.raises(FingerprintError, match=r"batch was 64, now it is 32"):
        cscr(table, out, settings=dataclasses.replace(SETTINGS, batch=32))


def test_a_broken_checkpoint_is_named(table, tmp_path):
    (tmp_path / "checkpoint.safetensors").write_bytes(b"half of it")
    with pytest.raises(ArtifactCorruptError, match=r"checkpoint\.safetensors.*delete it"):
        cscr(table, tmp_path)


def test_it_stops_when_the_held_out_loss_no_longer_falls(table, tmp_path):
    fast = dataclasses.replace(SETTINGS, learning_rate=1.0, patience=2, epochs=50)
    progress = cscr(table, tmp_path / "run", settings=fast).progress
    assert progress["epoch"] < 50
    assert progress["epoch"] == progress["best_epoch"] + 2


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"batch": 0}, {"steps": -1}, {"learning_rate": 0.0}, {"decay": -1.0}, {"held_out": 1.0}]
)
def test_bad_settings_are_named(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        TrainingSettings(**wrong)


def test_splits(table):
    learn, held_out = TrainingSettings(held_out=0.25, seed=3).split(100)
    assert len(held_out) == 25
    assert sorted([*learn, *held_out]) == list(range(100))
    with pytest.raises(DataError, match="at least 2"):
        TrainingSettings().split(1)
    test_rows = np.flatnonzero(np.asarray([split == "test" for split in table.splits]))
    with pytest.raises(DataError, match="no train split"):
        cscr(table.select(test_rows), Path("unused"))


def test_a_gpu_is_used_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert _trainer.device() == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert _trainer.device() == "cpu"


@pytest.mark.slow
def test_an_encoder_is_trained_end_to_end_and_served_as_onnx(table, tmp_path):
    for package in ("sentence_transformers", "onnxruntime", "onnxscript"):
        pytest.importorskip(package, reason="the extra [encoders] is not installed")
    tiny = save_tiny_bert(tmp_path / "tiny")
    settings = TrainingSettings(epochs=2, batch=16, steps=3, learning_rate=1e-3)
    run = train_routerdc(
        table, tmp_path / "run", encoder=str(tiny), settings=settings, parameters={"best": 2, "worst": 2},
        way=EndToEnd(longest=16, most_prompts=60, model_rate=0.01, part=4, bf16=True), say=lambda line: None,
    )  # fmt: skip
    assert run.progress["step"] == 6
    encoder = load_encoder(run.encoder)
    assert isinstance(encoder, OnnxEncoder)
    texts = list(table.router_texts()[:4])
    before, after = load_encoder(tiny, device="cpu").encode(texts), encoder.encode(texts)
    assert not np.allclose(before, after, atol=1e-3), "the encoder itself was trained"
    original = load_encoder(tmp_path / "run" / "weights", device="cpu").encode(texts)
    assert (original * after).sum(axis=1).min() > 0.9999
    assert np.isfinite(run.router.predict(after)).all()
    assert run.artifact is not None
    found = served.compare(tmp_path / "run", texts)
    assert found["vectors"] <= served.MOST_DIFFERENCE
    assert found["other_choices"] == 0
    (tmp_path / "run" / "encoder" / "tokenizer.json").write_text("{}")
    with pytest.raises(EncoderError, match="cannot be served without torch"):
        served.served_without_torch(tmp_path / "run", texts)


def test_a_head_is_trained_towards_measured_descriptors(table, tmp_path):
    rng = np.random.default_rng(0)
    folders = []
    for name in table.models:
        folders.append(str(tmp_path / name))
        save_descriptor(tmp_path / name, ModelDescriptor(rng.normal(size=20), "probes-20-x", "perplexity"))
    given = {"descriptors": folders, "spread": True, "hidden": 16}
    finished = cscr(table, tmp_path / "run", parameters=given)
    assert finished.router.vectors_.shape == (1, len(folders), 20)
    finished.router.add_described(load_descriptor(tmp_path / table.models[0]), level=0.5)
    with pytest.raises(FingerprintError, match="probe_set"):
        finished.router.add_described(ModelDescriptor(np.ones(20), "probes-20-y", "perplexity"))
    save_descriptor(tmp_path / table.models[0], ModelDescriptor(np.ones(20), "probes-20-x", "perplexity"))
    with pytest.raises(FingerprintError, match="parameters was .*descriptors"):
        cscr(table, tmp_path / "run", parameters=given)
