"""Runs of training.bandit: torch and numpy agree, a kill changes nothing, wrong checkpoints and weights are refused."""

import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llmrouter import artifact
from llmrouter._files import sha256_of
from llmrouter.exceptions import ArtifactCorruptError, ArtifactError, ConfigError, DataError, FingerprintError
from llmrouter.outcomes import load_table
from llmrouter.routers._llm_bandit_policy import numbers, preference_features, utilities
from tests.contracts.served_without_torch import check_served_without_torch

torch = pytest.importorskip("torch", reason="the extra [encoders] is not installed")
from training.bandit import _modules, _objectives, _stages, compare  # noqa: E402
from training.bandit._objectives import PPOLoss, draw_weights  # noqa: E402
from training.bandit._stages import BanditSettings, encoded, train_bandit  # noqa: E402
from training.bandit.cold_start import discrimination, information, inside_train  # noqa: E402
from training.bandit.weights import load_bandit  # noqa: E402

POCKET = Path(__file__).parents[3] / "llmrouter" / "assets" / "pocket" / "outcomes"
LEARNING, JUDGING = True, False
SETTINGS = BanditSettings(rank=3, identity_epochs=6, policy_epochs=3, steps=2, patience=3)

KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from llmrouter.outcomes import load_table
from training.bandit._stages import BanditSettings, encoded, train_bandit
from training.contrastive import _checkpoint
write, done = _checkpoint.write, []
def killed(folder, *arguments):
    write(folder, *arguments)
    done.append(folder.name)
    if done.count("ppo") == 2:
        os.kill(os.getpid(), signal.SIGKILL)
_checkpoint.write = killed
table = load_table(Path(sys.argv[1]))
table = table.select(np.flatnonzero(np.asarray(table.splits) == "train")[::30])
X, encoder = encoded(table, "static")
train_bandit(table, X, Path(sys.argv[2]), encoder=encoder, say=lambda line: None,
             settings=BanditSettings(rank=3, identity_epochs=6, policy_epochs=3, steps=2, patience=3))
