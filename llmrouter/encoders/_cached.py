"""An encoder that remembers the last texts."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from llmrouter.encoders._base import Encoder
from llmrouter.encoders._inputs import checked_texts
from llmrouter.encoders._windows import checked_count
from llmrouter.types import FloatArray


class CacheStatistics(NamedTuple):
    """What a cache did since it was made.

    Attributes
    ----------
    hits, misses : int
        Texts answered from memory, and texts encoded.
    size, capacity : int
        Vectors held now, and at most.
    """

    hits: int
    misses: int
    size: int
    capacity: int


class CachedEncoder:
    """Any encoder behind a memory of the texts used last.

    Parameters
    ----------
    encoder : Encoder
        Encodes what is not remembered. The fingerprint is its own: the vectors are the same.
    capacity : int
        Vectors held at most; the one not used for longest goes first.

    Notes
    -----
    Safe to use from several threads. Texts are remembered by their SHA-256, so long prompts take no memory. Two
    threads that miss the same text at the same time both encode it; neither waits for the other.
    """

    def __init__(self, encoder: Encoder, capacity: int = 4096) -> None:
        self._encoder = encoder
        self._capacity = checked_count("capacity", capacity)
        self._vectors: OrderedDict[bytes, FloatArray] = OrderedDict()
        self._lock = threading.Lock()
        self._hits = 0
        self._misses = 0

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the encoder behind."""
        return self._encoder.fingerprint

    @property
    def dimension(self) -> int:
        """Length d of the vectors."""
        return self._encoder.dimension

    @property
    def statistics(self) -> CacheStatistics:
        """Hits, misses, size and capacity."""
        with self._lock:
            return CacheStatistics(self._hits, self._misses, len(self._vectors), self._capacity)

    def encode(self, texts: Sequence[str], /) -> FloatArray:
        """Return an array of shape (n, d), float32, as the encoder behind gives it.

        Raises
        ------
        EncoderError
            If `texts` is not a sequence of strings; the message names the position.
        """
        texts = checked_texts(texts)
        keys = [hashlib.sha256(text.encode()).digest() for text in texts]
        rows = np.empty((len(texts), self.dimension), dtype=np.float32)
        missing = self._fill(rows, keys)
        if missing:
            fresh = self._encoder.encode([texts[positions[0]] for positions in missing.values()])
            for positions, vector in zip(missing.values(), fresh, strict=True):
                rows[positions] = vector
            self._remember(list(missing), fresh)
        return rows

    def count_tokens(self, text: str, /) -> int:
        """Return the number of tokens of `text` by the encoder behind."""
        return self._encoder.count_tokens(text)

    def _fill(self, rows: FloatArray, keys: Sequence[bytes]) -> dict[bytes, list[int]]:
        """Fill in what is remembered; return the positions of each text that is not."""
        missing: dict[bytes, list[int]] = {}
        with self._lock:
            for position, key in enumerate(keys):
                vector = self._vectors.get(key)
                if vector is None:
                    missing.setdefault(key, []).append(position)
                else:
                    self._vectors.move_to_end(key)
                    rows[position] = vector
            self._misses += len(missing)
            self._hits += len(keys) - len(missing)
        return missing

    def _remember(self, keys: Sequence[bytes], vectors: FloatArray) -> None:
        with self._lock:
            for key, vector in zip(keys, vectors, strict=True):
                # A copy: a view would keep the whole batch alive.
                self._vectors[key] = np.array(vector, dtype=np.float32)
                self._vectors.move_to_end(key)
            while len(self._vectors) > self._capacity:
                self._vectors.popitem(last=False)
