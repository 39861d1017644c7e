"""Online adaptation: what it learns, what bounds it, and that every replica comes to the same engine."""

import numpy as np
import pytest
from contracts import online_pool as pool
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrouter.exceptions import ArtifactCorruptError, ConfigError, DataError
from llmrouter.learning import OnlineLearner, OnlineParameters, ResidualPrior, load_online, save_online
from llmrouter.learning._online_features import LocalFeatures
from llmrouter.learning._online_residuals import fit_residuals
from llmrouter.types import RoutingRequest


def estimates(engine, rows=range(pool.N)):
    found = engine.estimate([str(row) for row in rows], [5] * len(rows))
    return np.stack([e.quality for e in found]), np.stack([e.quality_std for e in found])


def learned(events, engine=None, *, portions=(), **parameters):
    learner = OnlineLearner(pool.engine_of() if engine is None else engine, parameters=OnlineParameters(**parameters))
    start = 0
    for size in (*portions, len(events)):
        learner.learn(events[start : start + size])
        learner.engine()
        start += size
    return learner


def decisions(engine, count=1000):
    requests = [RoutingRequest(str(i % pool.N), prompt_tokens=1 + i // pool.N, dry_run=True) for i in range(count)]
    parts = [requests[start : start + 100] for start in range(0, count, 100)]
    return [decision.document() for part in parts for decision in engine.route_many(part)]


def test_outcomes_move_the_estimate_of_their_model_where_they_are():
    region = np.flatnonzero(pool.X[:, 0] > 0.4)[:40]
    rest = np.flatnonzero(pool.X[:, 0] < -0.4)
    before, _ = estimates(pool.engine_of())
    bad = [pool.event(i, quality=0.0, row=int(row)) for i, row in enumerate(region, 1)]
    usual = [pool.event(100 + i, quality=float(before[row, 0]), row=int(row)) for i, row in enumerate(rest)]
    after, _ = estimates(learned([*bad, *usual], max_influence=1.0).engine())
    moved = after - before
    assert moved[region, 0].mean() < -0.15
    assert moved[region, 0].mean() < moved[rest, 0].mean() - 0.05
    # what all models share moves the others a little, in the same direction
    assert moved[region, 0].mean() < moved[region, 1].mean() - 0.05
    assert moved[region, 1].mean() < 0


def test_no_change_is_larger_than_the_bound_and_quality_stays_in_its_range():
    events = [pool.event(i, model="alpha", quality=0.0, row=i % pool.N) for i in range(1, 800)]
    before, _ = estimates(pool.engine_of())
    for bound in (0.05, 0.2, 1.0):
        after, _ = estimates(learned(events, max_influence=bound).engine())
        assert np.abs(after - before).max() <= bound + 1e-9
        assert after.min() >= 0
        assert after.max() <= 1
        assert (after[:, 0] < before[:, 0]).mean() > 0.9


def test_standard_errors_shrink_with_outcomes_and_never_grow():
    events = [pool.event(i, model="beta", quality=float(i % 2), row=i % pool.N) for i in range(1, 300)]
    _, before = estimates(pool.engine_of())
    _, few = estimates(learned(events[:20]).engine())
    _, many = estimates(learned(events).engine())
    assert (few <= before).all()
    assert (many <= few + 1e-9).all()
    assert many[:, 1].mean() < 0.6 * before[:, 1].mean()
    assert many[:, 1].min() > 0


def test_a_single_outcome_cannot_buy_influence_with_its_weight():
    plain = learned([pool.event(1, quality=0.0, row=3)])
    loud = learned([pool.event(1, quality=0.0, row=3, quality_weight=1e9)])
    faint = learned([pool.event(1, quality=0.0, row=3, quality_weight=0.1)])
    base = estimates(pool.engine_of(), [3])[0][0, 0]
    moves = [base - estimates(learner.engine(), [3])[0][0, 0] for learner in (faint, plain, loud)]
    assert 0 < moves[0] < moves[1] == moves[2] < 0.2


def test_old_outcomes_fade():
    half_life = 3.0
    bad = [pool.event(i, quality=0.0, row=i, time=1e6) for i in range(1, 60)]
    later = pool.event(60, model="gamma", quality=1.0, row=200, time=1e6 + 86_400 * 5 * half_life)
    base = estimates(pool.engine_of())[0][:, 0].mean()
    fresh, faded, kept = (
        base - estimates(learned(events, half_life_days=life, max_influence=1.0).engine())[0][:, 0].mean()
        for events, life in ((bad, half_life), ([*bad, later], half_life), ([*bad, later], None))
    )
    assert fresh > 0.1
    assert faded < 0.35 * fresh
    assert kept > 0.8 * fresh


def test_a_model_that_the_artifact_does_not_know_is_learned_from_its_prior():
    engine = pool.engine_of(models=(*pool.MODELS, "new"))
    events = [pool.event(i, model="new", quality=1.0, row=i) for i in range(1, 80)]
    before, std = estimates(engine)
    learner = learned(events, engine)
    after, left = estimates(learner.engine())
    assert after[:, 3].mean() > before[:, 3].mean() + 0.2
    assert left[:, 3].mean() < 0.6 * std[:, 3].mean()


def test_what_says_nothing_is_passed_over_and_counted():
    engine = pool.engine_of(training={"log": {"until": 1e6 + 3}})
    events = [
        pool.event(1, row=1),  # not after 1e6 + 3
        pool.event(2, row=1, quality=None, time=2e6),
        pool.event(3, row=1, cache="hit", time=2e6),
        pool.event(4, row=1, model="nobody", time=2e6),
        pool.event(5, prompt=None, time=2e6),
        pool.event(6, prompt=None, embedding=[1.0, 0.0], time=2e6),  # of another encoder
        pool.event(7, prompt=None, embedding=pool.X[4].tolist(), time=2e6),
        pool.event(8, prompt="?", time=2e6),  # found to be unreadable only when it is encoded
        pool.event(9, row=1, model="nobody", served_by="beta", time=2e6),
    ]
    learner = learned(events, engine)
    state = learner.state()
    assert state.passed_over == {"trained_on": 1, "not_judged": 1, "cached": 1, "unknown_model": 1, "no_text": 2}
    assert (state.events, state.learned, state.cursor) == (9, 3, events[-1].cursor)
    assert state.rows == {"alpha": 2, "beta": 1}
    assert learner.engine() is not learner.base


def test_nothing_usable_leaves_the_artifact_as_it_is():
    learner = learned([pool.event(1, prompt="?")])
    assert learner.engine() is learner.base
    assert learned([]).engine().correction is None


def test_events_out_of_order_are_refused():
    learner = learned([pool.event(2)])
    with pytest.raises(DataError, match="does not follow"):
        learner.learn([pool.event(2)])
    assert learner.events == 1
    with pytest.raises(DataError, match="in order"):
        learner.learn([pool.event(3), pool.event(1)])
    assert learner.cursor == pool.event(3).cursor


def test_a_later_judgement_takes_the_place_of_the_earlier_one():
    changed = learned(
        [pool.event(1, quality=0.0, row=5), pool.event(2, quality=1.0, row=5, request_id="r1", time=1e6 + 1)]
    )
    plain = learned([pool.event(1, quality=1.0, row=5)])
    assert len(changed.window) == 1
    assert np.array_equal(estimates(changed.engine())[0], estimates(plain.engine())[0])


def test_the_window_holds_the_newest_and_old_prompts_are_never_encoded():
    engine = pool.engine_of()
    learner = OnlineLearner(engine, parameters=OnlineParameters(window=10))
    learner.learn([pool.event(i, row=i) for i in range(1, 101)])
    learner.engine()
    assert engine.encoder.encoded == 10
    assert [row.outcome.request_id for row in learner.window] == [f"r{i}" for i in range(91, 101)]
    assert all(row.outcome.prompt is None for row in learner.window)
    short = learned([pool.event(i, row=i) for i in range(91, 101)])
    assert np.array_equal(estimates(learner.engine())[0], estimates(short.engine())[0])


def test_an_engine_never_changes_and_is_new_only_after_something_was_learned():
    events = pool.log_of(60)
    learner = OnlineLearner(pool.engine_of())
    learner.learn(events[:30])
    first = learner.engine()
    before = estimates(first)
    assert learner.engine() is first
    learner.learn(events[30:])
    second = learner.engine()
    assert second is not first
    for old, now in zip(before, estimates(first), strict=True):
        assert np.array_equal(old, now)
    assert not np.array_equal(before[0], estimates(second)[0])
    assert second.policy is first.policy
    assert second.artifact_id == "test-1"


@pytest.mark.parametrize(
    ("router", "method"),
    [
        ("stack", "residuals"),
        ("knn", "residuals"),
        ("knn", "partial_fit"),
        ("uniroute", "partial_fit"),
        ("linear-bandit", "partial_fit"),
    ],
)
def test_replicas_answer_a_thousand_dry_runs_alike(router, method, tmp_path):
    """One reads the log at once, one in other portions, one starts again from a snapshot, one takes over."""
    events = pool.log_of(150)
    parameters = {"method": method, "window": 100}
    small = {"members": "forest:trees=10;kernel-ridge:landmarks=60;ridge;uniroute", "folds": 3}
    fitted = small if router == "stack" else {}
    engine = pool.engine_of(router, **fitted)
    at_once = learned(events, engine, **parameters)
    in_portions = learned(events, engine, portions=(1, 2, 50, 7, 0, 30), **parameters)
    saved = learned(events[:70], engine, **parameters)
    save_online(saved, tmp_path / "a.online", more={"note": 1})
    restarted = OnlineLearner(pool.engine_of(router, **fitted), parameters=OnlineParameters(**parameters))
    assert load_online(restarted, tmp_path / "a.online") == {"note": 1}
    assert np.array_equal(estimates(restarted.engine())[0], estimates(saved.engine())[0])
    assert restarted.state() == saved.state()
    restarted.learn(events[70:])
    successor = OnlineLearner(engine, parameters=OnlineParameters(**parameters))
    assert successor.take_over(saved)
    successor.learn(events[70:])
    expected = decisions(at_once.engine())
    for other in (in_portions, restarted, successor):
        assert decisions(other.engine()) == expected
        assert other.state() == at_once.state()
    assert expected != decisions(engine)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 40), max_size=6), st.integers(0, 50), st.integers(1, 80))
