import logging

import numpy as np
import pytest

from llmrouter.encoders import StaticEncoder, encode_cached
from llmrouter.encoders._embedding_cache import cache_path
from llmrouter.exceptions import EncoderError

TEXTS = ["one", "two", "", "three 为什么", "one"]


class Counting(StaticEncoder):
    calls = 0

    def encode(self, texts, /):
        self.calls += len(texts)
        return super().encode(texts)


@pytest.fixture
def encoder():
    return Counting()


def test_the_second_time_comes_from_disk(encoder, tmp_path):
    first = encode_cached(encoder, TEXTS, folder=tmp_path)
    second = encode_cached(encoder, TEXTS, folder=str(tmp_path))
    assert encoder.calls == len(TEXTS)
    np.testing.assert_array_equal(first, StaticEncoder().encode(TEXTS))
    np.testing.assert_array_equal(first, second)
    assert second.dtype == np.float32
    assert [path.suffix for path in tmp_path.iterdir()] == [".npy"]


def test_other_texts_orders_and_encoders_have_other_files(encoder, tmp_path):
    variants = [
        TEXTS,
        TEXTS[::-1],
        TEXTS[:-1],
        ["onetwo", "", "three 为什么", "one"],
        ["one", "two", "three 为什么", "", "one"],
        [],
    ]
    paths = {cache_path(encoder, texts, folder=tmp_path) for texts in variants}
    paths.add(cache_path(StaticEncoder(max_windows=3), TEXTS, folder=tmp_path))
    assert len(paths) == len(variants) + 1


def test_default_folder(encoder, tmp_path, monkeypatch):
    monkeypatch.setenv("LLMROUTER_CACHE", str(tmp_path / "cache"))
    assert cache_path(encoder, TEXTS).parent == tmp_path / "cache" / "embeddings"
    monkeypatch.delenv("LLMROUTER_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_path(encoder, TEXTS).parent == tmp_path / "home" / ".cache" / "llmrouter" / "embeddings"


def test_fingerprints_of_any_characters_make_file_names(tmp_path):
    class Odd(StaticEncoder):
        fingerprint = "owner/model:../x y"

    path = cache_path(Odd(), TEXTS, folder=tmp_path)
    assert path.parent == tmp_path
    encode_cached(Odd(), TEXTS, folder=tmp_path)
    assert path.exists()


def pickled(path):
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:100]),
        lambda path: path.write_bytes(path.read_bytes()[:-5]),
        lambda path: path.write_bytes(path.read_bytes()[:131] + b"~~~~" + path.read_bytes()[135:]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"rubbish"),
        lambda path: np.save(path, np.zeros((2, 3), dtype=np.float32)),
        lambda path: np.save(path, np.zeros((5, 256), dtype=np.float64)),
        pickled,
    ],
)
def test_a_damaged_file_is_encoded_anew(encoder, tmp_path, caplog, damage):
    expected = encode_cached(encoder, TEXTS, folder=tmp_path)
    path = cache_path(encoder, TEXTS, folder=tmp_path)
    damage(path)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(encode_cached(encoder, TEXTS, folder=tmp_path), expected)
    assert str(path) in caplog.text
    np.testing.assert_array_equal(np.load(path, allow_pickle=False), expected)


def test_a_folder_that_cannot_be_written_costs_only_the_cache(encoder, tmp_path, caplog):
    blocked = tmp_path / "a file"
    blocked.write_text("")
    with caplog.at_level(logging.WARNING):
        assert encode_cached(encoder, TEXTS, folder=blocked).shape == (5, 256)
    assert "not kept" in caplog.text


def test_a_failure_leaves_no_file(tmp_path):
    with pytest.raises(EncoderError, match=r"texts\[1\]"):
        encode_cached(StaticEncoder(), ["a", None], folder=tmp_path)

    class Failing(StaticEncoder):
        def encode(self, texts, /):
            raise EncoderError("broken")

    with pytest.raises(EncoderError, match="broken"):
        encode_cached(Failing(), ["a"], folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_tables_longer_than_a_chunk(encoder, tmp_path):
    texts = [f"prompt number {number}" for number in range(1300)]
    np.testing.assert_array_equal(encode_cached(encoder, texts, folder=tmp_path), StaticEncoder().encode(texts))
    assert encoder.calls == 1300
