"""Models that come and go in trained routers."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trained_pool import MODELS, PRICES, scored, table, trained

from llmrouter import artifact
from llmrouter.engine import check_trained
from llmrouter.exceptions import ArtifactError, DataError, FingerprintError, UnknownModelError
from llmrouter.learning import CardPrior, card_prior, replaced, repriced, with_prior, with_scored, without_model
from llmrouter.routers import CSCRRouter
from llmrouter.routers.descriptors import ModelDescriptor, save_descriptor
from llmrouter.types import Price

PRIOR = CardPrior(quality=0.7, std=0.2, output_tokens=25.0, cost_usd=3e-5, token_ratio=1.2, likeness={"large": 1.0})


@pytest.fixture(scope="module")
def base():
    return trained()


@pytest.fixture(scope="module")
def X():
    return table()[1]


def estimates(routers, X):
    return routers.quality.estimate(X), routers.cost.predict(X)


def test_scored_prompts_become_a_column_near_their_level(base, X):
    extended = with_scored(base, "new", scored(80, level=0.9), X)
    check_trained(extended)
    assert extended.models == (*MODELS, "new")
    assert extended.quality.predict(X)[:, 3].mean() == pytest.approx(0.9, abs=0.08)
    assert extended.cost.predict(X)[:, 3].mean() == pytest.approx(20, rel=0.1)
    assert extended.mean_output_tokens["new"] == pytest.approx(20, rel=0.1)
    assert extended.mean_cost_usd["new"] == pytest.approx(4e-5)
    assert extended.token_ratio["new"] == pytest.approx(3.0)
    assert extended.reference_cost_usd == base.reference_cost_usd  # the unit of weights stays


def test_the_present_models_and_the_given_routers_stay_as_they_are(base, X):
    before = estimates(base, X)
    extended = with_scored(base, "new", scored(), X)
    (mean, std), cost = estimates(extended, X)
    np.testing.assert_array_equal(mean[:, :3], before[0][0])
    np.testing.assert_array_equal(std[:, :3], before[0][1])
    np.testing.assert_array_equal(cost[:, :3], before[1])
    assert base.models == MODELS
    assert base.quality.n_models_ == 3
    assert extended.quality.index_ is base.quality.index_  # shared, not copied
    assert extended.cost.index_ is extended.quality.index_


def test_few_prompts_are_shrunk_and_more_sure_of_with_more(base, X):
    few, many = (with_scored(base, "new", scored(n, level=1.0), X) for n in (4, 200))
    error = [routers.quality.estimate(X)[1][:, 3].mean() for routers in (few, many)]
    assert error[0] > error[1]


def test_a_prior_counts_as_a_few_prompts(base, X):
    low = dataclasses.replace(PRIOR, quality=0.1)
    plain = with_scored(base, "new", scored(4, level=1.0), X)
    held = with_scored(base, "new", scored(4, level=1.0), X, prior=low)
    assert held.mean_quality["new"] < plain.mean_quality["new"]
    much = scored(200, level=1.0)
    assert with_scored(base, "new", much, X, prior=low).mean_quality["new"] > 0.85


def test_a_contrastive_router_reads_from_a_descriptor_where_the_new_model_is_good(base, X, tmp_path):
    def described(name, vector):
        return ModelDescriptor(np.asarray(vector), probe_set="p", kind="logit", settings={}, provenance={"model": name})

    places = np.eye(3) + 0.1
    for name, vector in zip(MODELS, places, strict=True):
        save_descriptor(tmp_path / name, described(name, vector))
    outcomes = (np.random.default_rng(0).random((len(X), 3)) < base.quality.predict(X)).astype(float)
    router = CSCRRouter(descriptors=[str(tmp_path / name) for name in MODELS], members=1).fit(X, outcomes)
    routers, twin = dataclasses.replace(base, quality=router), described("new", places[1] + [0.02, 0.0, 0.02])
    believed = with_prior(routers, "new", PRIOR, X, descriptor=twin)
    check_trained(believed)
    similarity = believed.quality.similarity(X)
    assert np.corrcoef(similarity[:, 3], similarity[:, 1])[0, 1] > 0.95
    assert believed.quality.predict(X)[:, 3].mean() == pytest.approx(PRIOR.quality, abs=0.05)
    np.testing.assert_array_equal(believed.quality.predict(X)[:, :3], router.predict(X))
    assert router.n_models_ == 3
    with pytest.raises(FingerprintError, match="probe_set"):
        with_prior(routers, "new", PRIOR, X, descriptor=dataclasses.replace(twin, probe_set="other"))


def test_a_better_model_becomes_the_best_single_one_and_a_believed_one_does_not(base, X):
    assert with_scored(base, "new", scored(100, level=1.0), X).best_single == "new"
    assert with_prior(base, "new", dataclasses.replace(PRIOR, quality=1.0), X).best_single == base.best_single


def test_a_prior_column_has_a_wide_error_and_the_card_s_numbers(base, X):
    believed = with_prior(base, "new", PRIOR, X)
    mean, std = believed.quality.estimate(X)
    assert mean[:, 3].mean() == pytest.approx(0.7, abs=0.05)
    np.testing.assert_allclose(std[:, 3], 0.2)
    assert believed.mean_cost_usd["new"] == 3e-5
    assert believed.token_ratio["new"] == 1.2
    assert believed.cost.predict(X)[:, 3].mean() == pytest.approx(25, rel=0.05)


def test_the_calibration_gets_a_column_without_observations(base, X):
    extended = with_scored(base, "new", scored(), X)
    calibration = extended.calibration
    assert calibration.models == (*MODELS, "new")
    assert np.isnan(calibration.quality[:, 3]).all()
    assert np.isfinite(calibration.expected_quality).all()
    assert calibration.expected_cost_usd[:, 3].mean() == pytest.approx(4e-5, rel=0.05)
    shrunk = without_model(extended, "middle")
    assert shrunk.calibration.models == ("small", "large", "new")
    np.testing.assert_array_equal(shrunk.calibration.quality[:, 0], base.calibration.quality[:, 0])


def test_a_calibration_over_other_models_is_left_out(X):
    odd = dataclasses.replace(trained(), models=("a", "b", "c"), mean_quality={"a": 0.5}, best_single="a")
    assert with_scored(odd, "new", scored(), X).calibration is None


def test_removing_moves_the_best_single_model_on(base):
    shrunk = without_model(base, base.best_single)
    assert shrunk.best_single == max(shrunk.mean_quality, key=shrunk.mean_quality.get)
    assert base.best_single not in shrunk.mean_cost_usd
    check_trained(shrunk)


def test_a_new_version_expects_what_the_old_one_did_and_less_surely(base, X):
    upgraded = replaced(base, "large", "large-2", std=0.15, X=X)
    assert upgraded.models == ("small", "middle", "large-2")
    (old, old_std), _ = estimates(base, X)
    (new, new_std), cost = estimates(upgraded, X)
    assert np.corrcoef(old[:, 2], new[:, 2])[0, 1] > 0.99
    assert new[:, 2].mean() == pytest.approx(old[:, 2].mean(), abs=0.01)
    assert new_std[:, 2].mean() == pytest.approx(np.hypot(0.15, old_std[:, 2].mean()), rel=1e-6)
    assert cost[:, 2].mean() == pytest.approx(base.cost.predict(X)[:, 2].mean(), rel=0.02)


def test_another_price_moves_the_mean_cost_and_no_estimate(base, X):
    double = Price(10.0, 20.0)
    dearer = repriced(base, "large", old=PRICES["large"], new=double)
    assert dearer.mean_cost_usd["large"] == pytest.approx(2 * base.mean_cost_usd["large"])
    np.testing.assert_array_equal(dearer.cost.predict(X), base.cost.predict(X))
    np.testing.assert_allclose(dearer.calibration.cost_usd[:, 2], 2 * base.calibration.cost_usd[:, 2])
    # Only reading got dearer: the tokens written are known, the rest is what was read.
    partly = repriced(base, "large", old=PRICES["large"], new=Price(10.0, 10.0))
    written = base.mean_output_tokens["large"] * 10.0 / 1e6
    assert partly.mean_cost_usd["large"] == pytest.approx(2 * (base.mean_cost_usd["large"] - written) + written)


def test_routers_of_dollars_cannot_be_repriced_but_take_models_in(X):
    dollars = trained(cost_unit="usd")
    with pytest.raises(ArtifactError, match="train it again"):
        repriced(dollars, "large", old=PRICES["large"], new=Price(1, 1))
    extended = with_scored(dollars, "new", scored(), X)
    assert extended.cost.predict(X)[:, 3].mean() == pytest.approx(4e-5, rel=0.1)
    assert with_prior(dollars, "new", PRIOR, X).cost.predict(X)[:, 3].mean() == pytest.approx(3e-5, rel=0.1)


def test_what_cannot_be_done_is_said(base, X):
    with pytest.raises(DataError, match="knows 'large' already"):
        with_scored(base, "large", scored(), X)
    with pytest.raises(UnknownModelError):
        without_model(base, "nobody")
    with pytest.raises(UnknownModelError):
        replaced(base, "nobody", "new", std=0.1, X=X)
    with pytest.raises(DataError, match="there are none"):
        replaced(base, "large", "new", std=0.1, X=X[:0])
    nothing = dataclasses.replace(scored(), quality=np.full(50, np.nan))
    with pytest.raises(DataError, match="no prompt of 'new' has a score"):
        with_scored(base, "new", nothing, X)
    uncounted = dataclasses.replace(scored(), output_tokens=np.full(50, np.nan))
    with pytest.raises(DataError, match="no output tokens"):
        with_scored(base, "new", uncounted, X)
    alone = without_model(without_model(base, "small"), "middle")
    with pytest.raises(DataError, match="only model"):
        without_model(alone, "large")


@pytest.mark.parametrize("change", ["scored", "prior", "replaced", "removed"])
def test_an_artifact_holds_it(base, X, change, tmp_path):
    from llmrouter.encoders import load_encoder

    changed = {
        "scored": lambda: with_scored(base, "new", scored(), X),
        "prior": lambda: with_prior(base, "new", PRIOR, X),
        "replaced": lambda: replaced(base, "large", "large-2", std=0.1, X=X),
        "removed": lambda: without_model(base, "middle"),
    }[change]()
    spec = artifact.EncoderSpec("static", {}, load_encoder("static").fingerprint)
    folder = artifact.save(changed, tmp_path, encoder=spec, training={})
    again = artifact._read_parts(folder, artifact.read_manifest(folder))
    assert again.models == changed.models
    for one, other in zip(again.quality.estimate(X), changed.quality.estimate(X), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)
    np.testing.assert_allclose(again.cost.predict(X), changed.cost.predict(X))


@settings(deadline=None, max_examples=30)
@given(
    steps=st.lists(st.sampled_from(["add", "prior", "remove-new", "remove-old"]), min_size=1, max_size=5),
    seed=st.integers(0, 5),
)
def test_whatever_comes_and_goes_the_others_stay(steps, seed):
    base, (_, X) = trained(calibrated=False, n=60), table(60)
    routers = base
    for number, step in enumerate(steps):
        added = [name for name in routers.models if name.startswith("new")]
        old = [name for name in routers.models if name in MODELS]
        if step == "add":
            unknown = np.full((12, len(routers.models)), np.nan)
            fields = ("known_quality", "known_output_tokens", "known_cost_usd")
            given_scores = dataclasses.replace(scored(12, seed=seed), **dict.fromkeys(fields, unknown))
            routers = with_scored(routers, f"new{number}", given_scores, X)
        elif step == "prior":
            routers = with_prior(routers, f"new{number}", PRIOR, X)
        elif step == "remove-new" and added:
            routers = without_model(routers, added[0])
        elif step == "remove-old" and len(old) > 1:
            routers = without_model(routers, old[0])
        check_trained(routers)
        left = [name for name in routers.models if name in MODELS]
        columns, were = [routers.models.index(name) for name in left], [MODELS.index(name) for name in left]
        np.testing.assert_array_equal(routers.quality.predict(X)[:, columns], base.quality.predict(X)[:, were])
        assert set(routers.mean_quality) == set(routers.models)


def test_the_card_prior_of_the_pool_is_usable(base, X):
    believed = with_prior(base, "new", card_prior(base, Price(2.0, 4.0), prices=PRICES), X)
    assert 0 < believed.mean_quality["new"] < 1
