"""Contrastive routers beside the fair re-builds of what they were compared with: one look at a test split.

``python -m training.contrastive.compare --data DIR --cost usd --out FILE``

The protocol is the leaderboard's (`llmrouter.evaluation.evaluate`): routers without parameters are tuned on the train
split by cross-validation, replayed on the test split, with paired bootstrap intervals. Each look is appended to
``test_looks.jsonl`` beside the results.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmrouter._files import write_atomically
from llmrouter.encoders import encode_cached, load_encoder
from llmrouter.evaluation import evaluate, format_result, results_as_json
from llmrouter.outcomes import OutcomeTable, load_table
from llmrouter.routers import weighted_mean
from llmrouter.types import FloatArray, IntArray

BASELINES = ("uniroute", "learned-map", "carrot:estimator=linear", "carrot:estimator=knn", "knn", "ridge")
PAPER = "tau_min=0.05,start='random',hidden=64"
AGAINST = ("uniroute", "carrot:estimator=linear")


def specs(table: OutcomeTable) -> dict[str, str]:
    """Return display names and specs: tuned, with costs in the loss by either sign, and with the paper's settings."""
    named = {"cscr": "cscr", "routerdc": "routerdc"}
    train = table.split("train")
    means = weighted_mean(train.cost_usd, np.ones(len(train)))
    if np.isfinite(means).all():
        costs = "|".join(f"{mean:.6g}" for mean in means.tolist())
        named |= {
            "cscr, costs in the loss": f"cscr:costs={costs}",
            "cscr, as in the paper": f"cscr:costs={costs},{PAPER}",
            "cscr, as in the paper, cost sign plus": f"cscr:costs={costs},cost_sign='plus',{PAPER}",
            "routerdc, cost-aware": f"routerdc:costs={costs},cost_rate=0.3",
        }
    return named | {spec: spec for spec in BASELINES}


def thinned(table: OutcomeTable, most: Mapping[str, int], *, seed: int) -> IntArray:
    """Return the rows of at most so many prompts of each split, drawn by the seed; 0 keeps all of a split."""
    splits = np.asarray(table.splits)
    kept = []
    for number, name in enumerate(("train", "test")):
        rows = np.flatnonzero(splits == name)
        count = most.get(name, 0) or len(rows)
        kept.append(np.random.default_rng([seed, number]).permutation(rows)[:count])
    return np.sort(np.concatenate(kept))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of a data set")
    parser.add_argument("--encoder", default="form", help="as load_encoder takes it (default: form)")
    parser.add_argument("--label", help="name of the encoder in the results (default: as given)")
    parser.add_argument("--cost", default="usd", choices=["usd", "list_price", "calls"])
    parser.add_argument("--only", nargs="*", help="display names or specs to keep, instead of all")
    parser.add_argument("--most-train", type=int, default=0, help="train prompts at most; 0: all")
    parser.add_argument("--most-test", type=int, default=0, help="test prompts at most; 0: all")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    whole = load_table(chosen.data)
    most = {"train": chosen.most_train, "test": chosen.most_test}
    table = whole.select(thinned(whole, most, seed=chosen.seed))
    encoder = load_encoder(chosen.encoder)
    X: FloatArray = encode_cached(encoder, table.router_texts())
    routers = specs(table)
    if chosen.only:
        routers = {name: routers.get(name, name) for name in chosen.only}
    result = evaluate(
        table,
        X,
        routers=routers,
        against=[name for name in AGAINST if name in routers],
        cost=chosen.cost,
        seed=chosen.seed,
        resamples=chosen.resamples,
        context={
            "encoder": chosen.label or chosen.encoder,
            "encoder_fingerprint": encoder.fingerprint,
            "specs": routers,
        },
        look_log=chosen.out.parent / "test_looks.jsonl",
    )
    document = json.dumps(rounded(results_as_json(result)), allow_nan=False, ensure_ascii=False)
    write_atomically(chosen.out, (document + "\n").encode())
    print(format_result(result))


def rounded(value: Any) -> Any:
    """Return JSON values with six significant digits: what the figures are worth, and half the size."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
