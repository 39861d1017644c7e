import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from llmrouter.encoders import CachedEncoder, CacheStatistics, cached_encoder
from llmrouter.exceptions import ConfigError, EncoderError


class Recorder:
    """An encoder as small as can be: one hot by length, remembering what it was asked."""

    fingerprint = "recorder"
    dimension = 4

    def __init__(self):
        self.asked = []

    def encode(self, texts, /):
        self.asked.extend(texts)
        if any(text == "fail" for text in texts):
            raise EncoderError("failed")
        return np.eye(4, dtype=np.float32)[[len(text) % 4 for text in texts]]

    def count_tokens(self, text, /):
        return len(text)


def test_a_text_is_encoded_once():
    inner = Recorder()
    cached = CachedEncoder(inner, capacity=10)
    first = cached.encode(["a", "bb", "a", "ccc"])
    np.testing.assert_array_equal(first, Recorder().encode(["a", "bb", "a", "ccc"]))
    np.testing.assert_array_equal(cached.encode(["ccc", "a", "dddd"]), Recorder().encode(["ccc", "a", "dddd"]))
    assert inner.asked == ["a", "bb", "ccc", "dddd"]
    assert cached.statistics == CacheStatistics(hits=3, misses=4, size=4, capacity=10)
    assert (cached.fingerprint, cached.dimension, cached.count_tokens("abc")) == ("recorder", 4, 3)


def test_the_text_unused_for_longest_goes_first():
    inner = Recorder()
    cached = CachedEncoder(inner, capacity=2)
    for text in ("a", "b", "a", "c"):
        cached.encode([text])
    inner.asked.clear()
    cached.encode(["a"])
    cached.encode(["c"])
    assert inner.asked == []
    cached.encode(["b"])
    assert inner.asked == ["b"]
    assert cached.statistics.size == 2


def test_more_texts_than_capacity_in_one_call():
    cached = CachedEncoder(Recorder(), capacity=2)
    texts = [str(number) * (number % 5) for number in range(20)]
    np.testing.assert_array_equal(cached.encode(texts), Recorder().encode(texts))
    assert cached.statistics.size == 2


def test_the_callers_array_is_its_own():
    cached = CachedEncoder(Recorder())
    cached.encode(["a"])[:] = 9
    cached.encode(["a"])[:] = 9
    np.testing.assert_array_equal(cached.encode(["a"]), Recorder().encode(["a"]))


def test_failures_are_passed_on_and_not_remembered():
    cached = CachedEncoder(Recorder())
    for _ in range(2):
        with pytest.raises(EncoderError, match="failed"):
            cached.encode(["a", "fail"])
    assert cached.statistics.size == 0
    assert cached.encode(["a"]).shape == (1, 4)


def test_many_threads_get_right_rows():
    cached = CachedEncoder(Recorder(), capacity=7)
    barrier = threading.Barrier(4)

    def work(seed):
        rng = np.random.default_rng(seed)
        barrier.wait()
        for _ in range(200):
            texts = ["x" * length for length in rng.integers(0, 15, size=6)]
            np.testing.assert_array_equal(cached.encode(texts), Recorder().encode(texts))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    statistics = cached.statistics
    assert statistics.size <= 7
    assert statistics.hits + statistics.misses == 4 * 200 * 6


@pytest.mark.parametrize("capacity", [0, -1, 2.5, None])
def test_bad_capacity(capacity):
    with pytest.raises(ConfigError, match="capacity must be an integer >= 1"):
        CachedEncoder(Recorder(), capacity)


def test_encoders_of_one_fingerprint_share_a_memory():
    first, second, other = Recorder(), Recorder(), Recorder()
    other.fingerprint = "another"
    a, b, c = (cached_encoder(encoder, 4) for encoder in (first, second, other))
    np.testing.assert_array_equal(a.encode(["x", "yy"]), b.encode(["x", "yy"]))
    c.encode(["x"])
    assert (first.asked, second.asked, other.asked) == (["x", "yy"], [], ["x"])
    assert cached_encoder(Recorder(), 9).statistics.capacity == a.statistics.capacity == 9
    assert cached_encoder(Recorder(), 2).statistics.capacity == 9


def test_a_memory_ends_with_the_last_encoder_that_uses_it():
    inner = Recorder()
    inner.fingerprint = "short-lived"
    cached_encoder(inner, 4).encode(["x"])
    cached_encoder(inner, 4).encode(["x"])
    assert inner.asked == ["x", "x"]


def test_only_networks_are_remembered_by_default():
    inner = Recorder()
    assert cached_encoder(inner) is inner
    inner.runs_network = True
    assert cached_encoder(inner).statistics.capacity == 4096
    assert cached_encoder(inner, 0) is inner
    with pytest.raises(ConfigError, match="capacity"):
        cached_encoder(inner, -1)
