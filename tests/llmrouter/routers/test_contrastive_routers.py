"""CSCR and RouterDC: their losses by hand and by differences, descriptors, what costs do, models that join."""

import numpy as np
import pytest

from llmrouter.exceptions import ConfigError, DataError, FingerprintError
from llmrouter.routers import CSCRRouter, ModelDescriptor, OutcomeFingerprint, RouterDCRouter
from llmrouter.routers._contrastive_loss import CostSpectrum, contrasted, sample_llm_loss, sample_sample_loss
from tests.contracts.router_kit import one_armed, rmse, through_a_file, topics

COSTS = np.array([1.0, 2.0, 4.0, 9.0])


def spectrum(**changes):
    return CostSpectrum.make(COSTS, **{"bands": 2, "alpha": 0.25, "tau_min": 0.05, "shift": -0.2} | changes)


def numeric_gradient(function, at, step=1e-6):
    slope = np.zeros_like(at)
    for place in np.ndindex(at.shape):
        up, down = at.copy(), at.copy()
        up[place] += step
        down[place] -= step
        slope[place] = (function(up) - function(down)) / (2 * step)
    return slope


# Losses


def test_bands_and_temperatures():
    made = spectrum()
    np.testing.assert_allclose(made.costs, [0, 1 / 8, 3 / 8, 1])
    assert made.band.tolist() == [0, 0, 1, 1]
    np.testing.assert_allclose(made.temperatures, [0.05 + 0.25 / 16, 0.05 + 0.25 * 11 / 16])
    alike = CostSpectrum.make(np.ones(4), bands=5, alpha=0.25, tau_min=0.05, shift=0.0)
    assert alike.band.tolist() == [0, 0, 0, 0]
    with pytest.raises(ConfigError, match="tau_min"):
        spectrum(tau_min=0.0, alpha=0.0)


def test_the_cost_spectrum_loss_by_hand():
    made = spectrum()
    s = np.array([[0.3, 0.1, 0.2, -0.4]])
    right = np.array([[1.0, 0.0, 0.0, 1.0]])
    terms = []
    for band, positive in ((0, 0), (1, 3)):
        tau = made.temperatures[band]
        whole = np.exp((s[0] - 0.2 * made.costs) / tau).sum()
        terms.append(-np.log(np.exp(s[0, positive] / tau) / whole))
    assert made.loss(s, right, np.ones(1))[0] == pytest.approx(np.mean(terms))


def test_one_band_and_no_cost_term_is_infonce():
    made = spectrum(bands=1, alpha=0.0, tau_min=0.5, shift=0.0)
    s, right = np.array([[0.3, 0.1, 0.2, -0.4]]), np.array([[0.0, 1.0, 1.0, 0.0]])
    expected = -np.log(np.exp(s[0, 1:3] / 0.5).sum() / np.exp(s[0] / 0.5).sum())
    assert made.loss(s, right, np.ones(1))[0] == pytest.approx(expected)


@pytest.mark.parametrize("shift", [-0.2, 0.0, 0.2])
def test_gradient_of_the_cost_spectrum_loss(shift):
    rng = np.random.default_rng(0)
    s, right, weight = rng.normal(size=(6, 4)), rng.random((6, 4)) * (rng.random((6, 4)) < 0.6), rng.random(6)
    right[1, 2] = np.nan
    right[2] = 0.0  # no model is right: the prompt says nothing
    made = spectrum(shift=shift, tau_min=0.3)
    slope = made.loss(s, right, weight)[1]
    np.testing.assert_allclose(slope, numeric_gradient(lambda at: made.loss(at, right, weight)[0], s), atol=1e-7)
    assert (slope[2] == 0).all()
    assert slope[1, 2] == 0
    np.testing.assert_allclose(slope.sum(axis=1), 0.0, atol=1e-12)  # only differences between models count


def test_the_signs_push_dear_models_apart_differently():
    """At equal cosines a wrong dear model is pushed away less under minus, more under plus."""
    s, right = np.zeros((1, 4)), np.array([[1.0, 0.0, 0.0, 0.0]])
    minus, none, plus = (spectrum(shift=shift).loss(s, right, np.ones(1))[1][0, 3] for shift in (-0.2, 0.0, 0.2))
    assert 0 < minus < none < plus


