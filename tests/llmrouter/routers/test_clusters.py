"""Spherical k-means: found groups, one rule at fit and serving, independence of order and of repetitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrouter.routers._clusters import cosines, nearest_clusters, spherical_kmeans, unit_rows


def groups(n=90, seed=0):
    rng = np.random.default_rng(seed)
    group = np.arange(n) % 3
    return (np.eye(5)[group] + 0.1 * rng.normal(size=(n, 5))).astype(np.float32), group


def test_unit_rows():
    np.testing.assert_allclose(unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]])), [[0.6, 0.8], [0.0, 0.0]])


def test_cosines_by_hand():
    found = cosines(np.array([[2.0, 0.0], [1.0, 1.0]]), np.array([[1.0, 0.0], [0.6, 0.8]], dtype=np.float32))
    np.testing.assert_allclose(found, [[1.0, 0.6], [np.sqrt(0.5), 1.4 * np.sqrt(0.5)]], rtol=1e-6)


def test_nearest_clusters_break_ties_by_number():
    similarities = np.array([[0.1, 0.9, 0.9, 0.3]])
    assert nearest_clusters(similarities, 1).tolist() == [[1]]
    assert nearest_clusters(similarities, 3).tolist() == [[1, 2, 3]]
    assert nearest_clusters(similarities, 9).tolist() == [[1, 2, 3, 0]]


def test_groups_are_found():
    X, group = groups()
    centroids = spherical_kmeans(X, 3, weight=np.ones(len(X)), seed=0)
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1.0, rtol=1e-6)
    assigned = nearest_clusters(cosines(X, centroids), 1)[:, 0]
    assert all(len(set(assigned[group == number])) == 1 for number in range(3))
    assert len(set(assigned)) == 3
    for number in range(3):
        mean = unit_rows(unit_rows(X[assigned == number]).sum(axis=0)[None])[0]
        np.testing.assert_allclose(centroids[number], mean, atol=1e-5)


def test_no_more_clusters_than_directions():
    X = np.repeat(np.eye(2, dtype=np.float32), 10, axis=0)
    centroids = spherical_kmeans(X, 7, weight=np.ones(20), seed=0)
    assert sorted(centroids.tolist()) == [[0.0, 1.0], [1.0, 0.0]]


def test_many_prompts_are_thinned_out_and_still_found():
    X, group = groups(n=6000)
    centroids = spherical_kmeans(X, 3, weight=np.ones(len(X)), seed=1)
    assigned = nearest_clusters(cosines(X, centroids), 1)[:, 0]
    assert all(len(set(assigned[group == number])) == 1 for number in range(3))


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 60), st.integers(1, 8), st.integers(0, 2**31 - 1))
def test_order_and_repetition_do_not_matter(n, clusters, seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4)).astype(np.float32)
    count = rng.integers(1, 4, size=n)
    weighted = spherical_kmeans(X, clusters, weight=count.astype(float), seed=0)
    repeated = np.repeat(X, count, axis=0)[rng.permutation(count.sum())]
    np.testing.assert_array_equal(spherical_kmeans(repeated, clusters, weight=np.ones(len(repeated)), seed=0), weighted)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 40), st.integers(0, 2**31 - 1))
def test_assignment_is_the_same_bits_in_any_batch(n, seed):
    rng = np.random.default_rng(seed)
    X, centroids = rng.normal(size=(n, 33)).astype(np.float32), unit_rows(rng.normal(size=(6, 33)))
    together = cosines(X, centroids)
    np.testing.assert_array_equal(np.vstack([cosines(row[None], centroids) for row in X]), together)
    np.testing.assert_array_equal(cosines(X[::-1], centroids), together[::-1])


def test_seed_decides_the_start():
    X = np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32)
    first, again, other = (spherical_kmeans(X, 12, weight=np.ones(300), seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first[: len(other)], other[: len(first)])
    assert first.shape[0] == pytest.approx(12, abs=2)
