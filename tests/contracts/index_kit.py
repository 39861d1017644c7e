"""What every registered index must do. `check_index` runs all of it on one class."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from llmrouter.exceptions import ArtifactCorruptError, VectorIndexError
from llmrouter.index import VectorIndex

DIMENSION = 6


def unit_rows(count, *, dimension=DIMENSION, seed=0):
    rows = np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def expected_neighbours(stored, query, k):
    """The specification, as plainly as it can be written: `stored` is a dictionary of id -> row."""
    scored = [
        (-np.float32(np.dot(row.astype(np.float64), query.astype(np.float64))), key) for key, row in stored.items()
    ]
    return [(key, -score) for score, key in sorted(scored)[:k]]


def assert_searches_like(index, stored, queries, k):
    found = index.search(queries, k)
    kept = min(k, len(stored))
    assert found.ids.shape == found.similarities.shape == (len(queries), kept)
    assert found.ids.dtype == np.int64
    assert found.similarities.dtype == np.float32
    for ids, similarities, query in zip(found.ids, found.similarities, queries):
        expected = expected_neighbours(stored, query, k)
        assert ids.tolist() == [key for key, _ in expected]
        np.testing.assert_array_equal(similarities, np.array([value for _, value in expected], dtype=np.float32))


def check_index(cls):
    check_protocol(cls)
    check_search(cls)
    check_ties(cls)
    check_batch_independence(cls)
    check_empty(cls)
    check_refusals_leave_it_unchanged(cls)
    check_it_copies(cls)
    check_against_a_dictionary(cls)
    with tempfile.TemporaryDirectory() as folder:
        check_save_and_load(cls, Path(folder) / "index")
    with tempfile.TemporaryDirectory() as folder:
        check_damage_is_found(cls, Path(folder) / "index")


def filled(cls, count=50, seed=0):
    rows = unit_rows(count, seed=seed)
    ids = np.random.default_rng(seed + 1).permutation(10 * count)[:count].astype(np.int64) - count
    index = cls(DIMENSION)
    index.add(ids, rows)
    return index, dict(zip(ids.tolist(), rows))


def check_protocol(cls):
    index = cls(DIMENSION)
    assert isinstance(index, VectorIndex)
    assert index.dimension == DIMENSION
    assert len(index) == 0
    for bad in (0, -1, 2.5, True, "6"):
        with pytest.raises(VectorIndexError, match="dimension"):
            cls(bad)


def check_search(cls):
    index, stored = filled(cls)
    queries = unit_rows(7, seed=3)
    for k in (1, 2, 10, 49, 50, 51, 10_000):
        assert_searches_like(index, stored, queries, k)
    np.testing.assert_allclose(index.search(next(iter(stored.values()))[None], 1).similarities, [[1.0]], rtol=1e-6)


def check_ties(cls):
    """Equal rows come in the order of their ids, at and around the cut, whatever order they were added in."""
    row = unit_rows(1)
    index = cls(DIMENSION)
    stored = {}
    for key in (40, 3, 77, -5, 12):
        index.add(np.array([key]), row)
        stored[key] = row[0]
    others = unit_rows(30, seed=9)
    index.add(np.arange(100, 130), others)
    stored |= dict(zip(range(100, 130), others))
    for k in (1, 2, 3, 4, 5, 6, 20):
        assert_searches_like(index, stored, row, k)
    assert index.search(row, 3).ids.tolist() == [[-5, 3, 12]]
    identical = cls(DIMENSION)
    identical.add(np.arange(500)[::-1].copy(), np.repeat(row, 500, axis=0))
    assert identical.search(row, 40).ids.tolist() == [list(range(40))]


def check_batch_independence(cls):
    rows = np.concatenate([unit_rows(400, seed=1)] * 2)
    index = cls(DIMENSION)
    index.add(np.arange(800), rows)
    queries = unit_rows(60, seed=2)
    together = index.search(queries, 25)
    for number, query in enumerate(queries):
        alone = index.search(query[None], 25)
        np.testing.assert_array_equal(alone.ids[0], together.ids[number])
        np.testing.assert_array_equal(alone.similarities[0], together.similarities[number])


def check_empty(cls):
    index = cls(DIMENSION)
    assert index.search(unit_rows(3), 5).ids.shape == (3, 0)
    index.add(np.empty(0, dtype=np.int64), np.empty((0, DIMENSION), dtype=np.float32))
    index.remove(np.empty(0, dtype=np.int64))
    assert len(index) == 0
    index.add([4, 2], unit_rows(2).tolist())
    assert index.search(np.empty((0, DIMENSION), dtype=np.float32), 5).ids.shape == (0, 2)
    index.remove([2, 4])
    assert len(index) == 0
    assert index.search(unit_rows(1), 1).similarities.shape == (1, 0)
    index.add(np.array([4]), unit_rows(1))
    assert index.search(unit_rows(1), 1).ids.tolist() == [[4]]


def _with(rows, value):
    rows = rows.copy()
    rows[1, 2] = value
    return rows


def check_refusals_leave_it_unchanged(cls):
    index, stored = filled(cls)
    known = list(stored)[:2]
    rows = unit_rows(2, seed=5)
    queries = unit_rows(3, seed=6)
    refused_additions = [
        ([900, 901], rows[:, :-1], "shape"),
        ([900, 901], rows[0], "shape"),
        ([900, 901], _with(rows, np.nan), r"vectors\[1\].*NaN"),
        ([900, 901], rows + 0j, "vectors must be numbers .* complex"),
        ([900, 901], _with(rows, np.inf), r"vectors\[1\]"),
        ([900, 901], _with(rows.astype(np.float64), 1e300), r"vectors\[1\]"),
        ([900, 901], _with(rows, 1e30), "unit length"),
        ([900, 901], [["a"] * DIMENSION] * 2, "numbers"),
        ([900], rows, "equally many"),
        ([900, 900], rows, "900 occurs 2 times"),
        ([900, 900, 901, 901, 901], rows[[0, 0, 0, 0, 0]], "900 occurs 2 times"),
        ([900, known[0]], rows, f"id {known[0]} is in the index"),
        ([900.0, 901.0], rows, "integers"),
        ([True, False], rows, "integers"),
        (["a", "b"], rows, "integers"),
        ([[900, 901]], rows, "shape"),
        (np.array([1, 2**63], dtype=np.uint64), rows, "64 bits"),
    ]
    for ids, vectors, message in refused_additions:
        with pytest.raises(VectorIndexError, match=message):
            index.add(ids, vectors)
    for ids, message in [
        ([known[0], 987_654], "987654 is not in the index"),
        ([known[0], known[0]], "occurs 2 times"),
        ([1.5], "integers"),
    ]:
        with pytest.raises(VectorIndexError, match=message):
            index.remove(ids)
    for bad_queries, k, message in [
        (queries[:, :-1], 1, "queries must have the shape"),
        (queries[0], 1, "shape"),
        (_with(queries, np.nan), 1, r"queries\[1\]"),
        (queries, 0, "k must be"),
        (queries, -1, "k must be"),
        (queries, 1.0, "k must be"),
        (queries, True, "k must be"),
    ]:
        with pytest.raises(VectorIndexError, match=message):
            index.search(bad_queries, k)
    assert len(index) == len(stored)
    assert_searches_like(index, stored, queries, 60)


def check_it_copies(cls):
    """What the caller does to arrays later is the caller's affair."""
    ids, rows = np.arange(4), unit_rows(4)
    index = cls(DIMENSION)
    index.add(ids, rows)
    stored = dict(zip(ids.tolist(), rows.copy()))
    rows[:] = 0
    ids[:] = 99
    found = index.search(unit_rows(2, seed=4), 4)
    found.ids[:] = -1
    assert_searches_like(index, stored, unit_rows(2, seed=4), 4)