def test_gradient_and_choice_of_the_sample_llm_loss():
    rng = np.random.default_rng(1)
    s, score, weight, ties = rng.normal(size=(5, 6)), rng.random((5, 6)), rng.random(5), rng.random((5, 6))
    score[0, 1] = np.nan
    settings = {"best": 2, "worst": 3, "temperature": 0.7, "ties": ties}
    slope = sample_llm_loss(s, score, weight, **settings)[1]
    expected = numeric_gradient(lambda at: sample_llm_loss(at, score, weight, **settings)[0], s)
    np.testing.assert_allclose(slope, expected, atol=1e-7)
    positive, negative = contrasted(score, best=2, worst=3, ties=ties)
    assert not (positive & negative).any()
    assert not positive[0, 1]
    assert not negative[0, 1]
    assert (score[negative] <= 0.5).all()
    assert (positive.sum(axis=1) == 2).all()


def test_ties_do_not_favour_the_first_models():
    score, ties = np.ones((400, 6)), np.random.default_rng(0).random((400, 6))
    positive, _ = contrasted(score, best=3, worst=3, ties=ties)
    assert (np.abs(positive.mean(axis=0) - 0.5) < 0.1).all()
    assert not contrasted(np.zeros((3, 6)), best=3, worst=3, ties=ties[:3])[0].any(), "a wrong model is no positive"


def test_gradient_of_the_sample_sample_loss():
    rng = np.random.default_rng(2)
    queries, cluster = rng.normal(size=(7, 3)), np.array([0, 0, 1, 1, 2, 2, 2])

    def loss(at):
        return sample_sample_loss(at, cluster, negatives=3, generator=np.random.default_rng(3))

    np.testing.assert_allclose(loss(queries)[1], numeric_gradient(lambda at: loss(at)[0], queries), atol=1e-7)
    alone = sample_sample_loss(queries[:2], cluster[:2], negatives=3, generator=rng)
    assert alone[0] == pytest.approx(0.0), "without another cluster there is nothing to keep away from"


# Descriptors


def test_a_fingerprint_is_the_centred_outcomes_on_the_probes():
    X = np.eye(3, dtype=np.float32)
    y = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    plain = OutcomeFingerprint(X, shrinkage=0.0)
    described = plain.centred(X, y, np.ones(3)).describe(X, y, np.ones(3))
    np.testing.assert_allclose(described, np.array([[1, 0, -1], [-1, 0, 1]]) / np.sqrt(2))
    np.testing.assert_allclose(plain.profiles(X, y, np.ones(3)), y.T)


def test_a_descriptor_of_another_probe_set_is_refused():
    X, y, _ = topics(300)
    router, other = CSCRRouter(probes=8).fit(X, y), CSCRRouter(probes=8, seed=1).fit(X[:150], y[:150])
    mine = router.fingerprint_.one(X, y[:, 0], np.ones(len(X)))
    foreign = other.fingerprint_.one(X, y[:, 0], np.ones(len(X)))
    with pytest.raises(FingerprintError, match=r"probe_set 'outcome-.*router's is 'outcome-.*same probes.*again"):
        router.add_described(foreign)
    with pytest.raises(FingerprintError, match="shape"):
        router.add_described(ModelDescriptor(mine.vector[:3], mine.probe_set))
    before = router.estimate(X)
    assert router.add_described(mine).n_models_ == 5
    after = router.estimate(X)
    np.testing.assert_array_equal(after[0][:, :4], before[0])
    assert np.corrcoef(after[0][:, 4], after[0][:, 0])[0, 1] > 0.9, "the same model, known by its descriptor alone"
    np.testing.assert_array_equal(through_a_file(router).predict(X), router.predict(X))