def test_portions_never_matter(portions, seed, window):
    events = pool.log_of(60, seed=seed, again=0.4)
    one = learned(events, window=window)
    other = learned(events, portions=portions, window=window)
    assert [row.outcome for row in one.window] == [row.outcome for row in other.window]
    for a, b in zip(estimates(one.engine()), estimates(other.engine()), strict=True):
        assert np.array_equal(a, b)


def test_a_decision_does_not_depend_on_who_else_is_in_its_batch():
    engine = learned(pool.log_of(120)).engine()
    requests = [RoutingRequest(str(i), prompt_tokens=3, dry_run=True) for i in range(64)]
    alone = [engine.route(request) for request in requests]
    shuffled = [requests[i] for i in np.random.default_rng(0).permutation(64)]
    for size in (2, 7, 64):
        found = {}
        for start in range(0, 64, size):
            part = shuffled[start : start + size]
            found |= {r.text: d for r, d in zip(part, engine.route_many(part), strict=True)}
        assert [found[r.text].document() for r in requests] == [d.document() for d in alone]


def test_partial_fit_lets_the_router_itself_learn_and_leaves_the_artifacts_alone():
    engine = pool.engine_of("knn", k=5)
    events = [pool.event(i, row=300 + i, quality=0.0, output_tokens=99) for i in range(1, 50)]
    learner = learned(events, engine, method="partial_fit")
    adapted = learner.engine()
    assert learner.state().method == "partial_fit"
    assert len(engine.trained.quality.index_) == pool.TRAINED_ON
    assert len(adapted.trained.quality.index_) == pool.TRAINED_ON + 49
    assert adapted.trained.cost.index_ is adapted.trained.quality.index_
    decision = adapted.route(RoutingRequest("310", prompt_tokens=3), neighbours=3)
    assert decision.neighbours[0].prompt_id == "r10"
    assert estimates(adapted, range(300, 340))[0][:, 0].mean() < estimates(engine, range(300, 340))[0][:, 0].mean()


