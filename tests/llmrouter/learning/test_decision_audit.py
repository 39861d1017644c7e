"""Which outcomes drive a decision, and what it would be without one source."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llmrouter.exceptions import DataError
from llmrouter.learning import Audit, audit, trusted_weights
from llmrouter.routers import KNNRouter
from llmrouter.types import Outcome

D = 4
HERE = np.eye(D, dtype=np.float32)[0]


def logged(rows: list[tuple[str, str, float]]) -> tuple[list[Outcome], np.ndarray]:
    """Return outcomes at one place: model, source, quality."""
    outcomes = [
        Outcome(f"r{i}", time=float(i), model=model, key_id=source, quality=quality)
        for i, (model, source, quality) in enumerate(rows)
    ]
    return outcomes, np.tile(HERE, (len(rows), 1))


def audited(rows: list[tuple[str, str, float]], **further: Any) -> Audit:
    outcomes, X = logged(rows)
    report = trusted_weights(outcomes, X)
    # all count in full: what the weights are is tested elsewhere
    report.weight[:] = 1.0
    return audit(HERE, outcomes, X, report, **further)


ONE_SIDED = [("good", "a", 1.0)] * 3 + [("good", "b", 0.0)] * 3 + [("other", "c", 0.6)] * 3 + [("other", "d", 0.6)] * 3


def test_influence_is_each_outcomes_share_of_its_models_estimate() -> None:
    found = audited(ONE_SIDED)
    good = next(model for model in found.models if model.model == "good")
    # six outcomes of weight one, and the prior's five
    assert good.influence == {"a": pytest.approx(3 / 11, abs=1e-6), "b": pytest.approx(3 / 11, abs=1e-6)}
    assert good.estimate == pytest.approx((3 + 5 * 0.5) / 11, abs=1e-6)
    assert all(near.influence == pytest.approx(1 / 11, abs=1e-6) for near in found.nearest)


def test_a_source_that_decides_is_named() -> None:
    found = audited(ONE_SIDED)
    assert found.choice == "other"
    # without b's bad marks "good" would be chosen; nobody else's matter
    changed = {effect.source: effect.model for effect in found.without if effect.changes}
    assert changed == {"b": "good"}
    assert found.decisive == ("b",)


def test_it_is_what_the_knn_router_computes() -> None:
    rng = np.random.default_rng(0)
    models, n = ["x", "y", "z"], 120
    picks = rng.integers(3, size=n)
    quality = rng.random(n)
    X = rng.standard_normal((n, D)).astype(np.float32)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    outcomes = [
        Outcome(f"r{i}", time=float(i), model=models[picks[i]], key_id=f"k{i % 5}", quality=float(quality[i]))
        for i in range(n)
    ]
    report = trusted_weights(outcomes, X)
    report.weight[:] = 1.0
    y = np.full((n, 3), np.nan)
    y[np.arange(n), picks] = quality
    router = KNNRouter(k=30, shrinkage=5.0).fit(X, y)
    found = audit(HERE, outcomes, X, report, neighbours=30)
    expected = dict(zip(models, router.predict(HERE[None])[0].tolist(), strict=True))
    assert {model.model: model.estimate for model in found.models} == pytest.approx(expected, abs=1e-6)
    # and leaving a source out is a fit without it
    keep = np.array([i % 5 != 0 for i in range(n)])
    shown = {near.request_id for near in found.nearest}
    assert shown <= {outcome.request_id for outcome in outcomes}
    effect = next(effect for effect in found.without if effect.source == "k0")
    near = np.argsort(-(X @ HERE), kind="stable")[:30]
    left = np.intersect1d(near, np.flatnonzero(keep))
    refit = KNNRouter(k=len(left), shrinkage=5.0).fit(X[left], y[left])
    refit.mean_ = KNNRouter(k=1).fit(X[keep], y[keep]).mean_
    assert effect.model == models[int(refit.predict(HERE[None])[0].argmax())]


def test_cost_counts() -> None:
    assert audited(ONE_SIDED, penalty={"other": 0.9}).choice == "good"


def test_what_was_left_out_drives_nothing() -> None:
    outcomes, X = logged([("good", "a", 1.0), ("other", "b", 0.0), ("other", "c", 1.0)])
    report = trusted_weights(outcomes, X)
    report.weight[:] = [1.0, 1.0, 0.0]
    found = audit(HERE, outcomes, X, report)
    assert found.choice == "good"
    assert {effect.source for effect in found.without} == {"a", "b"}
    assert [near.request_id for near in found.nearest] == ["r0", "r1"]


def test_the_document_is_json() -> None:
    document = audited(ONE_SIDED, decided="other").document()
    assert document["decisive"] == ["b"]
    assert document["decided"] == "other"
    assert document["models"][0]["model"] == "other"


def test_a_log_without_judgements_explains_nothing() -> None:
    outcomes = [Outcome("r", time=0.0, model="a")]
    X = HERE[None]
    with pytest.raises(DataError, match="was judged"):
        audit(HERE, outcomes, X, trusted_weights(outcomes, X))
    with pytest.raises(DataError, match="as many"):
        audit(HERE, outcomes, np.empty((0, D)), trusted_weights(outcomes, X))
