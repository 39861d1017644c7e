"""The judged outcomes that online learning stands on: the newest of the log, each request once."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from llmrouter.types import FloatArray, Outcome


@dataclass(slots=True)
class Row:
    """One judged outcome.

    Attributes
    ----------
    outcome : Outcome
        What happened and who judged it; without its text once it is `complete`.
    vector : array of shape (d,), float32, or None
        Embedding of the prompt; None where it is not known yet, or never will be.
    expected : float
        Quality that the artifact's routers expect of the model that answered.
    features : array of shape (f,) or None
        See `llmrouter.learning._online_features`.
    complete : bool
        Whether the prompt has been encoded, or was found to be unreadable. It waits for that, as most rows of a long
        log leave the window before anyone looks at it.
    """

    outcome: Outcome
    vector: FloatArray | None = None
    expected: float = math.nan
    features: FloatArray | None = None
    complete: bool = False

    @property
    def model(self) -> str:
        """The model that answered."""
        return served(self.outcome)

    @property
    def weight(self) -> float:
        """Weight of the judgement."""
        return 1.0 if self.outcome.quality_weight is None else self.outcome.quality_weight


class Window:
    """The newest rows; a request that is judged again takes its new place, as its last event is what counts.

    So the window is a function of the last events of the log alone, whenever and in whatever portions they were read.

    Parameters
    ----------
    size : int
        More rows push out the oldest.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._rows: dict[str, Row] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows.values())

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._rows

    def get(self, request_id: str) -> Row | None:
        """Return the row of a request, if it is there."""
        return self._rows.get(request_id)

    def put(self, row: Row) -> None:
        """Append a row, in place of an earlier one of its request."""
        self._rows.pop(row.outcome.request_id, None)
        self._rows[row.outcome.request_id] = row
        if len(self._rows) > self.size:
            del self._rows[next(iter(self._rows))]


def served(outcome: Outcome) -> str:
    """Return the model that answered."""
    return outcome.served_by or outcome.model


def without_text(outcome: Outcome) -> Outcome:
    """Return what a row keeps of an outcome."""
    return dataclasses.replace(
        outcome,
        prompt=None,
        prompt_sha256=None,
        embedding=None,
        candidates={},
        usage=None,
        attempts=(),
        shadow=None,
        error=None,
    )


def vectors_of(rows: Sequence[Row]) -> FloatArray:
    """Return the embeddings of rows that have one, (n, d)."""
    return np.stack([row.vector for row in rows if row.vector is not None])