"""


@pytest.fixture(scope="module")
def data():
    table = load_table(POCKET)
    table = table.select(np.flatnonzero(np.asarray(table.splits) == "train")[::30])
    return table, *encoded(table, "static")


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    table, X, encoder = data
    out, lines = tmp_path_factory.mktemp("bandit") / "run", []
    return train_bandit(table, X, out, encoder=encoder, settings=SETTINGS, say=lines.append), out, lines


def again(data, out, **changes):
    table, X, encoder = data
    given = {"encoder": encoder, "settings": SETTINGS, "say": lambda line: None} | changes
    return train_bandit(table, X, out, **given)


def test_a_run_shows_progress_and_every_stage_learns(finished):
    run, out, lines = finished
    assert sum(line.startswith("epoch ") for line in lines) >= 9
    assert list(run.progress) == ["identity", "supervised", "ppo"]
    for stage in ("identity", "supervised"):
        history = run.progress[stage]["history"]
        assert history[-1]["held_out"] < history[0]["held_out"]
    history = json.loads((out / "history.json").read_text())
    assert history["settings"]["rank"] == 3
    assert json.loads((out.parent / "experiments.jsonl").read_text())["run"] == "run"


def test_the_numpy_policy_is_the_torch_policy():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 9)).astype(np.float32)
    coordinates = _modules.Coordinates.fit(X, models=5, penalty=10.0)
    module = _modules.policy_module(
        9, 4, _modules.PolicySize(token=8, prompt=5, preference=3, hidden=6), sharpness=2.0, seed=0
    )
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(torch.as_tensor(0.3 * rng.normal(size=tuple(weight.shape)), dtype=torch.float32))
    policy = _modules.policy_of(module, coordinates).checked(dimension=9, length=4)
    identities, expected, costs = rng.normal(size=(5, 4)), rng.uniform(size=(40, 5)), rng.uniform(size=5)
    told = preference_features(np.full(40, 0.7))
    utility = utilities(expected, costs, np.array([0.7]))[0]
    parts = (coordinates.of_policy(X), identities, numbers(expected, costs), told, utility)
    logits, values = module(*(torch.as_tensor(np.asarray(part, dtype=np.float32)) for part in parts))
    assert values.shape == (40, 2)
    ours = policy.logits(X, identities, expected, costs, np.array([0.7, 3.0]))[0]
    np.testing.assert_allclose(ours, logits.detach().numpy(), atol=2e-5)


def test_the_exported_response_is_the_torch_response():
    rng = np.random.default_rng(1)
    X = rng.normal(size=(30, 7)).astype(np.float32)
    coordinates = _modules.Coordinates.fit(X, models=4, penalty=10.0)
    module = _modules.response_module(7, 4, 3, seed=0)
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(torch.as_tensor(rng.normal(size=tuple(weight.shape)), dtype=torch.float32))
    logit = module(torch.as_tensor(coordinates.of_response(X)), torch.zeros(4, 3)).detach().numpy()
    found = _modules.identity_of(module, coordinates, penalty=10.0)
    features = X @ found["projection"] + found["shift"]
    ours = features @ found["vectors"].T + (X @ found["prompt"] + found["prompt_shift"])[:, None]
    np.testing.assert_allclose(ours, logit, atol=1e-4)
    assert float(module.divergence().detach()) > 0


def test_an_unclipped_step_of_ppo_follows_the_advantage():
    """One prompt kind, two arms, the second always right at no cost: its probability must rise."""
    n, length = 64, 2
    rng = np.random.default_rng(0)
    data = _objectives.PolicyData(
        rng.normal(size=(n, 3)),
        np.eye(2),
        np.full((n, 2), 0.5),
        np.tile([0.0, 1.0], (n, 1)),
        np.zeros((n, 2)),
        np.ones(2),
    )
    module = _modules.policy_module(
        3, length, _modules.PolicySize(token=8, prompt=4, preference=2, hidden=6), sharpness=2.0, seed=0
    )
    loss = PPOLoss(data, "log", rows=np.arange(n), entropy=0.0)
    before = float(loss(module, np.arange(n), rng, JUDGING).detach())
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    for epoch in range(6):
        generator = np.random.default_rng(epoch)
        for _ in range(3):
            optimizer.zero_grad()
            loss(module, np.arange(n), generator, LEARNING).backward()
            optimizer.step()
    after = float(loss(module, np.arange(n), rng, JUDGING).detach())
    assert after < before - 0.05
    data.quality[:, 1] = np.nan  # never observed: never drawn, and not judged
    assert np.isfinite(
        float(PPOLoss(data, "log", rows=np.arange(n), entropy=0.1)(module, np.arange(n), rng, LEARNING).detach())
    )


def test_weights_of_cost_are_drawn_as_told():
    rng = np.random.default_rng(0)
    paper, log = draw_weights(4000, "paper", rng), draw_weights(4000, "log", rng)
    assert 0 <= paper.min() < paper.max() <= 2
    assert 0.05 < (log == 0).mean() < 0.15
    assert np.median(log[log > 0]) == pytest.approx(1.0, rel=0.3)


def test_the_artifact_is_served_without_torch(finished):
    run, _, _ = finished
    check_served_without_torch(run.artifact, POCKET, "training.bandit.weights")
    assert artifact.read_manifest(run.artifact)["training"]["router"] == "llm-bandit"


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL on this system")
def test_a_killed_run_goes_on_and_ends_with_the_same_bits(finished, data, tmp_path):
    run, out, _ = finished
    command = [sys.executable, "-c", KILLED, str(POCKET), str(tmp_path / "run")]
    killed = subprocess.run(command, check=False, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "run" / "bandit.json").exists()
    lines = []
    resumed = again(data, tmp_path / "run", say=lines.append)
    assert sum(line.startswith("resumed after") for line in lines) == 3
    assert [line[:8] for line in lines if line.startswith("epoch ")] == ["epoch 3/"]
    assert resumed.progress["ppo"]["history"] == run.progress["ppo"]["history"]
    weights = [(folder / "bandit.safetensors").read_bytes() for folder in (out, tmp_path / "run")]
    assert weights[0] == weights[1]


def test_a_checkpoint_of_another_run_is_refused(finished, data):
    table, X, encoder = data
    _, out, _ = finished
    with pytest.raises(FingerprintError, match=r"identity.*encoder was '.*now it is 'form-other'.*another --out"):
        again(data, out, encoder=dataclasses.replace(encoder, fingerprint="form-other"))
    with pytest.raises(FingerprintError, match=r"penalty was 10\.0, now it is 5\.0"):
        again(data, out, settings=dataclasses.replace(SETTINGS, penalty=5.0))
    with pytest.raises(FingerprintError, match=r"preferences was 'log', now it is 'paper'"):
        again(data, out, settings=dataclasses.replace(SETTINGS, preferences="paper"))
    with pytest.raises(FingerprintError, match="data was"):
        train_bandit(
            table.select(np.arange(50)), X[:50], out, encoder=encoder, settings=SETTINGS, say=lambda line: None
        )


def test_finished_weights_are_read_without_torch_and_checked(finished, data, tmp_path):
    _, X, encoder = data
    run, out, _ = finished
    loaded = load_bandit(out, encoder_fingerprint=encoder.fingerprint)
    np.testing.assert_array_equal(loaded.preferences(X[:9], 0.3), run.policy.preferences(X[:9], 0.3))
    np.testing.assert_array_equal(loaded.predict(X[:9]), run.policy.predict(X[:9]))
    response = load_bandit(out, encoder_fingerprint=encoder.fingerprint, estimates="response")
    np.testing.assert_array_equal(response.predict(X[:9]), run.response.predict(X[:9]))
    with pytest.raises(FingerprintError, match=r"trained on the encoder static .*this one is other"):
        load_bandit(out, encoder_fingerprint="other")
    with pytest.raises(ArtifactError, match=r"no finished run; train one"):
        load_bandit(tmp_path, encoder_fingerprint=encoder.fingerprint)
    for name in ("bandit.json", "bandit.safetensors"):
        (tmp_path / name).write_bytes((out / name).read_bytes())
    config = json.loads((tmp_path / "bandit.json").read_text())
    (tmp_path / "bandit.safetensors").write_bytes(b"half of it")
    with pytest.raises(ArtifactCorruptError, match="not the file that was written"):
        load_bandit(tmp_path, encoder_fingerprint=encoder.fingerprint)
    config["files"]["bandit.safetensors"] = sha256_of(tmp_path / "bandit.safetensors")
    (tmp_path / "bandit.json").write_text(json.dumps(config))
    with pytest.raises(ArtifactCorruptError, match="cannot read"):
        load_bandit(tmp_path, encoder_fingerprint=encoder.fingerprint)
    (tmp_path / "bandit.json").write_text(json.dumps(config | {"kind": "head"}))
    with pytest.raises(ArtifactError, match="kind is 'head'"):
        load_bandit(tmp_path, encoder_fingerprint=encoder.fingerprint)


def test_without_costs_or_outcomes_there_is_nothing_to_weigh(data, tmp_path):
    table, _, _ = data
    with pytest.raises(DataError, match="has no costs"):
        _stages._relative_costs(dataclasses.replace(table, cost_usd=np.full(table.cost_usd.shape, np.nan)))


@pytest.mark.parametrize(
    "wrong",
    [{"preferences": "mine"}, {"rank": 0}, {"penalty": 0.0}, {"entropy": -1.0}, {"sharpness": -1.0}, {"held_out": 1.0}],
)
def test_bad_settings_are_named(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        BanditSettings(**wrong)


def test_curves_and_rules_of_a_comparison(finished, data):
    table, X, _ = data
    run, _, _ = finished
    plane = compare.Plane(table, X, table, X)
    curve = plane.chosen(run.policy)
    assert curve.choices.shape == (len(plane.weights) + 1, len(table))
    assert curve.mean_cost[0] >= curve.mean_cost[-1]
    zero = plane.aiq(plane.zero)
    assert plane.aiq(plane.replayed(table.quality, table.cost_usd)) > zero
    for rule in (discrimination, information):
        rows = rule(table, X, run.response, 12, 3)
        assert len(set(rows.tolist())) == 12
    halves, rest = inside_train(table, X, seed=0)
    assert set(halves.splits) == {"train", "test"}
    assert len(rest) == len(halves)
