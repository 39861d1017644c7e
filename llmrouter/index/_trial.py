"""Queries that a search structure tries on its own rows, to learn what it must look at for the recall asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from llmrouter.index._faiss_check import loaded_faiss
from llmrouter.index._ranking import BoolArray, max_length, rounding_error
from llmrouter.types import FloatArray, IntArray

# How far queries are from the rows they are made of, in the length of a row.
_NOISE = 1.0
# For graphs, which find the neighbours of a new prompt sooner than those of a point this far from all rows.
_NOISE_OF_GRAPHS = 1.5
_QUERIES = 200
# Of graphs: a search reaches all of what is alike, or nothing, so that a mean of few says little.
_QUERIES_OF_GRAPHS = 400
_K = 100
# Products held at once: 40 MB of them, however many rows there are.
_BLOCK = 50_000


@dataclass(frozen=True, slots=True)
class Trial:
    """Queries and the similarity of the k-th nearest of each among the rows that count for it.

    Attributes
    ----------
    queries : array of shape (q, d), float32
        What is searched for.
    k : int
        How many neighbours count.
    least : array of shape (q,)
        Similarity of the k-th nearest.
    lists : array of shape (n,), int64, or None
        The inverted list of each row, where that of the query is left out.
    own : array of shape (q,), int64, or None
        The list that each query leaves out.
    """

    queries: FloatArray
    k: int
    least: FloatArray
    lists: IntArray | None = None
    own: IntArray | None = None

    @classmethod
    def of_moved_rows(cls, rows: FloatArray, noise: float, *, count: int = _QUERIES) -> Self:
        """Return a trial of `count` of the `rows` (n, d), moved in random directions by `noise` times their length."""
        generator = np.random.default_rng(len(rows))
        base = rows[_some(generator, len(rows), count)]
        lengths = np.linalg.norm(base, axis=1, keepdims=True) / np.sqrt(rows.shape[1])
        queries = (base + noise * lengths * generator.standard_normal(base.shape)).astype(np.float32)
        k = min(_K, len(rows))
        return cls(queries, k, _kth_best(queries, rows, k))

    @classmethod
    def between_rows(cls, rows: FloatArray) -> Self:
        """Return a trial of points half way between two of the `rows` (n, d)."""
        generator = np.random.default_rng(len(rows))
        base = rows[_some(generator, len(rows))]
        queries = np.asarray(base + base[generator.permutation(len(base))], dtype=np.float32)
        k = min(_K, len(rows))
        return cls(queries, k, _kth_best(queries, rows, k))

    @classmethod
    def of_lists(cls, faiss: Any, rows: FloatArray) -> Self | None:
        """Return a trial of some of the `rows` (n, d), each as if its own inverted list were not there.

        The rest has no such prompt, nor those nearest to it; so a prompt that the log has often promises nothing for
        new ones. None where a list holds so much that the rest has fewer than k rows.
        """
        lists = _lists_of(faiss, len(rows))
        picked = _some(np.random.default_rng(len(rows)), len(rows))
        own = lists[picked]
        k = min(_K, len(rows))
        if len(rows) - np.bincount(lists)[own].max() < k:
            return None
        queries = np.ascontiguousarray(rows[picked], dtype=np.float32)
        return cls(queries, k, _kth_best(queries, rows, k, lists, own), lists, own)

    @property
    def lists_left_out(self) -> int:
        """How many lists are looked into in vain: the query's own."""
        return 0 if self.own is None else 1

    def recall(
        self, rows: FloatArray, candidates: Callable[[FloatArray, int, BoolArray | None], IntArray], *, best_only: bool
    ) -> float:
        """Return the part of the k nearest `rows` that `candidates` finds, or that its first k have.

        The mean over the queries, less its standard error: a search of inverted lists or a graph finds nearly all or
        few, so that the mean of another sample of queries is often a hundredth away.
        """
        if self.lists is None or self.own is None:
            found = list(candidates(self.queries, self.k, None))
        else:
            found = [
                candidates(query[None], self.k, self.lists != own)[0]
                for query, own in zip(self.queries, self.own, strict=True)
            ]
        hits = np.empty(len(self.queries))
        for number, (query, places, least) in enumerate(zip(self.queries, found, self.least, strict=True)):
            places = places[: self.k] if best_only else places
            hits[number] = min(int((rows[places[places >= 0]] @ query >= least).sum()), self.k)
        parts = hits / self.k
        return float(parts.mean() - parts.std() / np.sqrt(len(parts)))


def trials_of(faiss: Any, rows: FloatArray, *, graph: bool, inverted: bool) -> list[Trial]:
    """Return what a structure over `rows` (n, d) must find; `python -m benchmarks.index.trial` shows why these.

    Where prompts come again and again, what lies near a row tells nothing of a new prompt. Inverted lists are tried
    with rows whose own list is left out (where it held all that is alike, they find no more than new prompts do) and
    half way between rows (where what is alike fills several lists).
    """
    if inverted:
        left_out = Trial.of_lists(faiss, rows)
        return [Trial.between_rows(rows), *([left_out] if left_out else [])]
    if graph:
        return [Trial.of_moved_rows(rows, _NOISE_OF_GRAPHS, count=_QUERIES_OF_GRAPHS)]
    return [Trial.of_moved_rows(rows, _NOISE)]


def _some(generator: np.random.Generator, rows: int, count: int = _QUERIES) -> IntArray:
    return np.sort(generator.choice(rows, min(count, rows), replace=False))


def _lists_of(faiss: Any, count: int) -> IntArray:
    """Return the inverted list that each of the `count` rows lies in."""
    library = loaded_faiss()
    lists: IntArray = np.empty(count, dtype=np.int64)
    for number in range(faiss.nlist):
        size = faiss.invlists.list_size(number)
        if size:
            lists[library.rev_swig_ptr(faiss.invlists.get_ids(number), size)] = number
    return lists


def _kth_best(
    queries: FloatArray, rows: FloatArray, k: int, lists: IntArray | None = None, own: IntArray | None = None
) -> FloatArray:
    """Return the product, less rounding, of each of the (q, d) queries with its k-th best row, shape (q,)."""
    best = np.empty((len(queries), 0), dtype=np.float32)
    for start in range(0, len(rows), _BLOCK):
        products = queries @ rows[start : start + _BLOCK].T
        if lists is not None and own is not None:
            products[own[:, None] == lists[start : start + _BLOCK]] = -np.inf
        best = np.concatenate([best, products], axis=1)
        best = np.partition(best, max(best.shape[1] - k, 0), axis=1)[:, -k:]
    least: FloatArray = best.min(axis=1) - rounding_error(queries, max_length(rows))
    return least
