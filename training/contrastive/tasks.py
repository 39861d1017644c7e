"""RouterDC's own protocol: accuracy by task, averaged over tasks, in and out of distribution.

``python -m training.contrastive.tasks --data DIR --routers routerdc,knn:k=100 --out FILE``

Routers are fitted on the train split and take the model of the highest expected quality; cost plays no part. With
``--trained DIR`` a run of ``training.contrastive routerdc`` is judged too, as it was calibrated and by its raw cosine.
Intervals are paired bootstrap intervals over the prompts of each task; each look is appended to ``test_looks.jsonl``.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from llmrouter._files import json_bytes, read_json_object, write_atomically
from llmrouter.encoders import encode_cached, load_encoder
from llmrouter.evaluation import log_test_look, prepare
from llmrouter.outcomes import OutcomeTable, load_table
from llmrouter.registry import create, resolve
from llmrouter.types import FloatArray, IntArray

IN_DISTRIBUTION = ("mmlu", "gsm8k", "cmmlu", "arc_challenge", "humaneval")
OUT_OF_DISTRIBUTION = ("math_prealgebra", "mbpp", "ceval")
_RESAMPLES = 1000


def drawn(table: OutcomeTable, *, train: int, per_task: int, seed: int) -> tuple[IntArray, IntArray]:
    """Return rows to fit on, at most `train`, and rows to judge by, at most `per_task` of a task; 0 keeps all."""
    splits, tasks = np.asarray(table.splits), np.asarray(table.tasks, dtype=object)
    rows = np.flatnonzero(splits == "train")
    if train and train < len(rows):  # as `train_routerdc` draws them
        rows = np.sort(np.random.default_rng([seed, 5]).permutation(rows)[:train])
    judged = []
    for number, task in enumerate((*IN_DISTRIBUTION, *OUT_OF_DISTRIBUTION)):
        of_task = np.flatnonzero((splits == "test") & (tasks == task))
        judged.append(np.random.default_rng([seed, 6, number]).permutation(of_task)[: per_task or len(of_task)])
    return rows, np.sort(np.concatenate(judged))


def by_task(choices: IntArray, table: OutcomeTable, single: int, *, seed: int) -> dict[str, Any]:
    """Return accuracy of each task and of the two averages over tasks, these with intervals against one model."""
    rows = np.arange(len(table))
    reached, base = table.quality[rows, choices], table.quality[:, single]
    tasks = np.asarray(table.tasks, dtype=object)
    places = {task: np.flatnonzero(tasks == task) for task in (*IN_DISTRIBUTION, *OUT_OF_DISTRIBUTION)}
    generator = np.random.default_rng(seed)
    found: dict[str, Any] = {
        task: {"accuracy": float(reached[at].mean()), "prompts": len(at)} for task, at in places.items() if len(at)
    }
    for name, group in (("in_distribution", IN_DISTRIBUTION), ("out_of_distribution", OUT_OF_DISTRIBUTION)):
        used = [places[task] for task in group if len(places[task])]
        draws = [
            np.mean([(reached - base)[generator.choice(at, len(at))].mean() for at in used]) for _ in range(_RESAMPLES)
        ]
        found[name] = {
            "accuracy": float(np.mean([reached[at].mean() for at in used])),
            "minus_best_single": float(np.mean([(reached - base)[at].mean() for at in used])),
            "interval": [float(bound) for bound in np.quantile(draws, [0.025, 0.975])],
        }
    return found


def trained_choices(folder: Path, texts: Sequence[str]) -> dict[str, IntArray]:
    """Return what a finished run chooses for texts: by calibrated quality, and by the cosine alone."""
    described = read_json_object(folder / "router.json")
    router = resolve("router", described["name"]).from_state(
        load_file(folder / "router.safetensors"), described["values"]
    )
    X = encode_cached(load_encoder(folder / "encoder"), texts)
    chosen = router.predict(X).argmax(axis=1), router.similarity(X).argmax(axis=1)
    return {"trained end to end, calibrated": chosen[0], "trained end to end, cosine": chosen[1]}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of a data set with RouterDC's tasks")
    parser.add_argument("--encoder", default="form", help="as load_encoder takes it (default: form)")
    parser.add_argument("--routers", default="routerdc,cscr,uniroute,ridge,knn", help="names, tuned on the train split")
    parser.add_argument("--trained", type=Path, help="folder of a run of training.contrastive routerdc")
    parser.add_argument("--most-train", type=int, default=0, help="train prompts at most; 0: all")
    parser.add_argument("--per-task", type=int, default=0, help="test prompts of a task at most; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    chosen = parser.parse_args(arguments)
    table = load_table(chosen.data)
    rows, judged = drawn(table, train=chosen.most_train, per_task=chosen.per_task, seed=chosen.seed)
    train, test = table.select(rows), table.select(judged)
    names = [name for name in chosen.routers.split(",") if name]
    about: Mapping[str, Any] = {
        "data": table.name, "encoder": chosen.encoder, "train_prompts": len(rows), "test_prompts": len(judged),
        "routers": names, "trained": chosen.trained is not None, "seed": chosen.seed,
    }  # fmt: skip
    log_test_look(chosen.out.parent / "test_looks.jsonl", about)
    single = int(train.quality.mean(axis=0).argmax())
    best: FloatArray = test.quality.argmax(axis=1)
    choices: dict[str, Any] = {"best-single": np.full(len(test), single), "oracle": best}
    loaded = load_encoder(chosen.encoder)
    X, X_test = encode_cached(loaded, train.router_texts()), encode_cached(loaded, test.router_texts())
    calls = np.zeros(train.quality.shape)
    calls[:, single] = 1.0
    for name in names:
        ready = prepare(name, train, X, known_cost=calls, seed=chosen.seed)
        router = create("router", ready.name, **dict(ready.parameters)).fit(X, train.quality)
        choices[name] = router.predict(X_test).argmax(axis=1)
        if hasattr(router, "similarity"):
            choices[f"{name}, cosine"] = router.similarity(X_test).argmax(axis=1)
    if chosen.trained is not None:
        choices |= trained_choices(chosen.trained, test.router_texts())
    found = {name: by_task(of_router, test, single, seed=chosen.seed) for name, of_router in choices.items()}
    write_atomically(chosen.out, json_bytes({**about, "best_single": train.models[single], "results": found}))
    for name, result in found.items():
        inside, outside = result["in_distribution"], result["out_of_distribution"]
        print(
            f"{name:32} ID {inside['accuracy']:.4f} {inside['minus_best_single']:+.4f} "
            f"[{inside['interval'][0]:+.4f}, {inside['interval'][1]:+.4f}]  OOD {outside['accuracy']:.4f} "
            f"{outside['minus_best_single']:+.4f} [{outside['interval'][0]:+.4f}, {outside['interval'][1]:+.4f}]"
        )


if __name__ == "__main__":
    main()
