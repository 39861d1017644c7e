"""RouterDC (arXiv 2409.19886): one JSON list a task and split, a score a model in each item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from llmrouter.exceptions import DataError
from llmrouter.outcomes._benchmark_files import check_columns, json_value, list_files, read_bytes, split_in_name
from llmrouter.outcomes._benchmark_grid import BenchmarkGrid, BenchmarkPrompt

SUFFIXES = (".json",)

ScoreReading = Literal["binary", "source"]

# As the authors' evaluation script lists them: judged by the likelihood of the right option, or by ten attempts.
_LIKELIHOOD = frozenset({"arc_challenge", "arc_easy", "mmlu", "cmmlu", "ceval", "math_prealgebra"})
_ATTEMPTS = frozenset({"gsm8k", "humaneval", "mbpp", "javascript", "humaneval_javascript"})


def is_routerdc(item: Any) -> bool:
    """Return whether an item of a JSON list is one of RouterDC's."""
    return isinstance(item, dict) and isinstance(item.get("question"), str) and isinstance(item.get("scores"), dict)


def read_routerdc(path: Path, grid: BenchmarkGrid, *, likelihood_scores: ScoreReading = "binary") -> None:
    """Read ``datasets/split2_model7/*.json``: lists of ``{"question": ..., "scores": {model: value}}``.

    Task and split are in the file's name (``gsm8k-train.json``, ``mmlu_test.json``); the files without a split
    (mbpp, ceval, javascript, MATH_prealgebra) are what the authors evaluate on only, and so are test.

    Scores are shares of ten attempts (gsm8k, humaneval, mbpp, javascript), or, where an option had to be chosen, the
    probability that the model gave the right one, and 0 where it preferred another. The latter are not comparable with
    the former; the authors count them as right where they are above 0, and so does ``binary``.

    Parameters
    ----------
    path : Path
        A file, or a folder of them.
    grid : BenchmarkGrid
        Filled.
    likelihood_scores : {"binary", "source"}
        What to do with probabilities of the right option: 1 where above 0, or leave them.

    Raises
    ------
    DataError
        If a file is not such a list, or the option is unknown.
    """
    if likelihood_scores not in ("binary", "source"):
        raise DataError(f"likelihood_scores {likelihood_scores!r} is unknown; one of binary, source")
    likelihoods: set[str] = set()
    for file in list_files(path, SUFFIXES):
        items = json_value(read_bytes(file), source=str(file))
        if not isinstance(items, list) or not items:
            raise DataError(f"{file} is not in the layout of RouterDC: expected a JSON list of objects")
        task, split = split_in_name(file.stem)
        task = task.lower()
        is_likelihood = _is_likelihood(task, items)
        if is_likelihood:
            likelihoods.add(task)
        first = items[0] if isinstance(items[0], dict) else {}
        check_columns(list(first), ["question", "scores"], source=str(file), layout="RouterDC")
        for position, item in enumerate(items):
            where = f"{file.name} item {position + 1}"
            if not is_routerdc(item):
                grid.problems.add(where, "no object with a text 'question' and an object 'scores'; export it again")
                continue
            key = f"{file.stem}:{position}"
            if grid.add_prompt(key, BenchmarkPrompt(item["question"], task, split or "test"), where=where):
                for model, score in item["scores"].items():
                    quality = _binary(score) if is_likelihood and likelihood_scores == "binary" else score
                    grid.add_cell(key, model, {"quality": quality}, where=where, label=f"scores[{model!r}]")
    if likelihoods:
        done = "1 where above 0, as the authors evaluate" if likelihood_scores == "binary" else "left as they are"
        grid.notes.append(f"{', '.join(sorted(likelihoods))}: scores are probabilities of the right option, {done}")


def _is_likelihood(task: str, items: Sequence[Any]) -> bool:
    """Return whether scores are likelihoods: by the task's name, else if they are no shares of ten attempts."""
    if task in _LIKELIHOOD or task in _ATTEMPTS:
        return task in _LIKELIHOOD
    scores = [score for item in items if is_routerdc(item) for score in _numbers(item["scores"])]
    return any(0.0 < score < 1.0 and abs(score * 10 - round(score * 10)) > 1e-6 for score in scores)


def _numbers(scores: Mapping[str, Any]) -> list[float]:
    return [float(score) for score in scores.values() if isinstance(score, int | float)]


def _binary(score: Any) -> Any:
    """Return 1 for a probability above 0; what is none is left to the checks of the grid."""
    is_probability = isinstance(score, int | float) and not isinstance(score, bool) and 0.0 < score <= 1.0
    return 1.0 if is_probability else score
