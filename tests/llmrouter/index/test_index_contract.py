"""Every registered index passes the kit and gives the same neighbours as every other."""

import numpy as np
import pytest

from llmrouter.exceptions import MissingExtraError
from llmrouter.index import load_index
from llmrouter.registry import available, create, resolve
from tests.contracts.index_kit import check_index, unit_rows

INDEXES = available("index")


def constructed(name, dimension):
    try:
        return create("index", name, dimension=dimension)
    except MissingExtraError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", INDEXES)
def test_index_keeps_the_contract(name):
    constructed(name, 2)
    check_index(resolve("index", name))


@pytest.mark.parametrize("name", INDEXES)
def test_index_agrees_with_exact_on_many_rows(name, tmp_path):
    rows = unit_rows(3000, dimension=64, seed=1)
    rows[1000:1500] = rows[:500]  # twins, as benchmark prompts have
    ids = np.random.default_rng(0).permutation(9000)[:3000]
    queries = np.concatenate([unit_rows(40, dimension=64, seed=2), rows[:40]])
    exact, other = create("index", "exact", dimension=64), constructed(name, 64)
    for index in (exact, other):
        for start in range(0, 3000, 700):
            index.add(ids[start : start + 700], rows[start : start + 700])
        index.remove(ids[100:1200:3])
    other.save(tmp_path)
    for index in (other, load_index(tmp_path), load_index(tmp_path, "exact"), load_index(tmp_path, name)):
        for k in (1, 10, 100, 2000):
            expected, found = exact.search(queries, k), index.search(queries, k)
            np.testing.assert_array_equal(found.ids, expected.ids)
            np.testing.assert_array_equal(found.similarities, expected.similarities)
