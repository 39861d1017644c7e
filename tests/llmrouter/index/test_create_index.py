import sys
from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest

from llmrouter.exceptions import ArtifactCorruptError, ConfigError, MissingExtraError, VectorIndexError
from llmrouter.index import (
    KINDS,
    ExactIndex,
    FaissFlatIndex,
    FlatIndex,
    IndexKind,
    SegmentedIndex,
    _create,
    _exact,
    _faiss_check,
    _storage,
    check_faiss,
    choose_kind,
    create_index,
    load_index,
)


@pytest.fixture
def installed(monkeypatch):
    """Pretend that exactly these distributions are installed."""

    def pretend(*names):
        def distribution(name):
            if name not in names:
                raise PackageNotFoundError(name)

        monkeypatch.setattr(_faiss_check, "distribution", distribution)

    return pretend


@pytest.fixture
def without_faiss(monkeypatch, installed):
    installed()
    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setattr(_faiss_check, "find_spec", lambda name: None)


def test_names():
    assert isinstance(create_index("exact", 4), ExactIndex)
    with pytest.raises(ConfigError, match="unknown index 'tree'; one of auto, exact, .*hnsw"):
        create_index("tree", 4)
    with pytest.raises(ConfigError, match="unknown index 'tree:m=3'|unknown index 'tree'"):
        create_index("tree:m=3", 4)


@pytest.mark.parametrize("name", KINDS)
def test_kinds_by_name(name):
    if name != "flat":
        pytest.importorskip("faiss", reason="faiss is not installed")
    index = create_index(name, 24)
    assert isinstance(index, SegmentedIndex)
    assert (index.kind.name, index.dimension, len(index)) == (name, 24, 0)


def test_kinds_with_parameters():
    pytest.importorskip("faiss", reason="faiss is not installed")
    index = create_index("hnsw:m=16,recall=0.9", 4)
    assert index.kind == IndexKind(name="hnsw", m=16, recall=0.9)
    assert create_index("ivf-pq", 24).kind.code_bytes == 3
    assert create_index("ivf-pq", 7).kind.code_bytes == 1
    assert create_index("int8:keep=False", 24).kind.keeps_rows is False


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("hnsw:links=3", "index 'hnsw' has no parameter 'links'; one of background, code_bytes"),
        ("hnsw:m=1", "m must be an integer >= 2, not 1"),
        ("hnsw:m=many", "m must be an integer >= 2, not 'many'"),
        ("hnsw:recall=1.0", "recall must be above 0 and below 1, not 1.0; 'flat' is exact"),
        ("hnsw:keep=False", "keep=False: 'hnsw' has no codes"),
        ("int8:keep=3", "keep must be True or False, not 3"),
        ("ivf-flat:effort=0", "effort must be an integer >= 1, not 0"),
        ("ivf-pq:code_bytes=5", "code_bytes=5 must divide the dimension 24"),
        ("exact:m=3", "index 'exact'.*m"),
        ("auto:m=3", "index 'auto' has no parameter 'm'; one of memory_gib, recall"),
        ("auto:recall=2", "recall must be above 0 and at most 1, not 2"),
        ("auto:memory_gib=-1", "memory_gib must be above 0, not -1"),
        ("auto:recall=0.9,memory_gib=1e-9", "1,000,000 rows of dimension 24 at recall 0.9 need 0.0. GiB as 'ivf-pq'"),
        ("auto:memory_gib=0.01", "as 'flat'; give more memory, or ask for a recall below 1"),
    ],
)
def test_bad_specs_name_the_parameter_and_the_remedy(spec, message):
    with pytest.raises(ConfigError, match=message):
        create_index(spec, 24, rows=1_000_000)


@pytest.mark.parametrize(
    ("rows", "memory_gib", "recall", "expected"),
    [
        (10**6, None, 1.0, "flat"),
        (10**4, None, 0.9, "flat"),
        (10**6, None, 0.95, "ivf-int8"),
        (10**6, 1.25, 0.95, "ivf-int8"),
        (10**6, 1.0, 0.95, "ivf-flat"),
        (10**6, 0.5, 0.95, "ivf-int8"),
        (10**6, 0.262, 0.95, "int8"),
        (10**6, 0.1, 0.95, "ivf-pq"),
        (10**8, 24.0, 0.95, "ivf-pq"),
    ],
)
def test_auto_keeps_to_memory_and_recall(rows, memory_gib, recall, expected):
    kind = choose_kind(rows, 256, memory_gib=memory_gib, recall=recall)
    assert kind.name == expected
    assert memory_gib is None or rows * kind.bytes_per_row(256) <= memory_gib * 2**30


def test_auto_takes_faiss_for_many_rows_only():
    pytest.importorskip("faiss", reason="faiss is not installed")
    assert isinstance(create_index("auto", 4), ExactIndex)
    assert isinstance(create_index("auto", 4, rows=_create.AUTO_FAISS_ROWS - 1), ExactIndex)
    assert isinstance(create_index("auto", 4, rows=_create.AUTO_FAISS_ROWS), FaissFlatIndex)


def test_auto_does_without_faiss(without_faiss):
    assert isinstance(create_index("auto", 4, rows=10**6), ExactIndex)


def test_missing_faiss_names_the_extra(without_faiss):
    with pytest.raises(MissingExtraError, match=r"pip install 'llmrouter-service\[cpu\]'"):
        create_index("faiss-flat", 4)
    with pytest.raises(MissingExtraError, match=r"pip install 'llmrouter-service\[cpu\]'"):
        create_index("hnsw", 4)


