"""Embeddings are of unit length; other rows are no reason to break."""

import numpy as np
import pytest

from llmrouter.registry import create


@pytest.mark.parametrize("name", ["ridge", "knn", "forest"])
@pytest.mark.parametrize("length", [0.2, 1.0, 30.0])
def test_a_model_is_added(name, length):
    generator = np.random.default_rng(0)
    X, scored, asked = (length * generator.normal(size=(count, 16)) for count in (200, 40, 5))
    router = create("router", name).fit(X, np.c_[X[:, 0] > 0, X[:, 0] <= 0].astype(float))
    mean, std = router.add_column(scored, (scored[:, 1] > 0).astype(float)).estimate(asked)
    assert mean.shape == std.shape == (5, 3)
    assert np.isfinite(mean).all()
    assert np.isfinite(std).all()
