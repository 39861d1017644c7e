"""Training on the gateway's log, through the gate: the artifact, its evaluation, and what is promoted."""

import dataclasses
import json

import numpy as np
import pytest

from llmrouter import artifact
from llmrouter.encoders import load_encoder
from llmrouter.exceptions import ConfigError, DataError
from llmrouter.learning import MISSING, Gate, current_artifact, read_history
from llmrouter.policy import UtilityPolicy
from llmrouter.types import ModelCard, Outcome, Price, RoutingRequest
from training.from_log import LogTraining, default_missing, train_from_log
from training.from_log_tuning import tune_on_log

MODELS = ("small", "large")
START = 1_700_000_000.0
WORDS = ("apple", "river", "stone", "cloud", "tiger")


def outcomes(n=400, *, live="small", share=0.3, seed=0, texts=True, encoder=None):
    """Return outcomes of a pool in which the small model spells as well as the large one, and cannot add."""
    random = np.random.default_rng(seed)
    made = []
    for number in range(n):
        sums = random.random() < 0.5
        prompt = f"What is {number} plus {number + 3}?" if sums else f"Spell {WORDS[number % 5]} {number}"
        chance = np.full(2, share / 2)
        chance[MODELS.index(live)] += 1 - share
        chosen = int(random.random() > chance[0])
        right = 0.1 if sums and chosen == 0 else 0.9
        made.append(
            Outcome(
                request_id=f"r{seed}-{number}",
                time=START + 60.0 * number,
                model=MODELS[chosen],
                served_by=MODELS[chosen],
                artifact_id="before",
                policy="explore",
                propensity=float(chance[chosen]),
                candidates={
                    model: {"quality": 0.5, "cost_usd": 0.001, "propensity": float(chance[place])}
                    for place, model in enumerate(MODELS)
                },
                prompt=prompt if texts else None,
                embedding=None if texts else encoder.encode([prompt])[0].tolist(),
                cost_usd=0.001 * (1 + 4 * chosen),
                input_tokens=10,
                output_tokens=8,
                quality=float(random.random() < right),
                quality_source="verifier:exact",
                key_id=f"k{number % 7}",
                explored=MODELS[chosen] != live,
            )
        )
    return made


SETTINGS = LogTraining(router="linear-bandit:penalty=3.0", encoder="static")
CARDS = [ModelCard(model, Price(0.0, 0.0)) for model in MODELS]
POLICY = UtilityPolicy(0.1)


def run(made, out, **options):
    options = {"settings": SETTINGS, "policy": POLICY, "gate": Gate(), "say": lambda line: None, **options}
    return train_from_log(made, out, **options)


def test_the_first_router_is_promoted_and_routes(tmp_path):
    trained = run(outcomes(), tmp_path)
    assert trained.promoted
    assert current_artifact(tmp_path) == trained.folder.name
    assert read_history(tmp_path)[0].reason == "nothing was live"
    engine = artifact.load(trained.folder, CARDS, policy=POLICY)
    assert engine.route(RoutingRequest("What is 5 plus 9?", prompt_tokens=5)).model == "large"
    assert engine.route(RoutingRequest("Spell cloud 7", prompt_tokens=3)).model == "small"


def test_manifest_and_evaluation_say_what_was_done(tmp_path):
    made = outcomes()
    trained = run(made, tmp_path)
    manifest = artifact.read_manifest(trained.folder)
    log = manifest["training"]["log"]
    assert (log["trained_on"], log["evaluated_on"], log["judged"]) == (300, 100, 400)
    assert (log["since"], log["until"]) == (made[0].time, made[299].time)
    assert (log["evaluated_since"], log["evaluated_until"]) == (made[300].time, made[399].time)
    assert log["explored"] == sum(outcome.explored for outcome in made)
    assert sum(log["models"].values()) == 400
    evaluation = json.loads((trained.folder / "evaluation.json").read_text())
    assert evaluation["against"] == "the policy that was logged"
    found = evaluation["off_policy"]["results"]["utility"]
    assert set(found["difference"]) == {"ips", "snips", "dr", "sndr", "switch-dr"}
    assert found["overlap"]["effective_difference"] > 0
    assert all(entry["low"] <= entry["value"] <= entry["high"] for entry in found["difference"].values())
    assert "apple" not in (trained.folder / "evaluation.json").read_text()
    assert "apple" not in (trained.folder / "manifest.json").read_text()


def test_a_better_router_replaces_the_live_one_and_a_worse_one_does_not(tmp_path):
    # One that learned from a log in which chance never asked the large model: it knows the small one only.
    first = run(outcomes(share=0.0, seed=1), tmp_path)
    assert first.promoted
    better = run(outcomes(1600), tmp_path)
    assert better.verdict.promote
    assert better.promoted
    assert current_artifact(tmp_path) == better.folder.name
    assert json.loads((better.folder / "evaluation.json").read_text())["against"] == first.folder.name
    flipped = [dataclasses.replace(o, quality=1.0 - o.quality, time=o.time - 1e6) for o in outcomes(800, seed=3)]
    lines = []
    # Its training part is spoiled, its evaluation part is not.
    mixed = flipped[:600] + outcomes(800, seed=4)[600:]
    worse = run(mixed, tmp_path, settings=dataclasses.replace(SETTINGS, trust=False), say=lines.append)
    assert not worse.promoted
    assert worse.verdict.gain < 0
    assert current_artifact(tmp_path) == better.folder.name
    assert any("not promoted" in line for line in lines)


