"""Small tables with known answers."""

import numpy as np
import pytest

from llmrouter.outcomes import OutcomeTable
from llmrouter.types import Price


def make_table(quality, cost=None, *, splits=None, prices=None, tokens=None, name="made-up", models=None):
    """Return a table of the given (n, m) outcomes; costs NaN unless given."""
    quality = np.asarray(quality, dtype=np.float64)
    n, m = quality.shape
    missing = np.full((n, m), np.nan)
    input_tokens, output_tokens = tokens if tokens is not None else (missing, missing)
    return OutcomeTable(
        prompt_ids=tuple(f"p{i}" for i in range(n)),
        models=tuple(models or (f"org/model-{j}" for j in range(m))),
        texts=tuple(f"secret prompt {i}" for i in range(n)),
        tasks=(None,) * n,
        splits=tuple(splits or ["train" if i % 2 else "test" for i in range(n)]),
        quality=quality,
        cost_usd=missing if cost is None else np.broadcast_to(np.asarray(cost, dtype=np.float64), (n, m)).copy(),
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        propensity=np.where(np.isfinite(quality), 1.0, np.nan),
        prices=tuple(prices or (None,) * m),
        name=name,
    )


def two_topics(n=200, *, seed=0, **options):
    """Return (table, embeddings): model-0 is cheap and knows topic 0, model-1 dear and knows topic 1, model-2 dearest.

    The embedding gives the topic away, so a neighbour router can be right where no single model is.
    """
    random = np.random.default_rng(seed)
    topic = random.integers(0, 2, size=n)
    skill = np.array([[0.9, 0.1, 0.85], [0.1, 0.9, 0.85]])[topic]
    quality = (random.random((n, 3)) < skill).astype(float)
    cost = np.array([0.001, 0.004, 0.02]) * random.uniform(0.5, 1.5, size=(n, 1))
    X = np.eye(4)[topic] + 0.05 * random.standard_normal((n, 4))
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    return make_table(quality, cost, **options), X.astype(np.float32)


@pytest.fixture(scope="session")
def topics():
    """The two-topic table with list prices, and its embeddings."""
    return two_topics(prices=[Price(1.0, 1.0), Price(2.0, 6.0), Price(10.0, 30.0)])


@pytest.fixture
def table_of():
    """The table maker."""
    return make_table
