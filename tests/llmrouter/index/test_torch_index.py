"""Exact search by torch, here on the CPU, in every number format; and what chooses a device."""

import logging
import subprocess
import sys
import threading

import numpy as np
import pytest

from llmrouter.exceptions import ConfigError, MissingExtraError
from llmrouter.index import (
    ExactIndex,
    IndexKind,
    SegmentedIndex,
    StoredIndex,
    _devices,
    _kinds,
    _segmented,
    _torch_rows,
    _torch_scan,
    create_index,
    load_index,
)
from tests.contracts.index_kit import assert_searches_like, check_index, unit_rows

torch = pytest.importorskip("torch", reason="torch is not installed")

SPECS = ("torch:dtype=bf16", "torch:dtype=fp16", "torch:dtype=fp32")


@pytest.fixture
def small(monkeypatch):
    """Seal after 4 rows, and scan every segment by torch."""
    monkeypatch.setattr(_segmented, "TAIL_ROWS", 4)
    monkeypatch.setattr(_kinds, "MIN_STRUCTURE_ROWS", 1)


def pair(rows, spec, ids=None):
    """Return the reference and an index of `spec`, with the same rows."""
    ids = np.arange(len(rows)) if ids is None else ids
    exact, index = ExactIndex(rows.shape[1]), create_index(spec, rows.shape[1])
    exact.add(ids, rows)
    index.add(ids, rows)
    return exact, index


def assert_same(exact, index, queries, *counts):
    for k in counts:
        expected, found = exact.search(queries, k), index.search(queries, k)
        np.testing.assert_array_equal(found.ids, expected.ids)
        np.testing.assert_array_equal(found.similarities, expected.similarities)


def scans(index):
    return [segment.structure for segment in index._state.segments if segment.structure is not None]


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_torch_keeps_the_contract(small, dtype):
    class Torch(SegmentedIndex):
        def __init__(self, dimension):
            super().__init__(dimension, IndexKind(name="torch", dtype=dtype))

    check_index(Torch)


@pytest.mark.parametrize("spec", SPECS)
def test_many_rows_with_twins_and_removed_rows(spec, tmp_path):
    rows = unit_rows(6000, dimension=48, seed=1)
    rows[5000:5200] = rows[:200]
    ids = np.random.default_rng(0).permutation(30_000)[:6000]
    queries = np.concatenate([unit_rows(20, dimension=48, seed=2), rows[:20]])
    exact, index = pair(rows, spec, ids)
    assert len(scans(index)) == 1
    assert_same(exact, index, queries, 1, 10, 300)
    for target in (exact, index):
        target.remove(ids[100:3000:3])
        target.add(np.arange(40_000, 40_050), unit_rows(50, dimension=48, seed=3))
    assert_same(exact, index, queries, 1, 10, 300)
    index.save(tmp_path)
    loaded = load_index(tmp_path, spec)
    assert len(scans(loaded)) == 1
    assert_same(exact, loaded, queries, 10)
    assert_same(exact, index, queries[:2], 20_000)


