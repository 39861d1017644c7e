"""Encoders that remember the last texts, each for itself or all of one fingerprint together."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple
from weakref import WeakValueDictionary

import numpy as np

from llmrouter.encoders._base import Encoder
from llmrouter.encoders._inputs import checked_texts
from llmrouter.encoders._windows import checked_count
from llmrouter.types import FloatArray

_DEFAULT_CAPACITY = 4096


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


class VectorMemory:
    """The vectors of the texts used last, by the SHA-256 of the text; safe to use from several threads.

    Parameters
    ----------
    capacity : int
        Vectors held at most; the one not used for longest goes first.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = checked_count("capacity", capacity)
        self._vectors: OrderedDict[bytes, FloatArray] = OrderedDict()
        self._lock = threading.Lock()
        self._hits = 0
        self._misses = 0

    @property
    def statistics(self) -> CacheStatistics:
        """Hits, misses, size and capacity."""
        with self._lock:
            return CacheStatistics(self._hits, self._misses, len(self._vectors), self.capacity)

    def fill(self, rows: FloatArray, keys: Sequence[bytes]) -> dict[bytes, list[int]]:
        """Fill rows (n, d) with what is remembered; return the positions of each text that is not."""
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

    def remember(self, keys: Sequence[bytes], vectors: FloatArray) -> None:
        """Take in vectors (n, d) of n texts."""
        with self._lock:
            for key, vector in zip(keys, vectors, strict=True):
                # A copy: a view would keep the whole batch alive.
                self._vectors[key] = np.array(vector, dtype=np.float32)
                self._vectors.move_to_end(key)
            while len(self._vectors) > self.capacity:
                self._vectors.popitem(last=False)


class CachedEncoder:
    """Any encoder behind a memory of the texts used last.

    Parameters
    ----------
    encoder : Encoder
        Encodes what is not remembered. The fingerprint is its own: the vectors are the same.
    capacity : int
        Vectors held at most; the one not used for longest goes first.
    memory : VectorMemory, optional
        Used in place of one of its own; of an encoder with the same fingerprint.

    Notes
    -----
    Safe to use from several threads. Texts are remembered by their SHA-256, so long prompts take no memory. Two
    threads that miss the same text at the same time both encode it; neither waits for the other.
    """

    def __init__(
        self, encoder: Encoder, capacity: int = _DEFAULT_CAPACITY, *, memory: VectorMemory | None = None
    ) -> None:
        self._encoder = encoder
        self._memory = VectorMemory(capacity) if memory is None else memory

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
        return self._memory.statistics

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
        missing = self._memory.fill(rows, keys)
        if missing:
            fresh = self._encoder.encode([texts[positions[0]] for positions in missing.values()])
            for positions, vector in zip(missing.values(), fresh, strict=True):
                rows[positions] = vector
            self._memory.remember(list(missing), fresh)
        return rows

    def count_tokens(self, text: str, /) -> int:
        """Return the number of tokens of `text` by the encoder behind."""
        return self._encoder.count_tokens(text)


_shared: WeakValueDictionary[str, VectorMemory] = WeakValueDictionary()
_shared_lock = threading.Lock()


def cached_encoder(encoder: Encoder, capacity: int | None = None) -> Encoder:
    """Return `encoder` behind the memory that all encoders of its fingerprint in this process share.

    Parameters
    ----------
    encoder : Encoder
        Encodes what is not remembered.
    capacity : int, optional
        Vectors held at most; where the memory exists already, the larger number holds. 0 remembers nothing. None is
        4,096 for an encoder that runs a network and 0 for another: a token table is about as fast as the look-up.

    Returns
    -------
    Encoder
        A `CachedEncoder`, or `encoder` itself where nothing is to be remembered.

    Notes
    -----
    The memory lasts as long as one of its encoders does: artifacts that are swapped keep it, if the new one has the
    same encoder.
    """
    if capacity is None:
        capacity = _DEFAULT_CAPACITY if getattr(encoder, "runs_network", False) else 0
    if capacity == 0:
        return encoder
    with _shared_lock:
        memory = _shared.get(encoder.fingerprint)
        if memory is None:
            memory = _shared[encoder.fingerprint] = VectorMemory(capacity)
        memory.capacity = max(memory.capacity, checked_count("capacity", capacity))
    return CachedEncoder(encoder, memory=memory)
