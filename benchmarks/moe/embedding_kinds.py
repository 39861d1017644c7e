"""What embeddings of the pocket models know: the task of a prompt, and which models answer it, by its neighbours."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from benchmarks.moe.pocket import POCKET
from llmrouter.encoders import StaticEncoder
from llmrouter.moe import EmbeddingRequest, load_engine
from llmrouter.moe._embedding import EmbeddingKind

Floats = NDArray[np.float64]

FOLDS = 5
TASK_NEIGHBOURS = 5
MODEL_NEIGHBOURS = 20
STATIC = "static encoder"
_AT_ONCE = 1024
_RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Questions:
    """Train prompts with what is to be told from their vectors.

    Attributes
    ----------
    texts : list of str
        n prompts.
    tasks : ndarray of int, shape (n,)
        Their tasks by number.
    answered : ndarray of bool, shape (n, m)
        Whether each pocket model answered right.
    phrasing : ndarray of int, shape (n,)
        Which wording of its task a prompt has, by number.
    fold : ndarray of int, shape (n,)
        All prompts of a wording are in one fold: neighbours never have the same wording.
    """

    texts: list[str]
    tasks: NDArray[np.int64]
    answered: NDArray[np.bool_]
    phrasing: NDArray[np.int64]
    fold: NDArray[np.int64]


def questions(*, seed: int) -> Questions:
    """Return the train prompts of the outcome log, wordings dealt to folds task by task."""
    import pyarrow.parquet as pq

    folder = POCKET / "outcomes"
    rows = pq.read_table(folder / "prompts.parquet", filters=[("split", "=", "train")]).to_pylist()
    outcomes = pq.read_table(folder / "outcomes.parquet", columns=["prompt_id", "model", "quality"]).to_pylist()
    quality = {(row["prompt_id"], row["model"]): row["quality"] for row in outcomes}
    models = sorted({row["model"] for row in outcomes})
    wordings = [row["source_id"].rsplit(".", 2)[0] for row in rows]  # without greetings and endings
    tasks = sorted({row["task"] for row in rows})
    draw = random.Random(seed)
    fold: dict[str, int] = {}
    for task in tasks:
        own = sorted({wording for wording, row in zip(wordings, rows, strict=True) if row["task"] == task})
        draw.shuffle(own)
        start = draw.randrange(FOLDS)
        fold |= {wording: (start + number) % FOLDS for number, wording in enumerate(own)}
    numbers = {wording: number for number, wording in enumerate(sorted(set(wordings)))}
    return Questions(
        [row["prompt"] for row in rows],
        np.array([tasks.index(row["task"]) for row in rows]),
        np.array([[quality[row["prompt_id"], model] > 0.5 for model in models] for row in rows]),
        np.array([numbers[wording] for wording in wordings]),
        np.array([fold[wording] for wording in wordings]),
    )


def vectors(texts: Sequence[str], models: Sequence[str]) -> Iterator[tuple[str, str, Floats]]:
    """Yield (source, kind, (n, d) vectors of unit length): the static encoder, then each model's kinds."""
    yield STATIC, "", StaticEncoder().encode(texts).astype(np.float64)
    for model in models:
        engine = load_engine(POCKET / model, device="cpu")
        engine.start()
        try:
            for kind in get_args(EmbeddingKind):
                jobs = [
                    engine.submit_embedding(EmbeddingRequest(inputs=texts[start : start + _AT_ONCE], kind=kind))
                    for start in range(0, len(texts), _AT_ONCE)
                ]
                yield model, kind, np.concatenate([job.future.result().vectors for job in jobs]).astype(np.float64)
        finally:
            engine.stop()


def known(found: Floats, asked: Questions) -> dict[str, Floats]:
    """Return, for every prompt, how much its neighbours in the other folds tell.

    Parameters
    ----------
    found : ndarray, shape (n, d)
        Vectors of unit length.
    asked : Questions
        The n prompts.

    Returns
    -------
    dict of str to ndarray, shape (n,)
        "task": 1 where most of the nearest have the right task (of equals the one met first); "models": the part of
        the pocket models of which most of the nearest tell rightly whether they answer.
    """
    similar = found @ found.T
    similar[asked.fold[:, None] == asked.fold[None, :]] = -np.inf
    nearest = np.argsort(-similar, axis=1, kind="stable")[:, :MODEL_NEIGHBOURS]
    told = np.empty(len(nearest))
    for row, neighbours in enumerate(asked.tasks[nearest[:, :TASK_NEIGHBOURS]]):
        told[row] = max(neighbours, key=list(neighbours).count) == asked.tasks[row]
    answers = asked.answered[nearest].mean(axis=1) >= 0.5
    return {"task": told, "models": (answers == asked.answered).mean(axis=1)}


def base_rates(asked: Questions) -> dict[str, float]:
    """Return what is right without any vector: the most frequent task, and for each model what is most frequent."""
    means = asked.answered.mean(axis=0)
    return {
        "task": float(np.bincount(asked.tasks).max() / len(asked.tasks)),
        "models": float(np.maximum(means, 1 - means).mean()),
    }


def interval(values: Floats, groups: NDArray[np.int64], *, seed: int) -> tuple[float, float]:
    """Return the 95% interval of the mean of (n,) values, resampling whole groups (bootstrap)."""
    sums = np.bincount(groups, weights=values)
    sizes = np.bincount(groups).astype(np.float64)
    picked = np.random.default_rng(seed).integers(len(sums), size=(_RESAMPLES, len(sums)))
    means = sums[picked].sum(axis=1) / sizes[picked].sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def measured(asked: Questions, models: Sequence[str], *, seed: int) -> Iterator[dict[str, Any]]:
    """Yield one row for every source and kind, the static encoder first.

    Differences, prompt by prompt, are to that encoder and to the hidden state of the same model.
    """
    marks = {(source, kind): known(found, asked) for source, kind, found in vectors(asked.texts, models)}
    for (source, kind), own in marks.items():
        row: dict[str, Any] = {"source": source, "kind": kind}
        for name, values in own.items():
            row[name] = {"mean": float(values.mean()), "interval": interval(values, asked.phrasing, seed=seed)}
            for other, against in (("static", (STATIC, "")), ("hidden", (source, "hidden"))):
                if kind and (source, kind) != against:
                    gain = values - marks[against][name]
                    limits = interval(gain, asked.phrasing, seed=seed)
                    row[name][f"to_{other}"] = {"mean": float(gain.mean()), "interval": limits}
        yield row