def test_a_router_that_cannot_learn_on_is_corrected_instead():
    learner = learned(pool.log_of(20), method="partial_fit")
    assert learner.state().method == "residuals"
    assert learner.engine().correction is not None


def test_trust_weighs_the_window():
    def nobody(outcomes, X):
        assert X.shape == (len(outcomes), pool.D)
        return np.array([0.0 if outcome.key_id == "liar" else 1.0 for outcome in outcomes])

    lies = [pool.event(i, quality=0.0, row=i, key_id="liar") for i in range(1, 30)]
    learner = OnlineLearner(pool.engine_of(), trust=nobody)
    learner.learn([*lies, pool.event(30, row=40, key_id="friend")])
    honest = learned([pool.event(30, row=40, key_id="friend")])
    assert np.array_equal(estimates(learner.engine())[0], estimates(honest.engine())[0])


def test_snapshots_hold_no_text_and_fit_their_artifact_only(tmp_path):
    path = tmp_path / "x.online"
    learner = learned([pool.event(1, row=123, prompt_sha256="secret-sha"), pool.event(2, prompt="?")])
    save_online(learner, path, log="one")
    content = path.read_bytes()
    assert b"prompt" not in content
    assert b"secret-sha" not in content
    same = OnlineLearner(pool.engine_of())
    assert load_online(same, path, log="one") == {}
    assert len(same.window) == 2
    assert np.array_equal(estimates(same.engine())[0], estimates(learner.engine())[0])
    for other in (
        OnlineLearner(pool.engine_of(), parameters=OnlineParameters(window=7)),
        OnlineLearner(pool.engine_of(models=(*pool.MODELS, "new"))),
    ):
        assert load_online(other, path, log="one") is None
        assert not other.take_over(learner)
        assert other.cursor == ""
    assert load_online(OnlineLearner(pool.engine_of()), path, log="two") is None
    assert load_online(OnlineLearner(pool.engine_of()), tmp_path / "none") is None


