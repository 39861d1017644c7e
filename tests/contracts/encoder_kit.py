"""What every encoder must do. `check_encoder` runs all of it on two encoders made alike."""

import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from llmrouter.encoders import Encoder
from llmrouter.exceptions import EncoderError

TEXTS = [
    "What is the capital of France?",
    "hello",
    "def add(a, b):\n    return a + b",
    "Wie viele Äpfel hat Lena, wenn sie drei von sieben isst?",
    "为什么天空是蓝色的",
    "emoji 🦊🚀 and \u202e right to left",
    "nul \x00 and \ufeff bom",
    "a " * 3000,
    "the quick brown fox jumps over the lazy dog " * 40,
]
EMPTY = ["", " ", "\n\t  \r\n"]


def check_encoder(encoder, twin):
    check_protocol(encoder, twin)
    check_vectors(encoder)
    check_rows_do_not_depend_on_each_other(encoder, twin)
    check_empty_texts(encoder)
    check_odd_texts(encoder)
    check_refusals(encoder)
    check_counts(encoder)
    check_long_texts_are_seen_to_the_end(encoder)
    check_threads(encoder)


def assert_unit_rows(vectors, count, dimension):
    assert isinstance(vectors, np.ndarray)
    assert vectors.shape == (count, dimension)
    assert vectors.dtype == np.float32
    assert np.isfinite(vectors).all()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)


def check_protocol(encoder, twin):
    assert isinstance(encoder, Encoder)
    assert isinstance(encoder.dimension, int)
    assert encoder.dimension >= 1
    assert re.fullmatch(r"[A-Za-z0-9._-]{8,100}", encoder.fingerprint)
    assert twin.fingerprint == encoder.fingerprint


def check_vectors(encoder):
    vectors = encoder.encode(TEXTS)
    assert_unit_rows(vectors, len(TEXTS), encoder.dimension)
    assert len(np.unique(vectors.round(4), axis=0)) == len(TEXTS)
    np.testing.assert_array_equal(encoder.encode(tuple(TEXTS)), vectors)
    vectors[:] = 7  # the result is the caller's own
    assert_unit_rows(encoder.encode(TEXTS), len(TEXTS), encoder.dimension)


def check_rows_do_not_depend_on_each_other(encoder, twin):
    together = encoder.encode([*TEXTS, *TEXTS[::-1]])
    alone = np.concatenate([twin.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(together[: len(TEXTS)], alone, atol=2e-6)
    np.testing.assert_allclose(together[len(TEXTS) :], alone[::-1], atol=2e-6)


def check_empty_texts(encoder):
    assert encoder.encode([]).shape == (0, encoder.dimension)
    assert encoder.encode([]).dtype == np.float32
    vectors = encoder.encode([*EMPTY, "text", ""])
    assert not vectors[[0, 1, 2, 4]].any()
    assert_unit_rows(vectors[3:4], 1, encoder.dimension)
    assert not encoder.encode([""]).any()


def check_odd_texts(encoder):
    """Half an emoji (broken JSON can carry one) is read as the character that stands for the unreadable."""
    odd = encoder.encode(["before \ud83e after", "before \ufffd after"])
    np.testing.assert_allclose(odd[0], odd[1], atol=2e-6)
    assert encoder.count_tokens("x \udc00") >= 1


def check_refusals(encoder):
    with pytest.raises(EncoderError, match="pass a list of strings"):
        encoder.encode("a single string")
    for bad, kind in ((None, "NoneType"), (3, "int"), (b"bytes", "bytes"), (["nested"], "list")):
        with pytest.raises(EncoderError, match=rf"texts\[1\] must be a string, not {kind}"):
            encoder.encode(["fine", bad, "fine"])
    for bad in (None, 5):
        with pytest.raises(EncoderError, match="sequence of strings"):
            encoder.encode(bad)


def check_counts(encoder):
    assert [encoder.count_tokens(text) for text in EMPTY] == [0, 0, 0]
    one, three = encoder.count_tokens("house"), encoder.count_tokens("house house house")
    assert one > 0
    assert three == 3 * one
    long = "house " * 100_000
    assert encoder.count_tokens(long) == pytest.approx(100_000 * one, rel=0.01)


def check_long_texts_are_seen_to_the_end(encoder):
    """Changing the head or the tail of a long text changes its vector, at every length from two windows to 10 MB."""
    for repeats in (90, 500, 20_000, 230_000):
        body = "the quick brown fox jumps over the lazy dog " * repeats
        other = "integral of x squared dx equals " * 60
        plain, head, tail = encoder.encode([body, other + body, body + other])
        assert_unit_rows(np.stack([plain, head, tail]), 3, encoder.dimension)
        assert float(plain @ head) < 0.9999
        assert float(plain @ tail) < 0.9999
    assert_unit_rows(encoder.encode(["x" * 1_000_000 + " word"]), 1, encoder.dimension)


def check_threads(encoder):
    expected = encoder.encode(TEXTS[:6])
    with ThreadPoolExecutor(4) as pool:
        for vectors in pool.map(encoder.encode, [TEXTS[:6]] * 8):
            np.testing.assert_allclose(vectors, expected, atol=2e-6)