@pytest.mark.parametrize("spec", ["torch:dtype=bf16", "torch:dtype=fp16"])
def test_rows_nearer_than_16_bits_tell_apart_are_ranked_right(spec, monkeypatch):
    """First a wider list, then all rows that the error allows."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=64)
    rows = base + rng.normal(scale=1e-4, size=(6000, 64))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    exact, index = pair(rows, spec)
    queries = np.concatenate([rows[:2], unit_rows(2, dimension=64)])
    (scan,) = scans(index)
    assert_same(exact, index, queries, 5)
    assert scan.passes == 3  # 74, 592 and 2048 or more candidates
    monkeypatch.setattr(_torch_scan, "_MOST_ASKED", 10**9)
    assert_same(exact, index, queries, 5)  # in the end, all rows are ranked


def test_rows_and_queries_of_any_length(small):
    rng = np.random.default_rng(0)
    rows = (unit_rows(400, dimension=16) * 10.0 ** rng.integers(-12, 13, (400, 1))).astype(np.float32)
    queries = (unit_rows(12, dimension=16, seed=1) * 10.0 ** np.arange(-14, 10, 2)[:, None]).astype(np.float32)
    queries[0] = 0.0
    for spec in SPECS:
        exact, index = pair(rows, spec)
        assert_same(exact, index, queries, 1, 30)


def test_rows_in_two_halves_lose_no_bit():
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(1000, 8)) * 10.0 ** rng.integers(-30, 15, (1000, 8))).astype(np.float32)
    rows[0] = [0.0, -0.0, 1.0, -1.0, 1.1754942e-38, 1e-45, 1e15, -1e15]
    for dtype in ("bf16", "fp16", "fp32"):
        device = _torch_rows.DeviceRows(rows, "cpu", dtype)
        taken = device.take(torch.arange(1000).reshape(10, 100)).numpy()
        np.testing.assert_array_equal(taken.reshape(1000, 8).view(np.int32), rows.view(np.int32))
        assert device.error < 0.004 * device.longest


def test_products_in_stretches_are_the_same(monkeypatch):
    rows = unit_rows(6000, dimension=24)
    queries = unit_rows(30, dimension=24, seed=5)
    monkeypatch.setitem(_torch_scan._PRODUCTS, "cpu", 30 * 1000)
    monkeypatch.setitem(_torch_scan._RANKED_VALUES, "cpu", 10_000)
    monkeypatch.setattr(_torch_scan, "_MOST_QUERIES", 13)
    for spec in SPECS:
        assert_same(*pair(rows, spec), queries, 1, 40)


@pytest.mark.parametrize("spec", SPECS)
def test_similarities_that_single_precision_cannot_round_are_those_of_the_reference(spec, small):
    """Sums that nearly cancel: the order in which they are added shows in the last bits."""
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(300, 200)).astype(np.float32)
    query = rng.normal(size=(1, 200)).astype(np.float32)
    rows -= (rows @ query[0])[:, None] * query / np.square(query).sum()  # all but orthogonal
    assert_same(*pair(rows.astype(np.float32), spec), query, 10, 300)


def test_update_and_expiry(small):
    rows = unit_rows(80)
    index = SegmentedIndex(6, IndexKind(name="torch", dtype="bf16"))
    index.add(np.arange(50), rows[:50], times=np.arange(50.0))
    index.update([3, 4], rows[[60, 61]], times=99.0)
    assert index.expire(10.0) == 8
    stored = {key: rows[key] for key in range(10, 50)} | {3: rows[60], 4: rows[61]}
    assert_searches_like(index, stored, unit_rows(3, seed=4), 45)
    index.compact()
    assert_searches_like(index, stored, unit_rows(3, seed=4), 45)


def test_on_disk_the_device_is_filled_anew(small, tmp_path):
    rows = unit_rows(60)
    with StoredIndex.create(tmp_path / "index", 6, IndexKind(name="torch", dtype="bf16")) as index:
        index.add(np.arange(50), rows[:50])
        index.remove([7])
        assert not list((tmp_path / "index").glob("*.faiss"))
    stored = {key: rows[key] for key in range(50) if key != 7}
    with StoredIndex.open(tmp_path / "index") as index:
        assert index.kind.dtype == "bf16"
        assert len(scans(index)) == 1
        assert_searches_like(index, stored, unit_rows(3, seed=4), 20)
        index.add([50], rows[50:51])
        index.compact()
        index.verify()
        assert_searches_like(index, stored | {50: rows[50]}, unit_rows(3, seed=4), 51)


def test_queries_of_many_threads_share_a_pass(small, monkeypatch):
    """While one pass is under way, what comes in waits, and is answered together by the next."""
    rows = unit_rows(200)
    index = SegmentedIndex(6, IndexKind(name="torch"))
    index.add(np.arange(200), rows)
    (scan,) = scans(index)
    real, entered, go = _torch_scan.TorchScan._search, threading.Event(), threading.Event()
    sizes, found = [], {}

    def search(self, queries, k, alive):
        sizes.append(len(queries))
        entered.set()
        assert go.wait(20)
        if np.isnan(queries).any():
            raise RuntimeError("out of memory")
        return real(self, queries, k, alive)

    monkeypatch.setattr(_torch_scan.TorchScan, "_search", search)
    queries = unit_rows(12, seed=6)

    def ask(number):
        found[number] = scan.nearest(queries[number : number + 1], 5 if number < 11 else 6, None)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    threads[0].start()
    assert entered.wait(20)
    for thread in threads[1:]:
        thread.start()
    while len(scan._waiting) < 11:
        threads[1].join(0.001)
    go.set()
    for thread in threads:
        thread.join()
    assert sorted(sizes) == [1, 1, 10]  # the first; ten at once; and the one that wants another number
    exact = ExactIndex(6)
    exact.add(np.arange(200), rows)
    for number, neighbours in found.items():
        expected = exact.search(queries[number : number + 1], 5 if number < 11 else 6)
        np.testing.assert_array_equal(neighbours.ids, expected.ids)
    with pytest.raises(RuntimeError, match="out of memory"):
        scan.nearest(queries[:1] * np.nan, 5, None)
    assert scan.nearest(queries[:1], 5, None).ids.shape == (1, 5)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("torch:device=tpu", "device must be auto, cpu, cuda or cuda:N, not 'tpu'"),
        ("torch:dtype=int8", "dtype must be one of auto, bf16, fp16, fp32, not 'int8'"),
        ("torch:keep=False", "keep=False: 'torch' has no codes"),
        ("hnsw:device=cuda", "device=cuda: 'hnsw' is searched on the CPU; choose torch or flat"),
        ("flat:dtype=bf16", "dtype=bf16 is of the kind 'torch', not of 'flat'"),
        ("flat:background=maybe", "background must be True or False, not 'maybe'"),
        ("gpu:speed=3", "has no parameter 'speed'"),
    ],
)
def test_bad_parameters_are_named(spec, message):
    with pytest.raises(ConfigError, match=message):
        create_index(spec, 8)


@pytest.fixture
def cuda(monkeypatch):
    """Pretend that torch was built for CUDA and sees so many devices."""

    def pretend(count, version="12.8"):
        monkeypatch.setattr(torch.version, "cuda", version)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return pretend


def test_which_device(cuda):
    cuda(2)
    assert _devices.torch_device("auto") == ("cuda", "")
    assert _devices.torch_device(None) == ("cuda", "")
    assert _devices.torch_device("cuda:1") == ("cuda:1", "")
    assert _devices.torch_device("cpu") == ("cpu", "")
    device, why = _devices.torch_device("cuda:2")
    assert device == "cpu"
    assert "sees 2 CUDA device" in why


def test_the_fall_back_to_the_cpu_is_told(cuda, caplog):
    cuda(0, None)
    with caplog.at_level(logging.WARNING):
        create_index("torch", 8)
        cuda(0)
        create_index("torch:device=cuda:1", 8)
        create_index("torch:device=cpu", 8)
    first, second = [record.getMessage() for record in caplog.records]
    assert "'torch', device auto: searched on the CPU" in first
    assert "is built without CUDA" in first
    assert "device cuda:1: searched on the CPU" in second
    assert "sees no CUDA device" in second


def test_gpu_is_torch_where_only_torch_has_one(cuda, monkeypatch, caplog):
    monkeypatch.setattr(_devices, "faiss_available", lambda: False)
    cuda(1)
    assert create_index("gpu:dtype=fp16", 8).kind == IndexKind(name="torch", device="cuda", dtype="fp16")
    cuda(0)
    with caplog.at_level(logging.WARNING):
        assert create_index("gpu", 8).kind == IndexKind(name="flat")
    assert "FAISS is not installed" in caplog.text
    assert "sees no CUDA device" in caplog.text


def test_without_torch_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'llmrouter-service\["):
        create_index("torch", 8)


def test_a_torch_index_needs_neither_faiss_nor_a_web_framework():
    program = (
        "import sys, numpy as np\n"
        "for name in ('faiss', 'fastapi', 'sklearn', 'scipy', 'pyarrow'): sys.modules[name] = None\n"
        "from llmrouter.index import create_index\n"
        "index = create_index('torch:device=cpu,dtype=bf16', 8)\n"
        "index.add(np.arange(5000), np.random.default_rng(0).normal(size=(5000, 8)))\n"
        "assert type(index._state.segments[0].structure).__name__ == 'TorchScan'\n"
        "print(index.search(np.eye(8), 3).ids.shape)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "(8, 3)\n"), done.stderr


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_the_way_of_a_gpu_fits_together(dtype, monkeypatch):
    """With tensors of CUDA that have shape and type but no content, which need no GPU."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.overrides import TorchFunctionMode

    class Indexing(TorchFunctionMode):
        """Does what a torch without CUDA does not even for such tensors: takes parts of them."""

        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func is not torch.Tensor.__getitem__:
                return func(*args, **(kwargs or {}))
            tensor, place = args
            if isinstance(place, torch.Tensor):
                assert place.device == tensor.device
                place = torch.empty(place.shape, dtype=place.dtype, device="meta")
            part = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta").__getitem__(place)
            return torch.empty(part.shape, dtype=tensor.dtype, device=tensor.device)

    rows = _torch_rows.DeviceRows(unit_rows(70_000, dimension=16), "cpu", dtype)
    assert rows.precise is (dtype == "fp32")
    # nor does it copy to a GPU, not even nothing
    monkeypatch.setattr(torch, "tensor", lambda array, **where: torch.empty(array.shape, **where))
    with FakeTensorMode(), torch.no_grad(), Indexing():
        for name in ("scanned", "_rest", "_whole"):
            tensor = getattr(rows, name)
            if tensor is not None and not (name == "_whole" and dtype == "fp32"):
                setattr(rows, name, torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda"))
        rows._whole = rows.scanned if dtype == "fp32" else rows._whole
        rows.device = torch.device("cuda")
        assert rows.precise is False
        dead = torch.zeros(70_000, dtype=torch.bool, device="cuda")
        scan = _torch_scan._Scan(rows, unit_rows(5, dimension=16), dead)
        products, positions = scan.best(264)
        assert (products.shape, products.dtype, products.device.type) == ((5, 264), torch.float32, "cuda")
        assert (positions.shape, positions.dtype) == ((5, 264), torch.int64)
        rows_taken = rows.take(positions)
        assert (rows_taken.shape, rows_taken.dtype) == ((5, 264, 16), torch.float32)
        upper = scan.upper_bound(products.min(dim=1).values)
        assert (upper.shape, upper.dtype, upper.device.type) == ((5,), torch.float64, "cuda")