def test_flat_segments_do_without_faiss(without_faiss):
    index = FlatIndex(3)
    index.add(np.arange(5000), np.random.default_rng(0).normal(size=(5000, 3)))
    assert index.search(np.eye(3), 2).ids.shape == (3, 2)


@pytest.mark.parametrize("gpu", ["faiss-gpu", "faiss-gpu-cu11", "faiss-gpu-cu12"])
@pytest.mark.parametrize("use", [check_faiss, lambda: FaissFlatIndex(4), lambda: create_index("auto", 4)])
def test_two_faiss_distributions_are_refused(installed, gpu, use):
    installed("faiss-cpu", gpu)
    with pytest.raises(ConfigError, match=f"pip uninstall -y faiss-cpu {gpu} && pip install"):
        use()


@pytest.mark.parametrize("names", [(), ("faiss-cpu",), ("faiss-gpu-cu12",)])
def test_one_faiss_distribution_or_none_passes_the_check(installed, names):
    installed(*names)
    check_faiss()


def test_load_names_the_missing_file(tmp_path):
    with pytest.raises(ArtifactCorruptError, match=r"index\.json"):
        load_index(tmp_path / "nowhere")


def test_a_save_that_breaks_off_leaves_the_old_index(tmp_path, monkeypatch):
    index = ExactIndex(3)
    index.add([1, 2], np.eye(3)[:2])
    index.save(tmp_path)
    index.add([3], np.eye(3)[2:])
    real = _storage.write_atomically

    def breaks_at_the_header(path, content):
        if path.name == "index.json":
            raise OSError("disk full")
        real(path, content)

    monkeypatch.setattr(_storage, "write_atomically", breaks_at_the_header)
    with pytest.raises(VectorIndexError, match="disk full"):
        index.save(tmp_path)
    assert len(ExactIndex.load(tmp_path)) == 2


def test_exact_search_in_blocks_is_the_same(monkeypatch):
    index = ExactIndex(5)
    rng = np.random.default_rng(0)
    index.add(np.arange(300), rng.normal(size=(300, 5)))
    queries = rng.normal(size=(70, 5))
    whole = index.search(queries, 12)
    monkeypatch.setattr(_exact, "_BLOCK_VALUES", 1000)
    np.testing.assert_array_equal(index.search(queries, 12).ids, whole.ids)


def test_rows_that_single_precision_confuses_are_ranked_right():
    """Similarities that differ by less than the rounding of a float32 product of many terms."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=512)
    rows = base + rng.normal(scale=3e-5, size=(400, 512))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    query = (base / np.linalg.norm(base)).astype(np.float32)[None]
    index = ExactIndex(512)
    index.add(np.arange(400), rows)
    exact = (rows.astype(np.float64) @ query[0].astype(np.float64)).astype(np.float32)
    expected = sorted(range(400), key=lambda row: (-exact[row], row))
    assert index.search(query, 30).ids[0].tolist() == expected[:30]
    assert index.search(query, 400).ids[0].tolist() == expected


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("flat:recall=0.5", "recall=0.5 does nothing for the index 'flat'; it is of hnsw, "),
        ("hnsw:lists=4", "lists=4 does nothing for the index 'hnsw'; it is of ivf-flat, ivf-int8, ivf-pq"),
        ("int8:keep=0", "keep must be True or False, not 0"),
        ("flat:background=yes", "background must be True or False, not 'yes'"),
        ("exact:dimension=5", "'exact:dimension=5': the dimension is that of the rows, here 8; leave it out"),
        (None, "a name must be text such as 'knn:k=40', not None"),
    ],
)
def test_what_a_spec_cannot_mean(spec, message):
    with pytest.raises(ConfigError, match=message):
        create_index(spec, 8)


@pytest.mark.parametrize("spec", ["exact", "flat", "ivf-pq", "auto:recall=0.9"])
def test_dimensions_that_are_none(spec):
    for dimension in (1.5, "8", 0, True):
        with pytest.raises(VectorIndexError, match="dimension must be an integer >= 1, not "):
            create_index(spec, dimension)


def test_files_of_others_stay_when_an_index_is_saved(tmp_path):
    (tmp_path / "vectors-mine.safetensors").write_text("x")
    index = ExactIndex(3)
    for count in (1, 2):
        index.add([count], np.eye(3)[count : count + 1])
        index.save(tmp_path)
    assert len(list(tmp_path.glob("vectors-*"))) == 2
    assert len(ExactIndex.load(tmp_path)) == 2


def test_values_that_half_precision_does_not_hold():
    pytest.importorskip("faiss", reason="faiss is not installed")
    index = create_index("fp16", 3)
    index.add([1], np.eye(3)[:1] * 65_504)
    with pytest.raises(
        VectorIndexError, match=r"vectors\[1\] has values above 65504, which half precision does not hold"
    ):
        index.add([2, 3], np.array([[1, 1, 1], [0, -1e5, 0]]))
    assert index.ids().tolist() == [1]


def test_a_graph_of_rows_that_repeat_says_what_it_misses(caplog):
    pytest.importorskip("faiss", reason="faiss is not installed")
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(20, 32))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    index = create_index("hnsw:m=8", 32)
    index.add(np.arange(8000), centres[generator.integers(0, 20, 8000)])
    assert "hnsw finds 0." in caplog.text
    assert "choose another kind (rows that repeat: ivf-int8)" in caplog.text
    caplog.clear()
    rows = generator.normal(size=(5000, 16))
    create_index("hnsw", 16).add(np.arange(5000), rows)
    assert not caplog.text
