"""Whole runs on a tiny encoder: what they write, that a kill changes nothing, what is refused."""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llmrouter import artifact
from llmrouter.encoders import HeadEncoder, StaticEncoder, load_encoder
from llmrouter.encoders._sources import resolve_source
from llmrouter.exceptions import ConfigError, DataError, EncoderError, FingerprintError
from llmrouter.outcomes import load_table
from tests.contracts.tiny_sentence_encoder import save_tiny_bert

torch = pytest.importorskip("torch", reason="the extra [encoders] is not installed")
pytest.importorskip("model2vec", reason="the extra [encoders] is not installed")
from training.contrastive import _checkpoint  # noqa: E402
from training.contrastive._trainer import TrainingSettings  # noqa: E402
from training.traffic import __main__ as command  # noqa: E402
from training.traffic import _runs, compare  # noqa: E402
from training.traffic._fit import RECORD, Objective, read_weights, train_weights  # noqa: E402
from training.train import fit  # noqa: E402

POCKET = Path(__file__).parents[3] / "llmrouter" / "assets" / "pocket" / "outcomes"
SETTINGS = TrainingSettings(epochs=3, patience=3, batch=32, learning_rate=3e-3, held_out=0.2)

KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from llmrouter.outcomes import load_table
from training.contrastive import _checkpoint
from training.contrastive._trainer import TrainingSettings
from training.traffic._fit import Objective, train_weights
import torch
torch.set_num_threads(1)
write = _checkpoint.write
def killed(*arguments):
    write(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
_checkpoint.write = killed
table = load_table(Path(sys.argv[1])).split("train")
train_weights(table.select(np.arange(0, len(table), 15)), Path(sys.argv[2]), encoder=sys.argv[3], objective=Objective(),
              settings=TrainingSettings(epochs=3, patience=3, batch=32, learning_rate=3e-3, held_out=0.2), longest=24)
"""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny_bert(tmp_path_factory.mktemp("tiny") / "tiny-bert")


@pytest.fixture(scope="module")
def table():
    train = load_table(POCKET).split("train")
    return train.select(np.arange(0, len(train), 15))


def trained(table, out, tiny, **changes):
    given = {"encoder": tiny, "settings": SETTINGS, "objective": Objective(), "longest": 24, "say": silent}
    return train_weights(table, out, **(given | changes))


def silent(line):
    del line


@pytest.fixture(scope="module")
def finished(table, tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("fit") / "run"
    return (*trained(table, out, tiny), out)


def test_the_encoder_learns_and_its_folder_names_what_it_came_from(finished, tiny):
    folder, progress, _ = finished
    assert progress["history"][-1]["held_out"] < progress["history"][0]["held_out"]
    source, record = read_weights(folder)
    assert record["source_sha256"] == resolve_source(tiny).weights_sha256
    assert source.weights_sha256 == record["weights_sha256"] != record["source_sha256"]
    assert source.name.endswith("tiny-bert-fitted")


def test_a_run_that_breaks_off_goes_on_and_ends_with_the_same_bits(finished, table, tiny, tmp_path, monkeypatch):
    write = _checkpoint.write

    def broken_off(*arguments):
        write(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_checkpoint, "write", broken_off)
        with pytest.raises(KeyboardInterrupt):
            trained(table, tmp_path / "run", tiny)
    assert_goes_on(finished, table, tiny, tmp_path / "run")


def assert_goes_on(finished, table, tiny, out):
    assert not (out / "weights").exists()
    lines = []
    folder, progress = trained(table, out, tiny, say=lines.append)
    assert any(line.startswith("resumed after epoch 1") for line in lines)
    assert progress["history"] == finished[1]["history"]
    assert (folder / "model.safetensors").read_bytes() == (finished[0] / "model.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL on this system")
def test_a_killed_run_goes_on_and_ends_with_the_same_bits(finished, table, tiny, tmp_path):
    command_line = [sys.executable, "-c", KILLED, str(POCKET), str(tmp_path / "run"), str(tiny)]
    killed = subprocess.run(command_line, check=False, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert_goes_on(finished, table, tiny, tmp_path / "run")


def test_a_checkpoint_of_another_run_is_refused(finished, table, tiny, tmp_path):
    out = finished[2]
    other = save_tiny_bert(tmp_path / "other", seed=1)
    with pytest.raises(FingerprintError, match=r"encoder was '.*another --out"):
        trained(table, out, other)
    renamed = shutil.copytree(tiny, tmp_path / "renamed")
    (renamed / "tokenizer.json").write_text((tiny / "tokenizer.json").read_text().replace("quick", "slow"))
    with pytest.raises(FingerprintError, match="tokenizer was "):
        trained(table, out, renamed)
    with pytest.raises(FingerprintError, match="objective was "):
        trained(table, out, tiny, objective=Objective(sharpness=1.0))
    with pytest.raises(FingerprintError, match="data was "):
        trained(table.select(np.arange(40)), out, tiny)


def test_a_tokenizer_of_another_model_is_refused(table, tiny, tmp_path):
    wrong = shutil.copytree(tiny, tmp_path / "wrong")
    tokenizer = json.loads((wrong / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["zebra"] = len(tokenizer["model"]["vocab"])
    (wrong / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(EncoderError, match=r"tokenizer has 62 tokens, the model embeds 61"):
        trained(table, tmp_path / "run", wrong)


def test_what_could_not_be_exported_is_refused_before_it_is_trained(table, tiny, tmp_path):
    for longest in (2, 33):
        with pytest.raises(ConfigError, match=f"longest must be 3 to 32 for 'tiny-bert'; got {longest}"):
            trained(table, tmp_path / "run", tiny, longest=longest)
    with pytest.raises(EncoderError, match="only mean pooling"):
        trained(table, tmp_path / "run", save_tiny_bert(tmp_path / "cls", pooling="cls"))
    dense = shutil.copytree(tiny, tmp_path / "dense")
    modules = json.loads((dense / "modules.json").read_text())
    modules.append({"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"})
    (dense / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(EncoderError, match=r"modules\.json: the model has the layers Dense"):
        trained(table, tmp_path / "run", dense)
    assert not (tmp_path / "run").exists()


def test_weights_that_were_changed_are_refused(finished, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "weights")
    (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text().replace("quick", "slow"))
    with pytest.raises(FingerprintError, match="tokenizer_sha256 was"):
        read_weights(folder)
    (folder / RECORD).unlink()
    with pytest.raises(EncoderError, match="fit-encoder"):
        read_weights(folder)


def test_nothing_to_learn_from_is_said(table, tiny, tmp_path):
    with pytest.raises(DataError, match="observed nowhere"):
        trained(dataclasses.replace(table, quality=np.full_like(table.quality, np.nan)), tmp_path, tiny)


def test_tables_are_made_of_the_fitted_encoder(finished, table, tmp_path):
    source, _ = read_weights(finished[0])
    lines, vectors = [], np.random.default_rng(0).normal(size=(len(table), 16))
    made = _runs.make_tables(
        source, table.router_texts(), vectors, tmp_path, dimension=8, seed=0, say=lines.append
    )  # fmt: skip
    assert set(made) == {"static", "carried"}
    config = json.loads((tmp_path / "carried" / "config.json").read_text())
    assert config["source_sha256"] == source.weights_sha256
    assert config["carried"]["prompts"] > 100
    assert StaticEncoder(made["static"]).fingerprint != StaticEncoder(made["carried"]).fingerprint
    few = _runs.make_tables(
        source, table.router_texts()[:5], vectors[:5], tmp_path, dimension=8, seed=0, say=lines.append
    )
    assert set(few) == {"static"}
    assert "no carried table" in lines[-1]


@pytest.fixture(scope="module")
def headed(tmp_path_factory):
    whole = load_table(POCKET)
    few = whole.select(np.arange(0, len(whole), 15))
    out = tmp_path_factory.mktemp("fit-head") / "head"
    settings = dataclasses.replace(SETTINGS, learning_rate=1e-3)
    return _runs.fit_head(few, out, settings=settings, say=silent), few, out


def test_a_head_is_folded_into_its_table(headed, table):
    run, few, out = headed
    head, folded = load_encoder(run.encoders["encoder"]), load_encoder(run.encoders["folded"])
    assert isinstance(head, HeadEncoder)
    texts = list(table.router_texts()[:20])
    np.testing.assert_allclose(folded.encode(texts), head.encode(texts), atol=5e-3)
    assert run.progress["best"] < run.progress["history"][0]["train"]
    described = json.loads((out / "fitted.json").read_text())
    assert described["encoders"] == {"encoder": head.fingerprint, "folded": folded.fingerprint}
    assert described["source_fingerprint"] == load_encoder("static").fingerprint
    assert load_encoder(f"form:base={run.encoders['folded']}").dimension == folded.dimension + 44
    with pytest.raises(FingerprintError, match="encoder was"):
        _runs.fit_head(few, out, encoder="form", settings=SETTINGS)
    with pytest.raises(ConfigError, match="hidden must be >= 0"):
        _runs.fit_head(few, out, hidden=-1)


def test_an_artifact_on_a_fitted_table_refuses_another(headed, table, tmp_path):
    folded = shutil.copytree(headed[0].encoders["folded"], tmp_path / "folded")
    encoder = load_encoder(folded)
    trained_router = fit(table, encoder.encode(table.router_texts()), name="ridge", parameters={})
    spec = artifact.EncoderSpec(str(folded), {}, encoder.fingerprint)
    written = artifact.save(trained_router, tmp_path / "artifacts", encoder=spec, training={})
    assert artifact.read_manifest(written)["encoder"] == encoder.fingerprint
    artifact.load(written, table.cards())
    shutil.rmtree(folded)
    shutil.copytree(StaticEncoder().path, folded)
    with pytest.raises(FingerprintError, match=encoder.fingerprint):
        artifact.load(written, table.cards())


def plan(tiny):
    return compare.Plan(str(tiny), SETTINGS, SETTINGS, Objective(), longest=24, dimension=8)


def test_comparing_judges_every_prompt_by_what_has_not_seen_it(table, tiny, tmp_path, monkeypatch):
    """The full encoders are stood in for by a table: loading them takes longer than all the rest."""
    monkeypatch.setattr(compare, "load_encoder", lambda name: StaticEncoder())
    monkeypatch.setattr(compare, "ROUTERS", ("knn:k=5",))
    lines = []
    table = table.select(np.arange(0, len(table), 2))
    found = compare.compare(table, tmp_path, plan(tiny), folds=2, resamples=50, say=lines.append)
    assert sum("judged" in line for line in lines) == 2
    by_name = {row["encoder"]: row["knn:k=5"] for row in found["rows"]}
    assert {"static table", "full encoder", "full, fitted", "carried, fitted", "head over the table + form"} <= set(
        by_name
    )
    assert by_name["full, fitted"] == by_name["full encoder"], "the stand-in is the same before and after"
    for row in found["differences"]:
        assert row["mean"][0] == pytest.approx(by_name[row["after"]] - by_name[row["before"]], abs=2e-5)
        assert row["mean"][1] <= row["mean"][2]
    path = tmp_path / "figures.json"
    shown = compare.format_rows(compare.write_comparison(path, table, plan(tiny), found))
    assert f"static table {by_name['static table']:29.4f}" in shown
    assert json.loads(path.read_text())["plan"]["settings"]["batch"] == 32
    data = {read_weights(tmp_path / f"fold-{number}" / "weights")[1]["data"] for number in range(2)}
    assert len(data) == 2, "each fold's encoder has learned from other prompts"


def test_comparing_needs_every_outcome_and_two_folds(table, tiny, tmp_path):
    gaps = np.array(table.quality)
    gaps[3, 0] = np.nan
    with pytest.raises(DataError, match="every model and prompt"):
        compare.compare(dataclasses.replace(table, quality=gaps), tmp_path, plan(tiny))
    with pytest.raises(ConfigError, match="folds must be >= 2"):
        compare.compare(table, tmp_path, plan(tiny), folds=1)


def test_the_command_fits_a_head(tmp_path, capsys):
    command.main(["fit-head", "--data", str(POCKET), "--out", str(tmp_path / "head"), "--epochs", "1", "--steps", "2"])
    shown = capsys.readouterr().out
    assert "epoch 1/1" in shown
    assert "the same vectors from one token table" in shown
    assert (tmp_path / "experiments.jsonl").exists()


@pytest.mark.slow
def test_an_encoder_is_fitted_exported_and_distilled(table, tiny, tmp_path):
    for package in ("sentence_transformers", "onnxruntime", "onnxscript"):
        pytest.importorskip(package, reason="the extra [encoders] is not installed")
    whole = load_table(POCKET)
    rows = np.arange(0, len(whole), 15)
    run = _runs.fit_encoder(
        whole.select(rows), tmp_path / "run", encoder=tiny, settings=SETTINGS, longest=24, dimension=8, say=silent
    )
    assert set(run.encoders) == {"encoder", "static", "carried"}
    described = json.loads((tmp_path / "run" / "fitted.json").read_text())
    assert described["source"].endswith("tiny-bert")
    for name, folder in run.encoders.items():
        encoder = load_encoder(folder)
        assert described["encoders"][name] == encoder.fingerprint
        assert np.linalg.norm(encoder.encode(["hello the quick fox"])) == pytest.approx(1.0, abs=1e-3)