@pytest.mark.parametrize("damage", ["cut", "noise", "empty"])
def test_a_damaged_snapshot_is_refused_and_nothing_is_taken_from_it(tmp_path, damage):
    path = tmp_path / "x.online"
    save_online(learned(pool.log_of(5)), path)
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[:-40], "noise": b"\x00" * 64, "empty": b""}[damage])
    learner = OnlineLearner(pool.engine_of())
    with pytest.raises(ArtifactCorruptError, match="x.online"):
        load_online(learner, path)
    assert learner.cursor == ""
    assert len(learner.window) == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("method", "magic"),
        ("max_influence", 0.0),
        ("max_influence", 1.5),
        ("half_life_days", 0.0),
        ("window", 0),
        ("landmarks", -1),
        ("scale", -1.0),
    ],
)
def test_parameters_out_of_range_are_named(name, value):
    with pytest.raises(ConfigError, match=name):
        OnlineParameters(**{name: value})


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(0, 6), st.integers(1, 40))
def test_the_elimination_is_the_joint_posterior(seed, landmarks, n):
    """Against the one large system of equations of shared and own coefficients."""
    rng = np.random.default_rng(seed)
    features = LocalFeatures(pool.X[:landmarks], scale=0.5)
    phi, f, models = features.of(pool.X[rng.integers(0, pool.N, n)]), features.size, 3
    column, residual, weight = rng.integers(0, 2, n), rng.normal(size=n) * 0.3, rng.random(n) + 0.01
    prior = ResidualPrior(0.1, 0.2, 0.15, 0.25, 0.4)
    found = fit_residuals(features, phi, column, residual, weight, priors=[prior] * models, bound=1.0)
    design = np.zeros((n, (1 + models) * f))
    design[:, :f] = phi
    for row, model in enumerate(column):
        design[row, f * (1 + model) : f * (2 + model)] = phi[row]
    shared = [prior.shared_bias_std**2, *[prior.shared_local_std**2] * landmarks]
    own = [prior.bias_std**2, *[prior.local_std**2] * landmarks]
    precision = weight / prior.noise_std**2
    covariance = np.linalg.inv(
        np.diag(1 / np.array([*shared, *own * models])) + design.T @ (design * precision[:, None])
    )
    mean = covariance @ (design.T @ (precision * residual))
    for model in range(models):
        take = np.zeros((f, (1 + models) * f))
        take[:, :f] = take[:, f * (1 + model) : f * (2 + model)] = np.eye(f)
        root = found.root[:, f * model : f * (model + 1)]
        assert np.allclose(found.mean[model], take @ mean, atol=1e-9)
        assert np.allclose(root @ root.T, take @ covariance @ take.T, atol=1e-9)
