"""The simulation of the loop and the gate's trials, on a small world whose truth is known."""

import argparse
import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.learning import _gate_page, _simulation_page, gate, simulate
from benchmarks.learning._gate_trials import contests, exact_interval, log_of, trials
from benchmarks.learning._loop import Settings, full_information, run, true_gain
from benchmarks.learning._playback import Log, Trial, log_as_table, play, play_epsilon
from benchmarks.learning._population import Estimated, FittedRouter, best_single_estimates, population_of
from llmrouter.exceptions import ConfigError
from llmrouter.outcomes import OutcomeTable
from llmrouter.policy import ExplorePolicy, UtilityPolicy
from llmrouter.types import Candidate, Estimates, ModelCard, Price, RoutingRequest

MODELS = ("dear", "cheap", "odd")
ROUTER = "linear-bandit:penalty=3.0"


def make_table(n=600, seed=0):
    """Return prompts of two kinds: `dear` is right on most, `cheap` on the first kind only, `odd` on the second."""
    generator = np.random.default_rng(seed)
    kind = generator.integers(0, 2, n)
    X = generator.normal(scale=0.3, size=(n, 6)) + np.outer(2 * kind - 1, [1.0, 0, 0, 0, 0, 0])
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    chance = np.stack([np.full(n, 0.8), np.where(kind == 0, 0.8, 0.1), np.where(kind == 1, 0.8, 0.1)], axis=1)
    quality = (generator.random((n, 3)) < chance).astype(float)
    cost = np.array([0.01, 0.0005, 0.001]) * generator.uniform(0.9, 1.1, (n, 3))
    unknown = np.full((n, 3), np.nan)
    texts = tuple(f"{'please sum' if value else 'dear friend'} {i}" for i, value in enumerate(kind.tolist()))
    table = OutcomeTable(
        prompt_ids=tuple(f"p{i}" for i in range(n)),
        models=MODELS,
        texts=texts,
        tasks=(None,) * n,
        splits=("train",) * (n - n // 4) + ("test",) * (n // 4),
        quality=quality,
        cost_usd=cost,
        input_tokens=unknown,
        output_tokens=unknown,
        propensity=np.ones((n, 3)),
        prices=(None,) * 3,
        name="small",
    )
    return table, X.astype(np.float32)


def make_population(axis="usd", **changes):
    table, X = make_table(**changes)
    n = len(table)
    about = {
        "data": "small",
        "traffic_prompts": n - n // 4,
        "scored_prompts": n // 4,
        "scored_split": "test",
        "models": list(MODELS),
        "cost": axis,
        "encoder": "none",
    }
    rows = np.arange(n)
    return population_of(table, X, traffic=rows[: n - n // 4], scored=rows[n - n // 4 :], axis=axis, about=about)


@pytest.fixture(scope="module")
def population():
    return make_population()


def small(**changes):
    return Settings(**{"router": ROUTER, "cost_weight": 0.3, "requests": 6000, "trainings": 3, **changes})


def trial_of(population, share):
    estimates = FittedRouter.fit(population.table, population.X, spec=ROUTER, population=population).estimate(
        population.X
    )
    policy = UtilityPolicy(0.3, guard=None, reference_cost_usd=population.reference)
    return Trial(policy, estimates, estimates.choices(0.3, reference=population.reference), share, 5)


# Playback


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_many_at_once_has_the_probabilities_of_the_real_policies(population, share):
    estimates = best_single_estimates(population, len(population))
    drawn = np.random.default_rng(0).integers(0, len(population), 300)
    trial = trial_of(population, share) if share else None
    base = UtilityPolicy(0.3, guard=None, reference_cost_usd=population.reference)
    one = play(ExplorePolicy(base, share=0.1), estimates, drawn, population=population, trial=trial)
    choices = estimates.choices(0.3, reference=population.reference)
    many = play_epsilon(
        choices, drawn, share=0.1, population=population, trial=trial, generator=np.random.default_rng(1)
    )
    assert np.allclose(one.propensity, many.propensity, atol=1e-12)
    assert np.allclose(one.propensity.sum(axis=1), 1.0)
    for log in (one, many):
        assert np.array_equal(log.explored, log.chosen != choices[drawn])
        assert np.array_equal(log.quality, population.table.quality[drawn, log.chosen])


@pytest.mark.parametrize("share", [0.0, 0.4])
@pytest.mark.parametrize("real", [True, False])
def test_models_are_chosen_as_often_as_their_propensities_say(population, share, real):
    estimates = best_single_estimates(population, len(population))
    drawn = np.random.default_rng(3).integers(0, len(population), 4000)
    trial = trial_of(population, share) if share else None
    if real:
        base = UtilityPolicy(0.3, guard=None, reference_cost_usd=population.reference)
        log = play(ExplorePolicy(base, share=0.2), estimates, drawn, population=population, trial=trial)
    else:
        choices = estimates.choices(0.3, reference=population.reference)
        generator = np.random.default_rng(4)
        log = play_epsilon(choices, drawn, share=0.2, population=population, trial=trial, generator=generator)
    expected = log.propensity.mean(axis=0)
    found = np.bincount(log.chosen, minlength=3) / len(log)
    assert np.abs(found - expected).max() < 4 * np.sqrt(0.25 / len(log))


def test_estimates_choose_as_the_utility_policy_does(population):
    generator = np.random.default_rng(0)
    estimates = Estimated(
        generator.random((200, 3)).round(1), np.full((200, 3), 0.1), generator.choice([0.001, 0.002, 0.01], (200, 3))
    )
    policy = UtilityPolicy(0.3, guard=None, reference_cost_usd=0.01)
    candidates = [Candidate(ModelCard(model, Price(0.0, 0.0))) for model in MODELS]
    chosen = estimates.choices(0.3, reference=0.01)
    for row in range(200):
        one = Estimates(MODELS, estimates.quality[row], estimates.std[row], estimates.cost[row], np.full(3, np.nan))
        assert policy.choose(RoutingRequest(""), candidates, one).model == MODELS[chosen[row]]


@given(
    st.lists(st.tuples(st.integers(0, 19), st.integers(0, 2)), min_size=1, max_size=60),
)
@settings(max_examples=50, deadline=None)
def test_a_log_as_a_table_holds_the_asked_cells_and_no_others(asked):
    world = make_population(n=40)
    rows, chosen = (np.array(values) for values in zip(*asked, strict=True))
    n = len(rows)
    log = Log(
        rows=rows,
        chosen=chosen,
        quality=world.table.quality[rows, chosen],
        cost=world.cost[rows, chosen],
        propensity=np.full((n, 3), 1 / 3),
        explored=np.zeros(n, dtype=bool),
        stage=np.zeros(n, dtype=np.int64),
    )
    table, X, count = log_as_table(log, world)
    distinct = np.unique(rows)
    assert table.prompt_ids == tuple(world.table.prompt_ids[row] for row in distinct)
    assert count.sum() == n
    expected = np.zeros((len(distinct), 3), dtype=bool)
    expected[np.searchsorted(distinct, rows), chosen] = True
    assert np.array_equal(np.isfinite(table.quality), expected)
    assert np.array_equal(np.isfinite(table.cost_usd), expected)
    assert np.allclose(table.quality[expected], world.table.quality[distinct][expected])
    assert np.array_equal(X, world.X[distinct])


# The loop


def test_the_loop_learns_and_keeps_to_its_share(population):
    plan = small(share=0.05)
    full = full_information(population, plan)
    found = {name: run(population, name, plan, seed=1, full=full) for name in ("loop", "never", "always", "full")}
    assert found["never"]["aiq"] == found["never"]["best_single_aiq"]
    assert found["never"]["explored"] == 0
    assert found["never"]["promotions"] == 0
    assert found["full"]["share_closed"] == pytest.approx(1.0)
    assert found["full"]["regret"][-1] == pytest.approx(0.0)
    assert found["always"]["explored"] == 1.0
    loop = found["loop"]
    assert loop["promotions"] >= 1
    assert loop["share_closed"] > max(0.5, found["never"]["share_closed"])
    assert 0.02 < loop["explored"] < 0.06
    assert loop["regret"][-1] < min(found["never"]["regret"][-1], found["always"]["regret"][-1])
    for figures in found.values():
        assert len(figures["stages"]) == plan.trainings + 1
        assert (np.diff(figures["regret_oracle"]) >= -1e-9).all()
        assert all(np.array(figures["regret_oracle"]) >= np.array(figures["regret"]) - 1e-9)


def test_without_a_gate_whatever_was_trained_is_served(population):
    plan = small()
    figures = run(population, "no-gate", plan, seed=0, full=full_information(population, plan))
    assert [stage["promoted"] for stage in figures["stages"]] == [True] * plan.trainings + [False]


@pytest.mark.parametrize("strategy", ["loop", "no-trial"])
def test_what_was_not_asked_changes_nothing(population, strategy):
    """The outcomes of the models that were not chosen are hidden from the loop: others give the same decisions."""
    plan = small(requests=1500, trainings=2)
    full = full_information(population, plan)
    before = run(population, strategy, plan, seed=2, full=full)
    seen = np.zeros(population.table.quality.shape, dtype=bool)
    logs = _logged(population, strategy, plan)
    seen[logs.rows, logs.chosen] = True
    assert not seen.all()
    # The start knows the best single model's mean, and prices; that column and the costs stay.
    seen[:, population.best_single] = True
    other = dataclasses.replace(
        population, table=dataclasses.replace(population.table, quality=np.where(seen, population.table.quality, 0.5))
    )
    assert other.best_single == population.best_single
    after = run(other, strategy, plan, seed=2, full=full)
    for name in ("quality", "explored_by_window"):
        assert before[name] == after[name]
    assert [stage["live_aiq"] for stage in before["stages"]] == [stage["live_aiq"] for stage in after["stages"]]


def _logged(population, strategy, plan):
    from benchmarks.learning import _loop

    drawn = np.random.default_rng([2, 1]).integers(0, len(population), plan.requests)
    return _loop._loop(population, strategy, plan, drawn, seed=2)[0]


@pytest.mark.parametrize("method", ["thompson", "uncertainty"])
def test_the_other_methods_explore_too(population, method):
    plan = small(requests=1200, trainings=2, method=method)
    figures = run(population, "loop", plan, seed=0, full=full_information(population, plan))
    assert 0 < figures["explored"] < 0.1


@pytest.mark.parametrize("missing", ["none", "direct", "ipw", "dr"])
def test_every_way_with_the_gaps_trains(population, missing):
    plan = small(router="ridge", requests=1500, trainings=1, missing=missing)
    figures = run(population, "no-gate", plan, seed=0, full=full_information(population, plan))
    assert np.isfinite(figures["aiq"])


def test_a_call_of_the_strong_model_costs_one():
    world = make_population("calls")
    assert world.known_cost
    assert world.reference == 1.0
    assert sorted(world.mean_cost.tolist()) == [0.0, 0.0, 1.0]
    plan = small(cost_weight=0.15, requests=1500, trainings=1)
    figures = run(world, "loop", plan, seed=0, full=full_information(world, plan))
    assert np.isfinite(figures["share_closed"])


def test_early_shares_keep_the_mean():
    plan = small(trainings=9, early=(3.0, 2.0))
    shares = [plan.share_of(part) for part in range(10)]
    assert shares[0] == pytest.approx(3 * plan.share)
    assert shares[1] == pytest.approx(2 * plan.share)
    assert np.mean(shares) == pytest.approx(plan.share)


@pytest.mark.parametrize("early", [(3.0, 2.0), (1.0, 1.0), (-1.0,)])
def test_early_shares_must_leave_room(early):
    with pytest.raises(ConfigError, match="early"):
        small(trainings=1, early=early)


# The gate's trials


@pytest.fixture(scope="module")
def made(population):
    return contests(population, (-0.05, 0.02), router=ROUTER, cost_weight=0.3, seed=0)


def test_contests_have_the_true_gain_they_say(population, made):
    for wanted, contest in made.items():
        assert contest.true_gain == pytest.approx(wanted, abs=0.004)
        assert contest.true_gain == pytest.approx(true_gain(contest.new, contest.live, population, 0.3))
        assert 0 < contest.disagreement < 1


@pytest.mark.parametrize("design", ["explore", "trial"])
def test_logs_explore_no_more_than_their_share(population, made, design):
    for contest in made.values():
        log = log_of(contest, design, 5000, share=0.05, population=population, generator=np.random.default_rng(0))
        assert 0.02 < log.explored.mean() < 0.065
        assert np.allclose(log.propensity.sum(axis=1), 1.0)


def test_the_gate_tells_better_from_worse(population, made):
    def promoted(contest):
        figures = trials(
            contest,
            "trial",
            4000,
            count=10,
            share=0.1,
            population=population,
            cost_weight=0.3,
            confidence=0.95,
            seed=0,
        )
        assert figures["mean_gain"] == pytest.approx(contest.true_gain, abs=4 * figures["std_gain"] / np.sqrt(10))
        return figures["promoted"]

    assert promoted(made[-0.05]) == 0
    assert promoted(made[0.02]) >= 6


@pytest.mark.parametrize("design", ["explore", "trial"])
def test_needed_requests_are_those_at_which_estimates_vary_little_enough(population, made, design):
    figures = trials(
        made[-0.05],
        design,
        2000,
        count=60,
        share=0.1,
        population=population,
        cost_weight=0.3,
        confidence=0.95,
        seed=0,
    )
    enough = 0.02 / (1.6449 + 0.8416)
    assert figures["needed"] == pytest.approx(2000 * (figures["std_gain"] / enough) ** 2, rel=0.5)
    assert figures["needed_best"] <= 1.1 * figures["needed"]
    assert figures["needed_said"] == pytest.approx(figures["needed"], rel=0.35)


def test_resumed_trials_keep_what_is_there():
    options = argparse.Namespace(sets=["old"], requests=[500], trials=4, share=0.1, confidence=0.95, seed=0, router="r")
    kept = {
        "command": "python -m benchmarks.learning gate --data DIR --out DIR --trials 4 --requests 500 --seed 0",
        "settings": {"router": "r", "share": 0.1, "confidence": 0.95, "trials": 4, "seed": 0},
        "took_s": 100.0,
        "sets": {"old": {"rows": []}},
    }
    document = gate.measure(options, kept)
    assert document["sets"] == kept["sets"]
    assert document["took_s"] >= 100
    assert (document["command"], document["settings"]) == (kept["command"], kept["settings"])
    options.seed = 1
    with pytest.raises(ConfigError, match="--seed 0"):
        gate.measure(options, kept)


@given(st.integers(1, 300), st.data())
@settings(max_examples=40, deadline=None)
def test_intervals_of_rates_are_exact(count, data):
    """At each end of the interval what was seen, or more extreme, has a probability of 2.5%."""
    successes = data.draw(st.integers(0, count))
    low, high = exact_interval(successes, count)
    assert 0 <= low <= successes / count <= high <= 1
    at_most = _at_most(successes, count, high)
    at_least = 1 - _at_most(successes - 1, count, low)
    assert at_most == pytest.approx(1.0 if successes == count else 0.025, abs=1e-8)
    assert at_least == pytest.approx(1.0 if successes == 0 else 0.025, abs=1e-8)


def _at_most(successes, count, rate):
    return math.fsum(math.comb(count, k) * rate**k * (1 - rate) ** (count - k) for k in range(successes + 1))


def test_the_gate_page_says_met_and_missed(population):
    options = argparse.Namespace(requests=[500], trials=4, share=0.1, confidence=0.95, router=ROUTER, seed=0)
    rows = gate.measure_set(population, 0.3, options)
    assert {row["design"] for row in rows} == {"explore", "trial"}
    document = {
        "command": "command",
        "started": 0.0,
        "took_s": 60.0,
        "machine": {"architecture": "a", "cores": 1, "python": "3", "load_average": 0.0},
        "commit": None,
        "settings": {"router": ROUTER, "share": 0.1, "confidence": 0.95, "trials": 4, "seed": 0},
        "designs": {"explore": "this", "trial": "that"},
        "sets": {"small": {"about": {}, "cost_weight": 0.3, "rows": rows}},
    }
    for rate, verdict in ((0.0, "missed"), (1.0, "met")):
        for row in rows:
            row["rate"] = rate if row["true_gain"] > 0 else 0.0
        found = _gate_page.targets(document)
        assert [met for what, _, _, met in found if "better" in what] == [verdict == "met"] * 2
        assert all(met for what, _, _, met in found if "worse" in what)
        assert f"**{verdict}**" in _gate_page.render(document)
    for row in rows:
        row["rate"] = 0.06
    assert not any(met for what, _, _, met in _gate_page.targets(document) if "worse" in what)


# The commands


def test_the_command_writes_results_page_and_plot(tmp_path, monkeypatch, capsys):
    table, X = make_table(n=300)
    monkeypatch.setattr("benchmarks.learning._population.load_table", lambda folder: table)
    monkeypatch.setattr("benchmarks.learning._population.encode_cached", lambda encoder, texts: X)
    looks = tmp_path / "looks.jsonl"
    monkeypatch.setattr(simulate, "LOOKS", looks)
    arguments = ["--data", str(tmp_path), "--out", str(tmp_path), "--sets", "routerbench_subset", "--router", ROUTER]
    arguments += ["--other-router", "", "--seeds", "0", "--requests", "800", "--trainings", "2", "--early"]
    assert simulate.main(arguments) == 0
    document = json.loads((tmp_path / "simulation.json").read_text())
    assert "closed" in capsys.readouterr().out
    runs = document["sets"]["routerbench_subset"]["runs"]
    assert {run["strategy"] for run in runs} == {"loop", "no-trial", "no-gate", "always", "never", "full"}
    page = (tmp_path / "simulation.md").read_text()
    assert "p0" not in page
    assert "dear friend" not in json.dumps(document)
    assert len(looks.read_text().splitlines()) == 1
    assert str(tmp_path) not in json.dumps(document)
    # The page comes from the file alone, and says so where a target is missed.
    runs[0]["share_closed"], runs[0]["explored"] = 0.4, 0.06
    assert [met for *_, met in _simulation_page.targets(document)] == [False, False]
    runs[0]["share_closed"], runs[0]["explored"] = 0.6, 0.04
    assert [met for *_, met in _simulation_page.targets(document)] == [True, True]
    assert _simulation_page.render(document).count("**met**") == 2
    # Scored on a part of train, no look at test is logged.
    assert simulate.main([*arguments, "--inner", "0"]) == 0
    assert len(looks.read_text().splitlines()) == 1
    assert (tmp_path / "simulation-train-0.json").exists()