small_rows = arrays(np.int8, (DIMENSION,), elements=st.integers(-2, 2))  # few values: ties and zero rows are common
operations = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.dictionaries(st.integers(-9, 9), small_rows, max_size=6)),
        st.tuples(st.just("remove"), st.sets(st.integers(-9, 9), max_size=4)),
        st.tuples(st.just("search"), st.tuples(small_rows, st.integers(1, 25))),
    ),
    max_size=12,
)


def check_against_a_dictionary(cls):
    @settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(operations)
    def run(steps):
        index, stored = cls(DIMENSION), {}
        for name, value in steps:
            if name == "search":
                assert_searches_like(index, stored, value[0][None].astype(np.float32), value[1])
                continue
            keys = list(value)
            allowed = not (stored.keys() & value) if name == "add" else value <= stored.keys()
            try:
                if name == "add":
                    rows = np.array([value[key] for key in keys], dtype=np.float32).reshape(-1, DIMENSION)
                    index.add(np.array(keys, dtype=np.int64), rows)
                    stored |= dict(zip(keys, rows))
                else:
                    index.remove(np.array(keys, dtype=np.int64))
                    stored = {key: row for key, row in stored.items() if key not in value}
            except VectorIndexError:
                assert not allowed
            else:
                assert allowed
            assert len(index) == len(stored)
        assert_searches_like(index, stored, unit_rows(2), 30)

    run()


def check_save_and_load(cls, folder):
    index, stored = filled(cls)
    index.remove(list(stored)[:7])
    stored = dict(list(stored.items())[7:])
    index.save(folder)
    loaded = cls.load(folder)
    assert type(loaded) is cls
    assert_searches_like(loaded, stored, unit_rows(3, seed=8), 50)
    loaded.add(np.array([5_000]), unit_rows(1))
    loaded.save(folder)
    assert len(cls.load(folder)) == len(stored) + 1
    assert len(index) == len(stored)
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json"}
    assert len(list(folder.iterdir())) == 2, "an index saved again leaves nothing of the old one"
    empty = cls(DIMENSION)
    empty.save(folder / "empty")
    assert (len(cls.load(folder / "empty")), cls.load(folder / "empty").dimension) == (0, DIMENSION)


def check_damage_is_found(cls, folder):
    index, _ = filled(cls)
    index.save(folder)
    for path in list(folder.iterdir()):
        whole = path.read_bytes()
        for damaged in (whole[: len(whole) // 2], b"", b"\x00" + whole[1:], None):
            path.unlink()
            if damaged is not None:
                path.write_bytes(damaged)
            with pytest.raises(ArtifactCorruptError, match=path.name):
                cls.load(folder)
            path.write_bytes(whole)
        cls.load(folder)
    header = json.loads((folder / "index.json").read_text())
    for change in (
        {"dimension": DIMENSION + 1},
        {"dimension": "six"},
        {"rows": 3},
        {"rows": None},
        {"layout": 99},
        {"kind": "tree"},
        {"files": {}},
        {"files": None},
        {"files": {f"../{name}": digest for name, digest in header["files"].items()}},
    ):
        (folder / "index.json").write_text(json.dumps({**header, **change}))
        with pytest.raises(ArtifactCorruptError):
            cls.load(folder)
    with pytest.raises(ArtifactCorruptError, match="index.json"):
        cls.load(folder / "nowhere")
