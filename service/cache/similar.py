"""Questions remembered by their embeddings, and the keys of their answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.cache.guard import may_share

_FIRST_ROWS = 64
_TRIED = 8
# Rows picked out of the matrix are copied; beyond this share all of them are multiplied faster.
_PICKED_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Question:
    """What is remembered of one.

    Attributes
    ----------
    key : bytes
        Of its answer.
    frame : bytes
        See `CachePlan`.
    text : str
        The question.
    scope : str
        Who may be given the answer.
    """

    key: bytes
    frame: bytes
    text: str
    scope: str


class SimilarQuestions:
    """The last questions, in a matrix that is written round and round.

    Parameters
    ----------
    max_entries : int
        Questions; with d-dimensional embeddings they take about ``4 d`` bytes and their text each.
    similarity : float
        Least cosine similarity.
    """

    def __init__(self, *, max_entries: int, similarity: float) -> None:
        self.max_entries = max_entries
        self.similarity = similarity
        self._matrix: NDArray[np.float32] = np.empty((0, 0), dtype=np.float32)
        self._frames: NDArray[np.uint64] = np.empty(0, dtype=np.uint64)
        self._questions: list[Question | None] = []
        self._row_of: dict[bytes, int] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._row_of)

    def add(self, question: Question, embedding: NDArray[np.float32]) -> None:
        """Remember a question; the oldest makes room. An embedding of another dimension begins anew."""
        unit = _unit(embedding)
        if unit is None:
            return
        if unit.size != self._matrix.shape[1]:
            self._begin_anew(dimension=unit.size)
        row = self._row_of.get(question.key)
        if row is None:
            row = self._next
            self._next = (row + 1) % self.max_entries
            self._make_room(row)
            self._row_of[question.key] = row
        self._matrix[row] = unit
        self._frames[row] = _short(question.frame)
        self._questions[row] = question

    def search(self, frame: bytes, text: str, embedding: NDArray[np.float32]) -> list[tuple[bytes, float]]:
        """Return keys of answers to similar questions of the same frame, with the similarity, most similar first."""
        unit, count = _unit(embedding), len(self._questions)
        if unit is None or unit.size != self._matrix.shape[1] or not count:
            return []
        rows = np.flatnonzero(self._frames[:count] == _short(frame))
        if not rows.size:
            return []
        if rows.size > count * _PICKED_SHARE:
            similarities = (self._matrix[:count] @ unit)[rows]
        else:
            similarities = self._matrix[rows] @ unit
        near = np.flatnonzero(similarities >= self.similarity)
        found = sorted(((min(float(similarities[i]), 1.0), int(rows[i])) for i in near), reverse=True)
        questions = [(self._questions[row], similarity) for similarity, row in found[:_TRIED]]
        return [
            (known.key, similarity)
            for known, similarity in questions
            if known is not None and known.frame == frame and may_share(known.text, text)
        ]

    def forget(self, key: bytes) -> None:
        """Remove a question whose answer is gone."""
        row = self._row_of.pop(key, None)
        if row is not None:
            self._questions[row] = None
            self._frames[row] = 0

    def clear(self, scope: str | None = None) -> None:
        """Remove the questions of a scope, or all."""
        if scope is not None:
            for question in list(self._questions):
                if question is not None and question.scope == scope:
                    self.forget(question.key)
            return
        self._begin_anew(dimension=0)

    def _begin_anew(self, *, dimension: int) -> None:
        rows = min(_FIRST_ROWS, self.max_entries)
        self._matrix = np.empty((rows, dimension), dtype=np.float32)
        self._frames = np.empty(rows, dtype=np.uint64)
        self._questions = []
        self._row_of = {}
        self._next = 0

    def _make_room(self, row: int) -> None:
        if row < len(self._questions):
            old = self._questions[row]
            if old is not None:
                del self._row_of[old.key]
            return
        self._questions.append(None)
        if row >= len(self._matrix):
            rows = min(2 * len(self._matrix), self.max_entries)
            matrix = np.empty((rows, self._matrix.shape[1]), dtype=np.float32)
            matrix[:row] = self._matrix
            frames = np.empty(rows, dtype=np.uint64)
            frames[:row] = self._frames
            self._matrix, self._frames = matrix, frames


def _unit(embedding: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Return an embedding with length 1, None for one that has no direction."""
    vector = np.asarray(embedding, dtype=np.float32).ravel()
    length = float(np.sqrt(vector @ vector))
    return vector / np.float32(length) if length > 0 and np.isfinite(length) else None


def _short(frame: bytes) -> np.uint64:
    return np.uint64(int.from_bytes(frame[:8]))