def test_without_the_gate_it_is_promoted_whatever_it_is(tmp_path):
    run(outcomes(800), tmp_path)
    other = run(outcomes(400, seed=5), tmp_path, gate=None)
    assert other.promoted
    assert read_history(tmp_path)[-1].reason == "without the gate"
    kept = run(outcomes(400, seed=6), tmp_path, gate=None, promote=False)
    assert not kept.promoted
    assert current_artifact(tmp_path) == other.folder.name


def test_the_unit_of_cost_stays_that_of_the_live_router(tmp_path):
    first = run(outcomes(), tmp_path)
    dearer = [dataclasses.replace(o, cost_usd=o.cost_usd * 10) for o in outcomes(seed=2)]
    second = run(dearer, tmp_path, gate=None)
    units = [artifact.read_manifest(found.folder)["reference_cost_usd"] for found in (first, second)]
    assert units[0] == pytest.approx(0.005, rel=0.01)
    assert units[1] == units[0]


def test_means_are_over_all_requests_not_over_those_that_a_model_was_given(tmp_path):
    # The live policy gives the small model spelling, and the large one sums.
    spelling = [o for o in outcomes(2000) if o.prompt.startswith("Spell")]
    kept = spelling + [o for o in outcomes(2000, live="large", seed=1) if not o.prompt.startswith("Spell")]
    trained = run(kept, tmp_path)
    mean = artifact.read_manifest(trained.folder)["mean_quality"]
    observed = np.mean([o.quality for o in kept if o.model == "small"])
    assert observed > 0.7
    assert mean["small"] == pytest.approx(0.5, abs=0.1), "its outcomes on sums count for all sums"
    assert artifact.read_manifest(trained.folder)["best_single"] == "large"


def test_embeddings_in_place_of_texts(tmp_path):
    made = outcomes(200, texts=False, encoder=load_encoder("static"))
    trained = run(made, tmp_path)
    engine = artifact.load(trained.folder, CARDS, policy=POLICY)
    assert engine.route(RoutingRequest("What is 5 plus 9?", prompt_tokens=5)).model == "large"


def test_a_model_of_the_pool_that_was_never_asked(tmp_path):
    cards = [*CARDS, ModelCard("newcomer", Price(0.0, 0.0))]
    trained = run(outcomes(200), tmp_path, cards=cards)
    assert artifact.read_manifest(trained.folder)["models"] == ["small", "large", "newcomer"]
    engine = artifact.load(trained.folder, cards, policy=POLICY)
    assert len(engine.route(RoutingRequest("Spell cloud 7", prompt_tokens=3)).ranking) == 3


@pytest.mark.parametrize("missing", MISSING)
def test_every_way_to_treat_what_was_not_seen(tmp_path, missing):
    settings = dataclasses.replace(SETTINGS, router="ridge", missing=missing)
    trained = run(outcomes(), tmp_path, settings=settings)
    assert artifact.read_manifest(trained.folder)["training"]["missing"] == missing
    engine = artifact.load(trained.folder, CARDS, policy=POLICY)
    assert engine.route(RoutingRequest("What is 5 plus 9?", prompt_tokens=5)).model == "large"


def test_defaults_by_router():
    assert default_missing("linear-bandit") == "none"
    assert default_missing("knn") == "direct"


def test_open_parameters_are_tuned_on_the_log(tmp_path):
    lines = []
    settings = LogTraining(router="knn", encoder="static")
    trained = run(outcomes(300), tmp_path, settings=settings, say=lines.append)
    assert trained.tuning is not None
    assert len(trained.tuning.tried) > 5
    assert dict(trained.parameters) == dict(trained.tuning.parameters)
    assert any(line.startswith("tuned on the log") for line in lines)
    assert trained.tuning.tried[0]["gain"] == 0.0
    best = next(
        entry for entry in trained.tuning.tried if {**trained.parameters, "guard": None}.items() <= entry.items()
    )
    assert best["gain"] >= 0


def test_given_parameters_are_not_tuned():
    log = None  # not looked at
    found = tune_on_log("ridge", {"penalty": 1.0}, log, None, missing="none", policy=POLICY, cards=CARDS)
    assert found is None


def test_the_same_log_gives_the_same_artifact(tmp_path):
    first, second = (run(outcomes(), tmp_path / name) for name in "ab")
    assert first.folder.name == second.folder.name


@pytest.mark.parametrize(
    ("made", "settings", "error", "match"),
    [
        (outcomes(30), {}, DataError, "needs 50"),
        (outcomes(60), {"holdout": 1.0}, ConfigError, "--holdout"),
        (outcomes(60), {"since": START + 1e9}, DataError, "no outcome"),
        (outcomes(60), {"missing": "guess"}, ConfigError, "none, direct, ipw, dr"),
        ([dataclasses.replace(o, quality=None) for o in outcomes(60)], {}, DataError, "no outcome"),
    ],
)
def test_logs_that_cannot_be_trained_on(tmp_path, made, settings, error, match):
    with pytest.raises(error, match=match):
        run(made, tmp_path, settings=dataclasses.replace(SETTINGS, **settings))
    assert current_artifact(tmp_path) == ""
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []
