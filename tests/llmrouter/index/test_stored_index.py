"""The index in a folder: reopening, damage, disks that fail, and other people's encoders."""

import errno
import json
import os
import resource
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from llmrouter import _files
from llmrouter.exceptions import ArtifactCorruptError, ArtifactError, FingerprintError, VectorIndexError
from llmrouter.index import (
    IndexKind,
    SegmentedIndex,
    StoredIndex,
    _disk,
    _kinds,
    _log,
    _segmented,
    _stored,
    load_index,
)
from tests.contracts.index_kit import assert_searches_like, unit_rows

QUERIES = unit_rows(3, seed=8)
ROWS = unit_rows(500, seed=3)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Seal after 16 rows, and build structures over 40."""
    monkeypatch.setattr(_segmented, "TAIL_ROWS", 16)
    monkeypatch.setattr(_kinds, "MIN_STRUCTURE_ROWS", 40)


def needs_faiss(name):
    if name != "flat":
        pytest.importorskip("faiss", reason="faiss is not installed")


def grow(index):
    """Fill an index with sealed segments, removed rows and a log; return what it must hold."""
    stored = {}
    for start in range(0, 200, 10):
        index.add(np.arange(start, start + 10), ROWS[start : start + 10], times=float(start))
        stored |= dict(zip(range(start, start + 10), ROWS[start : start + 10]))
    index.remove([3, 4, 57])
    index.update([5, 199], ROWS[300:302], times=1000.0)
    index.add([300], ROWS[400:401], times=1000.0)
    stored |= {5: ROWS[300], 199: ROWS[301], 300: ROWS[400]}
    return {key: row for key, row in stored.items() if key not in (3, 4, 57)}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "index"


def test_what_was_acknowledged_is_there_after_opening(folder):
    with StoredIndex.create(folder, 6) as index:
        stored = grow(index)
        assert_searches_like(index, stored, QUERIES, 60)
    for _ in range(2):
        with StoredIndex.open(folder) as index:
            assert len(index) == len(stored)
            assert_searches_like(index, stored, QUERIES, 60)
    with StoredIndex.open(folder) as index:
        index.snapshot()
        assert index.expire(100.0) == 96
        index.add([1], ROWS[1:2])
    stored = {key: row for key, row in stored.items() if key >= 100 or key == 5} | {1: ROWS[1]}
    with StoredIndex.open(folder) as index:
        assert_searches_like(index, stored, QUERIES, 200)
        index.compact()
        index.verify()
        assert sorted(stored) == index.ids().tolist()
    assert len([path for path in folder.iterdir() if path.suffix == ".rows"]) == 1
    with StoredIndex.open(folder, read_only=True) as index:
        assert_searches_like(index, stored, QUERIES, 200)


@pytest.mark.parametrize("name", ["hnsw", "ivf-flat", "int8", "fp16"])
@pytest.mark.parametrize("keep", [None, False])
def test_structures_answer_the_same_after_opening(folder, name, keep):
    needs_faiss(name)
    if keep is False and name == "hnsw":
        pytest.skip("a graph needs the rows")
    with StoredIndex.create(folder, 6, IndexKind(name=name, keep=keep)) as index:
        index.add(np.arange(400), ROWS[:400])
        index.remove(np.arange(0, 400, 7))
        index.add([1000], ROWS[499:500])
        before = index.search(QUERIES, 20)
        memory = SegmentedIndex(6, index.kind)
        memory.add(np.arange(400), ROWS[:400])
        memory.remove(np.arange(0, 400, 7))
        memory.add([1000], ROWS[499:500])
    with StoredIndex.open(folder) as index:
        assert index.kind == IndexKind(name=name, keep=keep)
        for other in (index.search(QUERIES, 20), memory.search(QUERIES, 20)):
            np.testing.assert_array_equal(other.ids, before.ids)
            np.testing.assert_array_equal(other.similarities, before.similarities)
        index.compact()
        assert len(index) == 400 - 58 + 1
    with StoredIndex.open(folder, read_only=True) as index:
        assert index.search(QUERIES, 20).ids.shape == (3, 20)
        index.verify()


def test_many_rows_at_once_do_not_pass_through_the_log(folder):
    with StoredIndex.create(folder, 6) as index:
        index.add(np.arange(500), ROWS)
        assert index._log.end < 100
    with StoredIndex.open(folder) as index:
        assert_searches_like(index, dict(enumerate(ROWS)), QUERIES, 30)


def test_a_long_log_is_cut_short(folder, monkeypatch):
    monkeypatch.setattr(_stored, "_LOG_LIMIT_BYTES", 2000)
    with StoredIndex.create(folder, 6) as index:
        index.add(np.arange(500), ROWS)
        for key in range(300):
            index.remove([key])
        assert index._log.end < 2100
    with StoredIndex.open(folder) as index:
        assert index.ids().tolist() == list(range(300, 500))


def test_one_writer_and_any_number_of_readers(folder):
    with StoredIndex.create(folder, 6) as index:
        stored = grow(index)
        with pytest.raises(VectorIndexError, match=r"being written by another.*read_only=True"):
            StoredIndex.open(folder)
        with StoredIndex.open(folder, read_only=True) as reader:
            assert_searches_like(reader, stored, QUERIES, 60)
            index.remove([300])
            index.compact()  # its files are gone from the folder, not from the reader
            assert_searches_like(reader, stored, QUERIES, 60)
            for change in (
                lambda: reader.add([999], ROWS[:1]),
                lambda: reader.update([300], ROWS[:1]),
                lambda: reader.remove([300]),
                reader.compact,
                reader.snapshot,
            ):
                with pytest.raises(VectorIndexError, match="for searching only; open it for writing"):
                    change()
            assert_searches_like(reader, stored, QUERIES, 60)
    with pytest.raises(VectorIndexError, match="for searching only"):
        index.add([999], ROWS[:1])
    assert index.search(QUERIES, 2).ids.shape == (3, 2)


def test_a_reader_opens_while_a_writer_compacts(folder):
    index = StoredIndex.create(folder, 6)
    grow(index)
    stop = threading.Event()

    def write():
        turn = 0
        while not stop.is_set():
            turn += 1
            index.update([5], ROWS[turn % 400 : turn % 400 + 1])
            index.compact()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(40):
            assert len(StoredIndex.open(folder, read_only=True)) == len(index)
    finally:
        stop.set()
        thread.join()
        index.close()


def test_creating_twice_and_opening_nothing(folder, tmp_path):
    StoredIndex.create(folder, 6).close()
    with pytest.raises(VectorIndexError, match="has an index already; open it"):
        StoredIndex.create(folder, 6)
    with pytest.raises(ArtifactCorruptError, match=r"manifest\.json"):
        StoredIndex.open(tmp_path / "nowhere")


def test_an_index_of_another_encoder_is_refused(folder):
    with StoredIndex.create(folder, 6, fingerprint="minilm-1") as index:
        grow(index)
    with pytest.raises(FingerprintError, match=r"'minilm-1', not by 'static-2': open it with that encoder"):
        StoredIndex.open(folder, fingerprint="static-2")
    with StoredIndex.open(folder, fingerprint="minilm-1") as index:
        assert index.fingerprint == "minilm-1"
        with pytest.raises(VectorIndexError, match=r"shape \(n, 6\), not \(1, 7\)"):
            index.add([999], unit_rows(1, dimension=7))


def test_a_saved_copy_is_an_index_of_its_own(folder, tmp_path):
    with StoredIndex.create(folder, 6, fingerprint="f") as index:
        stored = grow(index)
        index.save(tmp_path / "copy")
        index.remove([300])
        with pytest.raises(VectorIndexError, match="has an index already"):
            index.save(tmp_path / "copy")
    with StoredIndex.load(tmp_path / "copy") as other:
        assert other.fingerprint == "f"
        assert_searches_like(other, stored, QUERIES, 60)


def test_refused_changes_write_nothing(folder):
    with StoredIndex.create(folder, 6) as index:
        stored = grow(index)
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        for change, message in (
            (lambda: index.add([5], ROWS[:1]), "id 5 is in the index already"),
            (lambda: index.add([900, 900], ROWS[:2]), "900 occurs 2 times"),
            (lambda: index.add([900], ROWS[:1] * np.nan), "NaN"),
            (lambda: index.add([900], ROWS[:1, :3]), "shape"),
            (lambda: index.update([900], ROWS[:1]), "900 is not in the index"),
            (lambda: index.remove([5, 900]), "900 is not in the index"),
        ):
            with pytest.raises(VectorIndexError, match=message):
                change()
        assert before == {path.name: path.read_bytes() for path in folder.iterdir()}
    with StoredIndex.open(folder) as index:
        assert_searches_like(index, stored, QUERIES, 60)


@pytest.mark.parametrize("name", ["flat", "hnsw", "int8"])
def test_every_flipped_byte_is_found_and_named(folder, tmp_path, name):
    needs_faiss(name)
    with StoredIndex.create(folder, 6, IndexKind(name=name)) as index:
        index.add(np.arange(100), ROWS[:100])
        index.remove([3, 4])
        index.snapshot()
        index.add([300, 301], ROWS[300:302])
        index.remove([7])
    suffixes = {path.suffix for path in folder.iterdir() if path.stat().st_size}
    assert suffixes >= {".json", ".bin", ".safetensors", ".rows"} | ({".faiss"} if name != "flat" else set())
    rng = np.random.default_rng(0)
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        places = range(len(whole)) if len(whole) <= 400 else sorted(rng.choice(len(whole), 60, replace=False).tolist())
        for place in places:
            path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << int(rng.integers(8)))]) + whole[place + 1 :])
            with pytest.raises(ArtifactError) as raised, StoredIndex.open(folder, read_only=True) as index:
                index.verify()
            assert path.name in str(raised.value), (path.name, place)
            if path.suffix == ".rows" and place >= 5 * 24:  # no verify needed: the first search that reads it says so
                index = StoredIndex.open(folder, read_only=True)
                with pytest.raises(ArtifactCorruptError, match=path.name):
                    index.search(QUERIES, 97)
        for short in (whole[:-2], b"") if path.suffix != ".bin" and whole else ():
            path.write_bytes(short)
            with pytest.raises(ArtifactCorruptError, match=path.name):
                StoredIndex.open(folder, read_only=True)
        if whole:
            path.unlink()
            with pytest.raises(ArtifactCorruptError, match=path.name):
                StoredIndex.open(folder, read_only=True)
        path.write_bytes(whole)
    with StoredIndex.open(folder) as index:
        index.verify()
        assert len(index) == 99


def test_a_log_cut_off_anywhere_keeps_what_was_whole(folder, tmp_path):
    """A crash leaves any beginning of the last record, or zeros where data was to come."""
    with StoredIndex.create(folder, 6) as index:
        ends = [index._log.end]
        for key in range(4):
            index.add([key], ROWS[key : key + 1])
            ends.append(index._log.end)
        index.remove([0])
        ends.append(index._log.end)
    path = folder / "log-0.bin"
    whole = path.read_bytes()
    assert len(whole) == ends[-1]
    for cut in sorted({*ends, *range(ends[0], len(whole), 7)}):
        done = sum(end <= cut for end in ends) - 1
        expected = list(range(done)) if done < 5 else [1, 2, 3]
        for content in (whole[:cut], whole[:cut] + bytes(40)):
            if cut not in ends and len(content) != cut:
                continue  # zeros behind half a record: not what an append leaves
            path.write_bytes(content)
            with StoredIndex.open(folder) as index:
                assert index.ids().tolist() == expected
                if expected:
                    index.remove(expected[:1])  # a short record where a longer one was cut off
            with StoredIndex.open(folder) as index:
                assert index.ids().tolist() == expected[1:]
                index.add([77], ROWS[77:78])
            with StoredIndex.open(folder, read_only=True) as index:
                assert index.ids().tolist() == [*expected[1:], 77]
    path.write_bytes(whole[: ends[0] - 1])
    with pytest.raises(ArtifactCorruptError, match=r"log-0\.bin"):
        StoredIndex.open(folder)


class FailingDisk:
    """`os`, failing at the n-th call that changes a disk."""

    CALLS = ("open", "write", "fsync", "replace", "ftruncate")

    def __init__(self, fails_at, error):
        self.calls, self.fails_at, self.error = 0, fails_at, error

    def __getattr__(self, name):
        real = getattr(os, name)
        if name not in self.CALLS:
            return real

        def call(*arguments):
            self.calls += 1
            if self.calls == self.fails_at:
                if name == "write":
                    real(arguments[0], arguments[1][: len(arguments[1]) // 2])  # what fits
                raise OSError(self.error, os.strerror(self.error), str(arguments[0]))
            return real(*arguments)

        return call


CHANGES = {
    "add": lambda index: index.add([900, 901], ROWS[450:452]),
    "bulk add": lambda index: index.add(np.arange(900, 940), ROWS[450:490]),
    "update": lambda index: index.update([5], ROWS[450:451]),
    "remove": lambda index: index.remove([5, 6]),
    "compact": lambda index: index.compact(),
    "snapshot": lambda index: index.snapshot(),
}


@pytest.mark.parametrize(
    ("change", "error"),
    [*((change, errno.ENOSPC) for change in CHANGES), ("add", errno.EIO), ("bulk add", errno.EROFS)],
)
def test_a_disk_that_fails_at_any_call_leaves_the_state_unchanged(folder, tmp_path, monkeypatch, change, error):
    with StoredIndex.create(folder, 6) as index:
        stored = grow(index)
    after = SegmentedIndex(6)
    after.add(list(stored), np.array(list(stored.values())))
    CHANGES[change](after) if change != "snapshot" else None
    changed = dict(zip(after.ids().tolist(), after.search(QUERIES, 1000).ids.T))
    number, failures = 0, 0
    while True:
        number += 1
        twin = tmp_path / f"twin-{number}"
        shutil.copytree(folder, twin)
        with StoredIndex.open(twin) as index:
            disk = FailingDisk(number, error)
            for module in (_disk, _files, _log):
                monkeypatch.setattr(module, "os", disk)
            try:
                CHANGES[change](index)
                refusal = None
            except VectorIndexError as raised:
                refusal = str(raised)
            monkeypatch.undo()
            monkeypatch.setattr(_segmented, "TAIL_ROWS", 16)
            if refusal is not None:
                failures += 1
                assert os.strerror(error) in refusal
                assert_searches_like(index, stored, QUERIES, 60)
        with StoredIndex.open(twin) as index:
            index.verify()
            if refusal is None:
                assert index.ids().tolist() == sorted(changed)
                np.testing.assert_array_equal(index.search(QUERIES, 50).ids, after.search(QUERIES, 50).ids)
            elif len(index) != len(stored) or index.ids().tolist() != sorted(stored):
                # told as failed, yet on disk: only where the last synchronisation failed, and the message says so
                assert index.ids().tolist() == sorted(changed)
            else:
                index.add([5000], ROWS[:1])  # and it goes on
        shutil.rmtree(twin)
        if refusal is None and disk.calls < number:
            break
    assert failures >= 2


def test_a_snapshot_is_on_disk_before_the_manifest_names_it(folder, monkeypatch):
    """Data, then the names of the files, then the manifest, then its name: what a loss of power asks for."""
    calls = []

    class Watched(FailingDisk):
        def __getattr__(self, name):
            real = getattr(os, name)
            if name not in ("fsync", "replace"):
                return real

            def call(*arguments):
                what = Path(f"/proc/self/fd/{arguments[0]}").readlink() if name == "fsync" else Path(arguments[1])
                calls.append((name, what.name))
                return real(*arguments)

            return call

    with StoredIndex.create(folder, 6) as index:
        grow(index)
        watched = Watched(0, 0)
        for module in (_disk, _files):
            monkeypatch.setattr(module, "os", watched)
        index.compact()
    named = {path.name for path in folder.iterdir()} - {"lock", "manifest.json"}
    before = [name for call, name in calls[: calls.index(("fsync", "index"))] if call == "fsync"]
    assert set(before) == named
    assert calls[len(before) :] == [
        ("fsync", "index"),
        ("fsync", "manifest.json.new"),
        ("replace", "manifest.json"),
        ("fsync", "index"),
    ]


def test_after_a_failed_change_the_next_one_works(folder, monkeypatch):
    with StoredIndex.create(folder, 6) as index:
        stored = grow(index)
        monkeypatch.setattr(_disk, "os", FailingDisk(1, errno.ENOSPC))
        with pytest.raises(VectorIndexError, match=r"cannot write .*No space left.*index is unchanged\. Free space"):
            index.add([900], ROWS[450:451])
        monkeypatch.undo()
        index.add([900], ROWS[451:452])
    with StoredIndex.open(folder) as index:
        assert_searches_like(index, stored | {900: ROWS[451]}, QUERIES, 60)


def test_a_full_disk(folder):
    """A limit on the length of files stands for a full disk: the write comes back short."""
    with StoredIndex.create(folder, 6) as index:
        stored = grow(index)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (index._log.end + 20, hard))
            for ids in ([900], range(900, 990)):
                with pytest.raises(VectorIndexError, match="cannot write .*the index is unchanged"):
                    index.add(np.array(ids), ROWS[: len(ids)])
                assert_searches_like(index, stored, QUERIES, 60)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        index.add([900], ROWS[:1])
    with StoredIndex.open(folder) as index:
        assert_searches_like(index, stored | {900: ROWS[0]}, QUERIES, 60)


def test_a_read_only_folder(folder, monkeypatch):
    with StoredIndex.create(folder, 6) as index:
        stored = grow(index)
    monkeypatch.setattr(_disk, "os", FailingDisk(1, errno.EROFS))
    with pytest.raises(VectorIndexError, match=r"for writing: Read-only file system.*read_only=True"):
        StoredIndex.open(folder)
    with StoredIndex.open(folder, read_only=True) as index:
        assert_searches_like(index, stored, QUERIES, 60)
    monkeypatch.setattr(_disk, "os", FailingDisk(1, errno.EROFS))
    with pytest.raises(VectorIndexError, match="Read-only file system"):
        StoredIndex.create(folder.parent / "other", 6)


def test_a_manifest_of_a_newer_version_is_refused(folder):
    StoredIndex.create(folder, 6).close()
    path = folder / "manifest.json"
    value = json.loads(path.read_text())
    for change in ({"layout": 2}, {"kind": "tree"}, {"index": {"name": "tree"}}, {"index": {"new": 1}}):
        changed = {key: item for key, item in {**value, **change}.items() if key != "crc32"}
        from llmrouter.index import _snapshot

        path.write_text(json.dumps({**changed, "crc32": _snapshot._checksum(changed)}))
        with pytest.raises(ArtifactCorruptError, match=r"manifest\.json"):
            StoredIndex.open(folder)


def test_files_of_others_in_the_folder_stay(folder):
    folder.mkdir()
    names = [
        "segment-anything.pth",
        "log-2026.txt",
        "log-old.bin",
        "removed-users.safetensors",
        "vectors-mine.safetensors",
    ]
    for name in names:
        (folder / name).write_text("x")
    with StoredIndex.create(folder, 6) as index:
        grow(index)
        index.compact()
    StoredIndex.open(folder).close()
    assert {name for name in names if (folder / name).exists()} == set(names)


def test_rows_whose_manifest_is_lost_are_not_built_over(folder):
    with StoredIndex.create(folder, 6) as index:
        expected = grow(index)
    manifest = (folder / "manifest.json").read_bytes()
    (folder / "manifest.json").unlink()
    with pytest.raises(VectorIndexError, match=r"has files of an index \(.*\) and no manifest.json: restore that"):
        StoredIndex.create(folder, 6)
    with pytest.raises(ArtifactCorruptError, match=r"there is no .*manifest.json: restore it if it is lost, or make"):
        StoredIndex.open(folder)
    (folder / "manifest.json").write_bytes(manifest)
    with StoredIndex.open(folder) as index:
        index.verify()
        assert len(index) == len(expected)


def test_what_is_left_of_a_creation_is_no_hindrance(folder):
    with StoredIndex.create(folder, 6):
        pass
    (folder / "manifest.json").rename(folder / "manifest.json.new")
    with StoredIndex.create(folder, 6) as index:
        index.add([1], ROWS[:1])


def test_the_kind_may_be_written_as_text(folder):
    with StoredIndex.create(folder, 6, "flat:background=true") as index:
        assert index.kind == IndexKind(background=True)


def test_a_fingerprint_is_text(folder):
    with pytest.raises(VectorIndexError, match="fingerprint must be text, as Encoder.fingerprint is, not b'x'"):
        StoredIndex.create(folder, 6, fingerprint=b"x")
    assert not folder.exists()


def test_what_is_cut_off_is_told(folder, caplog):
    with StoredIndex.create(folder, 6) as index:
        index.add([1], ROWS[:1])
        index.add([2], ROWS[1:2])
    (log,) = folder.glob("log-*.bin")
    log.write_bytes(log.read_bytes()[:-7])
    with StoredIndex.open(folder) as index:
        assert index.ids().tolist() == [1]
    assert "bytes, a change that was cut off, are dropped" in caplog.text
    caplog.clear()
    StoredIndex.open(folder).close()
    assert not caplog.text


def test_each_kind_of_folder_says_how_it_is_read(folder, tmp_path):
    with StoredIndex.create(folder, 6) as index:
        index.add([1], ROWS[:1])
    with pytest.raises(ArtifactCorruptError, match="open what is there with StoredIndex.open"):
        load_index(folder)
    SegmentedIndex(6).save(tmp_path / "saved")
    with pytest.raises(ArtifactCorruptError, match=r"read what save\(\) wrote with load_index"):
        StoredIndex.open(tmp_path / "saved")