def test_a_new_model_needs_only_its_scored_prompts():
    X, y, truth = topics(600)
    router = CSCRRouter(probes=16).fit(X, y[:, :3])
    heads = [layer.copy() for head in router.heads_ for layer in head.layers]
    router.add_column(X[:200], y[:200, 3])
    for before, after in zip(heads, (layer for head in router.heads_ for layer in head.layers)):
        np.testing.assert_array_equal(before, after)
    constant = rmse(np.full(len(X), y[:, 3].mean()), truth[:, 3])
    assert rmse(router.predict(X)[:, 3], truth[:, 3]) < 0.7 * constant


# Routers


def test_the_similarity_is_one_product_over_the_members():
    X, y, _ = topics(200)
    router = CSCRRouter(probes=8, members=3, epochs=3).fit(X, y)
    assert len(router.heads_) == 3
    queries = [head.project(X.astype(np.float64)) for head in router.heads_]
    expected = np.mean([query @ vectors.T for query, vectors in zip(queries, router.vectors_)], axis=0)
    np.testing.assert_allclose(router.similarity(X), expected, atol=1e-12)


@pytest.mark.parametrize("kind", [CSCRRouter, RouterDCRouter])
def test_costs(kind):
    X, y, _ = topics(200)
    text, listed = (kind(costs=costs, epochs=3).fit(X, y) for costs in ("1|2|4|9", [1, 2, 4, 9]))
    np.testing.assert_array_equal(text.predict(X), listed.predict(X))
    for wrong in ("1|2", [1, 2, 4, -9], "cheap|2|4|9", [1, 2, 4, np.inf]):
        with pytest.raises(ConfigError, match="costs"):
            kind(costs=wrong).fit(X, y)


def test_cost_aware_routerdc_prefers_the_cheap():
    X, y, _ = topics(600)
    y[:, 3] = np.maximum(y[:, 3], y[:, 0])
    plain, aware = (
        RouterDCRouter(costs=[1, 1, 1, 50], cost_rate=rate, best=1, worst=2).fit(X, y).similarity(X)
        for rate in (0.0, 0.9)
    )
    assert (aware.argmax(axis=1) == 3).mean() < (plain.argmax(axis=1) == 3).mean() - 0.1


@pytest.mark.parametrize("kind", [CSCRRouter, RouterDCRouter])
def test_a_log_of_one_model_a_prompt_gives_each_models_mean(kind):
    X, y, _ = topics(800)
    sparse = one_armed(y)
    predicted = kind().fit(X, sparse).predict(X)
    np.testing.assert_allclose(predicted.mean(axis=0), np.nanmean(sparse, axis=0), atol=0.02)


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        (CSCRRouter, {"cost_sign": "times"}),
        (CSCRRouter, {"anchors": "words"}),
        (CSCRRouter, {"start": "middle"}),
        (CSCRRouter, {"bands": 0}),
        (CSCRRouter, {"gamma": -0.2}),
        (CSCRRouter, {"tau_min": 0.0}),
        (CSCRRouter, {"members": 0}),
        (RouterDCRouter, {"temperature": 0.0}),
        (RouterDCRouter, {"cost_rate": -1.0}),
        (RouterDCRouter, {"best": 0}),
        (RouterDCRouter, {"learning_rate": 0.0}),
    ],
)
def test_bad_parameters_are_named(kind, parameters):
    X, y, _ = topics(40)
    with pytest.raises(ConfigError, match=next(iter(parameters))):
        kind(**parameters).fit(X, y)


def test_a_head_trained_elsewhere_must_fit():
    X, y, _ = topics(100)
    fitted = RouterDCRouter(members=1, epochs=3).fit(X, y)
    trained = fitted.heads_[0], fitted.vectors_[0]
    taken = RouterDCRouter().adopt(X, y, trained, held_out=np.arange(0, 100, 5))
    np.testing.assert_allclose(taken.similarity(X), fitted.similarity(X), atol=1e-12)
    with pytest.raises(DataError, match="held_out is empty"):
        RouterDCRouter().adopt(X, y, trained, held_out=np.array([], dtype=int))
    with pytest.raises(DataError, match="encoder and the models it was trained with"):
        RouterDCRouter().adopt(X[:, :4], y, trained, held_out=np.arange(5))
    with pytest.raises(DataError, match="encoder and the models it was trained with"):
        RouterDCRouter().adopt(X, y[:, :3], trained, held_out=np.arange(5))
