"""Judged outcomes as arrays, and whose judgements they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from llmrouter.exceptions import DataError
from llmrouter.types import FloatArray, IntArray, Outcome, is_missing

ANONYMOUS = ""
"""The source of outcomes that no key asked for and none judged."""


@dataclass(frozen=True)
class Judgements:
    """Judged outcomes as arrays, n of them.

    Attributes
    ----------
    X : array of shape (n, d)
        Embeddings, rows of unit length (a zero row is far from all).
    model : array of shape (n,), int
        Which model answered.
    source : array of shape (n,), int
        Index into `names`: whose judgement it is.
    quality, time, weight : arrays of shape (n,)
        The judgement, in [0, 1]; seconds since the epoch; its weight.
    names : tuple of str
        The sources.
    """

    X: FloatArray
    model: IntArray
    source: IntArray
    quality: FloatArray
    time: FloatArray
    weight: FloatArray
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        n = len(self.X)
        for name in ("model", "source", "quality", "time", "weight"):
            if getattr(self, name).shape != (n,):
                raise DataError(f"{name} must be ({n},), one a row of X; got {getattr(self, name).shape}")
        if n and (self.source.min() < 0 or self.source.max() >= len(self.names)):
            raise DataError(f"source must be indices of {len(self.names)} names; got up to {self.source.max()}")

    def __len__(self) -> int:
        """Return the number of outcomes n."""
        return len(self.X)


@dataclass(frozen=True)
class Standing:
    """What is known of a source: `first_seen` in seconds since the epoch, and how many judged `outcomes`."""

    first_seen: float
    outcomes: int


def first_seen(judged: Judgements) -> FloatArray:
    """Return the time of each source's first outcome, (s,); infinite for one without."""
    first = np.full(len(judged.names), np.inf)
    np.minimum.at(first, judged.source, judged.time)
    return first


def source_of(outcome: Outcome, seen: Mapping[str, float] | None = None) -> str:
    """Return whose judgement the quality of an outcome is: a key id, or "".

    The key that judged; of several the one first seen last. Where the gateway judged itself (a verifier, a judge,
    implicit signals) it is the key that asked: its prompt, and for some verifiers the expected answer, are in its hand.
    """
    keys = [key for key in outcome.quality_by if key]
    if not keys:
        return outcome.key_id or ANONYMOUS
    times = seen or {}
    return max(sorted(keys), key=lambda key: times.get(key, np.inf))


def standings(outcomes: Iterable[Outcome]) -> dict[str, Standing]:
    """Return what each source did in a log."""
    found: dict[str, Standing] = {}
    for outcome in outcomes:
        if not is_missing(outcome.quality):
            source = source_of(outcome)
            had = found.get(source, Standing(np.inf, 0))
            found[source] = Standing(min(had.first_seen, outcome.time), had.outcomes + 1)
    return found


def judgements(outcomes: Sequence[Outcome], X: FloatArray) -> Judgements:
    """Return judged outcomes as arrays; X is their embeddings, (n, d)."""
    seen: dict[str, float] = {}
    for outcome in outcomes:
        for key in {*outcome.quality_by, outcome.key_id or ANONYMOUS}:
            seen[key] = min(seen.get(key, np.inf), outcome.time)
    sources = [source_of(outcome, seen) for outcome in outcomes]
    names = tuple(sorted(set(sources)))
    models = sorted({outcome.served_by or outcome.model for outcome in outcomes})
    code, column = {name: i for i, name in enumerate(names)}, {model: i for i, model in enumerate(models)}
    return Judgements(
        X=X,
        model=np.array([column[outcome.served_by or outcome.model] for outcome in outcomes], dtype=np.int64),
        source=np.array([code[source] for source in sources], dtype=np.int64),
        quality=np.array([outcome.quality for outcome in outcomes], dtype=np.float64),
        time=np.array([outcome.time for outcome in outcomes], dtype=np.float64),
        weight=np.array(
            [1.0 if outcome.quality_weight is None else outcome.quality_weight for outcome in outcomes]
        ).astype(np.float64),
        names=names,
    )
