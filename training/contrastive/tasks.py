"""RouterDC's own protocol: accuracy by task, averaged over tasks, in and out of distribution.

``python -m training.contrastive.tasks --data DIR --routers routerdc,knn:k=100 --out FILE``

Routers are fitted on the train split and take the model of the highest expected quality; cost plays no part. With
``--trained DIR`` a run of ``training.contrastive routerdc`` is judged too, as it was calibrated and by its raw cosine.
There are two best single models, both chosen on train: by the mean over prompts, and by the mean over tasks, which is
what is judged here. Intervals are bootstrap intervals over the prompts of each task, those of differences paired; each
look is appended to ``test_looks.jsonl``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmrouter._files import read_json_object, write_atomically
from llmrouter.encoders import encode_cached, load_encoder
from llmrouter.evaluation import log_test_look, table_hash, tune
from llmrouter.evaluation._provenance import versions
from llmrouter.outcomes import OutcomeTable, load_table
from llmrouter.registry import create, parse_spec, resolve
from llmrouter.types import FloatArray, IntArray
from training.contrastive.compare import rounded
from training.contrastive.served import trained_estimates

IN_DISTRIBUTION = ("mmlu", "gsm8k", "cmmlu", "arc_challenge", "humaneval")
OUT_OF_DISTRIBUTION = ("math_prealgebra", "mbpp", "ceval")


def drawn(
    table: OutcomeTable, *, train: int, per_task: int, seed: int, only: Sequence[str] = ()
) -> tuple[IntArray, IntArray]:
    """Return rows to fit on, at most `train`, and rows to judge by, at most `per_task` of a task; 0 keeps all.

    `only` names the tasks to fit on; none is all.
    """
    splits, tasks = np.asarray(table.splits), np.asarray(table.tasks, dtype=object)
    rows = np.flatnonzero(splits == "train")
    rows = rows[np.isin(tasks[rows], list(only))] if only else rows
    if train and train < len(rows):  # as `train_routerdc` draws them
        rows = np.sort(np.random.default_rng([seed, 5]).permutation(rows)[:train])
    judged = []
    for number, task in enumerate((*IN_DISTRIBUTION, *OUT_OF_DISTRIBUTION)):
        of_task = np.flatnonzero((splits == "test") & (tasks == task))
        judged.append(np.random.default_rng([seed, 6, number]).permutation(of_task)[: per_task or len(of_task)])
    return rows, np.sort(np.concatenate(judged))


def best_singles(train: OutcomeTable) -> dict[str, int]:
    """Return the model that is best on `train` by the mean over prompts, and by the mean over the tasks judged."""
    tasks = np.asarray(train.tasks, dtype=object)
    there = [train.quality[tasks == task].mean(axis=0) for task in IN_DISTRIBUTION if (tasks == task).any()]
    by_prompts, by_tasks = train.quality.mean(axis=0), np.mean(there or [train.quality.mean(axis=0)], axis=0)
    return {"best-single": int(by_prompts.argmax()), "best-single, by tasks": int(by_tasks.argmax())}


def told_the_task(train: OutcomeTable, test: OutcomeTable, other: int) -> IntArray:
    """Return each task's best model on `train` for prompts of that task, `other` for tasks that `train` has not.

    No router knows the task; this is what telling tasks apart, without a mistake, would be worth.
    """
    tasks = np.asarray(train.tasks, dtype=object)
    best = {task: int(train.quality[tasks == task].mean(axis=0).argmax()) for task in set(train.tasks)}
    return np.array([best.get(task, other) for task in test.tasks], dtype=np.int64)


def by_task(
    choices: IntArray, table: OutcomeTable, against: Mapping[str, IntArray], *, seed: int, resamples: int = 1000
) -> dict[str, Any]:
    """Return accuracy of each task and of the two averages over tasks, and these averages less those of others.

    Parameters
    ----------
    choices : array of shape (n,)
        Column chosen for each prompt.
    table : OutcomeTable
        The n prompts.
    against : mapping
        Choices of what is compared with, by name.
    seed, resamples : int
        Of the bootstrap; the same prompts are drawn for all choices.

    Returns
    -------
    dict
        By task ``accuracy``, ``interval`` (95%) and ``prompts``; by average ``accuracy``, ``interval`` and ``minus``:
        the difference to each of `against`, with its interval.
    """
    rows = np.arange(len(table))
    names = ["", *against]
    reached = np.stack([table.quality[rows, columns] for columns in (choices, *against.values())])
    tasks = np.asarray(table.tasks, dtype=object)
    found: dict[str, Any] = {}
    means, draws = {}, {}
    for number, task in enumerate((*IN_DISTRIBUTION, *OUT_OF_DISTRIBUTION)):
        of_task = reached[:, tasks == task]
        count = of_task.shape[1]
        if not count:
            continue
        drawn_rows = np.random.default_rng([seed, 7, number]).integers(count, size=(resamples, count))
        means[task], draws[task] = of_task.mean(axis=1), of_task[:, drawn_rows].mean(axis=2)
        found[task] = {"accuracy": float(means[task][0]), "interval": _interval(draws[task][0]), "prompts": count}
    for name, group in (("in_distribution", IN_DISTRIBUTION), ("out_of_distribution", OUT_OF_DISTRIBUTION)):
        used = [task for task in group if task in means]
        if not used:
            continue
        mean, draw = np.mean([means[task] for task in used], axis=0), np.mean([draws[task] for task in used], axis=0)
        minus = {
            other: {"difference": float(mean[0] - mean[at]), "interval": _interval(draw[0] - draw[at])}
            for at, other in enumerate(names)
            if at
        }
        found[name] = {"accuracy": float(mean[0]), "interval": _interval(draw[0]), "minus": minus}
    return found


def _interval(draws: FloatArray) -> list[float]:
    return [float(bound) for bound in np.quantile(draws, [0.025, 0.975])]


def trained_choices(folder: Path, texts: Sequence[str]) -> dict[str, IntArray]:
    """Return what a finished run chooses for texts: by calibrated quality, and by the cosine alone."""
    cosines, quality = trained_estimates(folder, texts)
    return {
        "trained end to end, calibrated": quality.argmax(axis=1), "trained end to end, cosine": cosines.argmax(axis=1)
    }  # fmt: skip


def routers_choices(
    names: Sequence[str], encoder: str, train: OutcomeTable, test: OutcomeTable, single: int, *, seed: int
) -> tuple[dict[str, IntArray], dict[str, Any]]:
    """Return what routers fitted on `train` choose for `test`, those with a cosine by it too, and their parameters."""
    loaded = load_encoder(encoder)
    X, X_test = encode_cached(loaded, train.router_texts()), encode_cached(loaded, test.router_texts())
    calls = np.zeros(train.quality.shape)
    calls[:, single] = 1.0
    choices, tuned = {}, {}
    for name in names:
        kind, parameters = parse_spec(name)
        if not parameters and getattr(resolve("router", kind), "grid", None):
            parameters = dict(tune(kind, train, X, known_cost=calls, seed=seed).parameters)
        router = create("router", kind, **parameters).fit(X, train.quality)
        tuned[name] = dict(parameters)
        choices[name] = router.predict(X_test).argmax(axis=1)
        if hasattr(router, "similarity"):
            choices[f"{name}, cosine"] = router.similarity(X_test).argmax(axis=1)
    return choices, tuned


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of a data set with RouterDC's tasks")
    parser.add_argument(
        "--encoder", default="form", help="as load_encoder takes it, or several by commas (default: form)"
    )
    parser.add_argument("--routers", default="routerdc,cscr,uniroute,ridge,knn", help="names, tuned on the train split")
    parser.add_argument("--trained", type=Path, help="folder of a run of training.contrastive routerdc")
    parser.add_argument("--train-tasks", default="", help="tasks to fit on, as --tasks of the run (default: all)")
    parser.add_argument("--most-train", type=int, default=0, help="train prompts at most; 0: all")
    parser.add_argument("--per-task", type=int, default=0, help="test prompts of a task at most; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    chosen = parser.parse_args(arguments)
    table = load_table(chosen.data)
    only = [task for task in chosen.train_tasks.split(",") if task]
    rows, judged = drawn(table, train=chosen.most_train, per_task=chosen.per_task, seed=chosen.seed, only=only)
    train, test = table.select(rows), table.select(judged)
    names = [name for name in chosen.routers.split(",") if name]
    about: dict[str, Any] = {
        "data": table.name, "encoder": chosen.encoder, "train_prompts": len(rows), "test_prompts": len(judged),
        "train_tasks": only, "routers": names, "trained": chosen.trained is not None, "seed": chosen.seed,
        "sha256": table_hash(table), "versions": dict(versions()),
    }  # fmt: skip
    if chosen.trained is not None:
        about["trained_run"] = read_json_object(chosen.trained / "history.json")
    singles = best_singles(train)
    best: FloatArray = test.quality.argmax(axis=1)
    choices: dict[str, Any] = {name: np.full(len(test), model) for name, model in singles.items()}
    choices |= {"oracle": best, "told the task": told_the_task(train, test, singles["best-single, by tasks"])}
    trained = {} if chosen.trained is None else trained_choices(chosen.trained, test.router_texts())
    for encoder in chosen.encoder.split(","):
        fitted, parameters = routers_choices(names, encoder, train, test, singles["best-single"], seed=chosen.seed)
        suffix = f" ({encoder})" if "," in chosen.encoder else ""
        choices |= {f"{name}{suffix}": columns for name, columns in fitted.items()}
        about.setdefault("parameters", {})[encoder] = parameters
    choices |= trained
    log_test_look(
        chosen.out.parent / "test_looks.jsonl", {key: value for key, value in about.items() if key != "trained_run"}
    )
    against = {name: columns for name, columns in choices.items() if name != "oracle"}
    found = {name: by_task(of_router, test, against, seed=chosen.seed) for name, of_router in choices.items()}
    kept = {
        "best_singles": {name: train.models[model] for name, model in singles.items()},
        "models": list(test.models),
        "prompt_ids": list(test.prompt_ids),
        "choices": {name: np.asarray(columns).tolist() for name, columns in choices.items()},
    }
    document = json.dumps(rounded({**about, **kept, "results": found}), allow_nan=False, ensure_ascii=False)
    write_atomically(chosen.out, (document + "\n").encode())
    for name, result in found.items():
        parts = []
        for label, group in (("ID", "in_distribution"), ("OOD", "out_of_distribution")):
            if group in result:
                of_group = result[group]
                low, high = of_group["minus"]["best-single, by tasks"]["interval"]
                more = of_group["minus"]["best-single, by tasks"]["difference"]
                parts.append(f"{label} {of_group['accuracy']:.4f} {more:+.4f} [{low:+.4f}, {high:+.4f}]")
        print(f"{name:32} {'  '.join(parts)}")


if __name__ == "__main__":
    main()
