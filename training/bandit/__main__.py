"""Train LLM Bandit and measure it.

::

    python -m training.bandit train --data DIR --encoder form --out RUN
    python -m training.bandit compare --data DIR --out FILE
    python -m training.bandit cold-start --data DIR --hidden MODEL --out FILE

A run that was broken off goes on from its checkpoints when it is started again with the same arguments.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from llmrouter.outcomes import OutcomeTable, load_table
from training.bandit._stages import BanditSettings, encoded, train_bandit
from training.bandit.cold_start import cold_policy, cold_start, inside_train
from training.bandit.compare import RUNS, cross_validate, look, write_results
from training.contrastive._runs import train_rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="identities, supervised policy, PPO")
    train.add_argument("--data", type=Path, required=True, help="folder of a data set with logged costs")
    train.add_argument("--encoder", default="form", help="as load_encoder takes it (default: form)")
    train.add_argument("--out", type=Path, required=True, help="folder of the run: checkpoints, weights, artifact")
    for field in fields(BanditSettings):
        option = f"--{field.name.replace('_', '-')}"
        if isinstance(field.default, bool):
            train.add_argument(option, action=argparse.BooleanOptionalAction, default=field.default)
        else:
            train.add_argument(option, type=type(field.default), default=field.default, help="default: %(default)s")
    compare = commands.add_parser("compare", help="beside other routers")
    compare.add_argument("--data", type=Path, required=True, help="folder of a data set with logged costs")
    compare.add_argument("--encoder", default="form", help="as load_encoder takes it (default: form)")
    compare.add_argument("--out", type=Path, required=True, help="JSON file to write")
    compare.add_argument("--test", action="store_true", help="look at the test split, which is logged")
    compare.add_argument("--runs", nargs="*", default=list(RUNS), choices=list(RUNS))
    compare.add_argument("--folds", type=int, default=5)
    compare.add_argument("--work", type=Path, help="folder of the runs with --test; by default a temporary one")
    cold = commands.add_parser("cold-start", help="a new model from 20 or 50 scored prompts")
    cold.add_argument("--data", type=Path, required=True, help="folder of a data set with logged costs")
    cold.add_argument("--encoder", default="form", help="as load_encoder takes it (default: form)")
    cold.add_argument("--hidden", action="append", required=True, help="model to hide; repeat for more")
    cold.add_argument("--draws", type=int, default=5)
    cold.add_argument("--out", type=Path, required=True, help="JSON file to write")
    cold.add_argument("--test", action="store_true", help="look at the test split, which is logged")
    chosen = parser.parse_args(arguments)
    table = load_table(chosen.data)
    if chosen.command == "compare":
        _compare(table, chosen)
        return
    if chosen.command == "cold-start":
        _cold_start(table, chosen)
        return
    table = table.select(train_rows(table))
    X, encoder = encoded(table, chosen.encoder)
    settings = BanditSettings(**{field.name: getattr(chosen, field.name) for field in fields(BanditSettings)})
    train_bandit(table, X, chosen.out, encoder=encoder, settings=settings)


def _compare(table: OutcomeTable, chosen: argparse.Namespace) -> None:
    started = time.perf_counter()
    X, encoder = encoded(table, chosen.encoder)
    runs = {name: BanditSettings(**RUNS[name]) for name in chosen.runs}
    about = {
        "data": table.name, "encoder": chosen.encoder, "encoder_fingerprint": encoder.fingerprint,
        "split": "test" if chosen.test else "train", "runs": {name: asdict(made) for name, made in runs.items()},
    }  # fmt: skip
    if not chosen.test:
        rows = train_rows(table)
        found = cross_validate(table.select(rows), X[rows], encoder, runs, folds=chosen.folds)
        write_results(chosen.out, {**about, "folds": chosen.folds, "prompts": len(rows)}, found, started)
        return
    with tempfile.TemporaryDirectory() as folder:
        result = look(
            table, X, encoder, runs, work=chosen.work or Path(folder), look_log=chosen.out.parent / "test_looks.jsonl"
        )
    results = result.pop("results")
    write_results(chosen.out, {**about, **result}, results, started)
    for name, figures in sorted(results.items(), key=lambda item: -item[1]["aiq"]):
        print(f"{name:50} {figures['aiq']:.4f}")


def _cold_start(table: OutcomeTable, chosen: argparse.Namespace) -> None:
    started = time.perf_counter()
    X, encoder = encoded(table, chosen.encoder)
    if not chosen.test:
        table, X = inside_train(table, X, seed=0)
    look_log = chosen.out.parent / "test_looks.jsonl" if chosen.test else None
    found = cold_start(table, X, chosen.hidden, draws=chosen.draws, look_log=look_log)
    with tempfile.TemporaryDirectory() as folder:
        policy = cold_policy(
            table, X, encoder, chosen.hidden, BanditSettings(), work=Path(folder), draws=chosen.draws, look_log=look_log
        )
    about = {
        "data": table.name, "encoder": chosen.encoder, "encoder_fingerprint": encoder.fingerprint,
        "split": "test" if chosen.test else "a fifth of train", "hidden": chosen.hidden, "draws": chosen.draws,
    }  # fmt: skip
    write_results(chosen.out, about, {"protocol": found, "policy": policy}, started)


if __name__ == "__main__":
    main()
