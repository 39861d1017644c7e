"""The flat index of FAISS on a GPU: a stand-in with a GPU's limits, around FAISS on the CPU."""

import logging
import threading

import numpy as np
import pytest

from llmrouter.exceptions import ConfigError
from llmrouter.index import (
    ExactIndex,
    IndexKind,
    SegmentedIndex,
    StoredIndex,
    _devices,
    _kinds,
    _resident,
    _segmented,
    create_index,
)
from tests.contracts.index_kit import assert_searches_like, check_index, unit_rows

faiss = pytest.importorskip("faiss", reason="faiss is not installed")

GPU = IndexKind(name="flat", device="cuda")


class OnGPU:
    """An index that a GPU holds: no view of its rows, no selectors, 2048 neighbours at most, one thread at a time."""

    def __init__(self, flat, wrong_by):
        self._flat, self._wrong_by, self._busy = flat, wrong_by, threading.Lock()
        self.asked = []

    @property
    def ntotal(self):
        return self._flat.ntotal

    def add(self, rows):
        self._flat.add(rows)

    def search(self, queries, k):
        assert k <= 2048, "k > 2048"
        assert self._busy.acquire(blocking=False), "two threads at once"
        try:
            self.asked.append((len(queries), k))
            if not self._wrong_by:
                return self._flat.search(queries, k)
            rows = self._flat.reconstruct_n(0, self._flat.ntotal)
            products = queries @ rows.T
            lengths = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(rows, axis=1)
            signs = np.where(np.arange(len(rows)) % 2, 1.0, -1.0)  # as wrong as allowed, one up, the next down
            products = (products + self._wrong_by * signs * lengths).astype(np.float32)
            order = np.argsort(-products, axis=1, kind="stable")[:, :k]
            return np.take_along_axis(products, order, axis=1), order
        finally:
            self._busy.release()


class WithGPU:
    """The module ``faiss`` where it was built for GPUs and sees two of them."""

    def __init__(self, wrong_by=0.0):
        self.wrong_by, self.resources = wrong_by, 0

    def __getattr__(self, name):
        return getattr(faiss, name)

    def StandardGpuResources(self):
        self.resources += 1
        return object()

    def get_num_gpus(self):
        return 2

    def index_cpu_to_gpu(self, resources, number, index):
        assert number in (0, 1)
        return OnGPU(index, self.wrong_by)


@pytest.fixture
def small(monkeypatch):
    """Seal after 4 rows, and scan every segment by FAISS."""
    monkeypatch.setattr(_segmented, "TAIL_ROWS", 4)
    monkeypatch.setattr(_kinds, "MIN_STRUCTURE_ROWS", 1)


@pytest.fixture
def gpu(monkeypatch):
    def pretend(wrong_by=0.0):
        library = WithGPU(wrong_by)
        for module in (_devices, _resident):
            monkeypatch.setattr(module, "load_faiss", lambda: library)
        return library

    return pretend


class FlatOnGPU(SegmentedIndex):
    def __init__(self, dimension):
        super().__init__(dimension, GPU)


@pytest.mark.parametrize("where", ["cpu", "gpu", "gpu with TF32"])
def test_flat_on_a_gpu_keeps_the_contract(small, gpu, where):
    if where != "cpu":
        gpu(2.0**-10 if "TF32" in where else 0.0)
    check_index(FlatOnGPU)


@pytest.mark.parametrize("wrong_by", [0.0, 2.0**-10])
def test_many_rows_ties_and_dead_rows(gpu, wrong_by):
    library = gpu(wrong_by)
    rows = unit_rows(5000, dimension=16, seed=1)
    rows[2000:2100] = rows[:100]
    exact, index = ExactIndex(16), create_index("flat:device=cuda:1", 16)
    for target in (exact, index):
        target.add(np.arange(5000), rows)
    assert library.resources == 1
    queries = np.concatenate([unit_rows(10, dimension=16, seed=2), rows[:10]])
    for gone in (None, np.arange(0, 1200, 2), np.arange(1, 4000, 2)):
        if gone is not None:
            exact.remove(gone)
            index.remove(gone)
        for k in (1, 100, 2048, 3000):
            expected, found = exact.search(queries, k), index.search(queries, k)
            np.testing.assert_array_equal(found.ids, expected.ids)
            np.testing.assert_array_equal(found.similarities, expected.similarities)
    asked = index._state.segments[0].structure.faiss.asked
    assert (20, 18) in asked  # all queries at once
    assert max(k for _, k in asked) == 2048


def test_searches_of_several_threads_wait_for_each_other(small, gpu):
    gpu()
    index = FlatOnGPU(6)
    rows = unit_rows(500)
    index.add(np.arange(500), rows)
    stored, problems = dict(enumerate(rows)), []

    def search():
        try:
            for seed in range(20):
                assert_searches_like(index, stored, unit_rows(2, seed=seed), 5)
        except AssertionError as error:
            problems.append(error)

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems


def test_on_disk_the_gpu_is_filled_anew(small, gpu, tmp_path):
    library = gpu()
    rows = unit_rows(50)
    with StoredIndex.create(tmp_path / "index", 6, GPU) as index:
        index.add(np.arange(50), rows)
    before = library.resources
    with StoredIndex.open(tmp_path / "index") as index:
        assert library.resources == before + 1
        assert_searches_like(index, dict(enumerate(rows)), unit_rows(3, seed=4), 20)


def test_without_a_gpu_the_cpu_answers_and_a_warning_tells(small, caplog, monkeypatch):
    rows = unit_rows(60)
    with caplog.at_level(logging.WARNING):
        index = create_index("flat:device=cuda", 6)
    assert "index 'flat', device cuda: searched on the CPU, since this FAISS" in caplog.text
    assert "GPU" in caplog.text
    index.add(np.arange(60), rows)
    assert_searches_like(index, dict(enumerate(rows)), unit_rows(3, seed=4), 20)
    scan = index._state.segments[0].structure
    view = faiss.rev_swig_ptr(scan.faiss.get_xb(), 60 * 6)
    assert np.shares_memory(view, index._state.segments[0].rows.all())  # no second copy
    caplog.clear()
    monkeypatch.setattr(_devices, "faiss_available", lambda: False)
    monkeypatch.setattr(_resident, "faiss_available", lambda: False)
    with caplog.at_level(logging.WARNING):
        index = create_index("flat:device=auto", 6)
    assert "FAISS is not installed (pip install 'llmrouter-service[gpu]')" in caplog.text
    index.add(np.arange(60), rows)
    assert_searches_like(index, dict(enumerate(rows)), unit_rows(3, seed=4), 20)


def test_gpu_is_faiss_where_it_has_one(gpu, caplog):
    gpu()
    assert create_index("gpu", 6).kind == GPU
    assert create_index("gpu:background=True", 6).kind == IndexKind(name="flat", device="cuda", background=True)
    assert _devices.faiss_device("cuda:1") == (1, "")
    assert _devices.faiss_device("cuda:2") == (None, "FAISS sees 2 GPU(s), counted from 0")
    assert not caplog.records
    with pytest.raises(ConfigError, match="device must be"):
        create_index("flat:device=gpu", 6)
