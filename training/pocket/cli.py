"""The command line: ``python -m training.pocket {train,tasks,evaluate,log,routing,publish}``."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from training.pocket.specifications import SPECIFICATIONS

KINDS = ("plain", "null", "relu", "loss-free")  # of training.pocket.routing, which loads torch
ASSETS = Path(__file__).resolve().parents[2] / "llmrouter" / "assets" / "pocket"
SIDE_BY_SIDE = 2
"""Models trained at the same time by ``train all``: on such small matrices two processes of one thread each get more
done than one process of two threads."""


def build_parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    parser = argparse.ArgumentParser(prog="python -m training.pocket", description=__doc__)
    stages = parser.add_subparsers(dest="stage", required=True)
    train = stages.add_parser("train", help="train one model, or all (two at a time)")
    train.add_argument("--model", choices=[*SPECIFICATIONS, "all"], default="all")
    train.add_argument("--steps", type=int, help="instead of the model's own number of steps")
    train.add_argument("--seed", type=int, help="instead of the model's own seed")
    train.add_argument("--out", type=Path, default=ASSETS)
    tasks = stages.add_parser("tasks", help="print samples of the tasks")
    tasks.add_argument("--n", type=int, default=20)
    tasks.add_argument("--split", choices=["train", "test"], default="train")
    tasks.add_argument("--seed", type=int, default=0)
    evaluate = stages.add_parser("evaluate", help="accuracy by task and level of every model")
    evaluate.add_argument("--split", choices=["train", "test", "both"], default="both")
    evaluate.add_argument("--each", type=int, default=16, help="prompts per task and level (default 16)")
    evaluate.add_argument("--model", choices=[*SPECIFICATIONS, "all"], default="all")
    evaluate.add_argument("--seed", type=int, default=5)
    evaluate.add_argument("--out", type=Path, default=ASSETS, help="folder of the checkpoints")
    evaluate.add_argument("--json", type=Path, help="write the tables here too")
    log = stages.add_parser("log", help="run every model on generated prompts and write the outcome data set")
    log.add_argument("--train-each", type=int, default=38, help="train prompts per task and level")
    log.add_argument("--test-each", type=int, default=17, help="test prompts per task and level")
    log.add_argument("--seed", type=int, default=11)
    log.add_argument("--out", type=Path, default=ASSETS, help="folder of the checkpoints; outcomes go to its outcomes/")
    log.add_argument("--runner", choices=["engine", "generate"], default="engine")
    routing = stages.add_parser("routing", help="train a small model with each router and compare them")
    routing.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    routing.add_argument("--steps", type=int, help="instead of the study's")
    routing.add_argument("--seed", type=int, default=7)
    routing.add_argument("--save", type=Path, metavar="DIR", help="write each model to DIR/routing-KIND, to be served")
    routing.add_argument("--json", type=Path, help="write the rows here too")
    for stage in (train, evaluate, log, routing):
        # On matrices this small, threads that wait for each other on a busy machine cost more than they give.
        stage.add_argument("--threads", type=int, default=1, help="torch threads of a process (default 1)")
    publish = stages.add_parser("publish", help="gather the models' records into pool.json")
    publish.add_argument("--out", type=Path, default=ASSETS)
    return parser


def train_stage(arguments: argparse.Namespace) -> int:
    """Train one model in this process, or all in processes of their own."""
    if arguments.model == "all":
        return train_all(arguments)
    from training.pocket.publish import publish
    from training.pocket.train import train_and_save

    specification = SPECIFICATIONS[arguments.model]
    if arguments.seed is not None:
        specification = replace(specification, seed=arguments.seed)
    folder = train_and_save(specification, out=arguments.out, steps=arguments.steps, threads=arguments.threads)
    publish(arguments.out)
    print(f"wrote {folder}")
    return 0


def train_all(arguments: argparse.Namespace) -> int:
    """Train every model, the longest first, ``SIDE_BY_SIDE`` at a time."""
    waiting = sorted(SPECIFICATIONS.values(), key=lambda specification: -specification.effort)
    running: list[subprocess.Popen[bytes]] = []
    failed = 0
    while waiting or running:
        while waiting and len(running) < SIDE_BY_SIDE:
            command = [sys.executable, "-m", "training.pocket", "train", "--model", waiting.pop(0).name]
            command += ["--threads", str(arguments.threads), "--out", str(arguments.out)]
            for option in ("steps", "seed"):
                if getattr(arguments, option) is not None:
                    command += [f"--{option}", str(getattr(arguments, option))]
            running.append(subprocess.Popen(command))  # noqa: S603 - our own module, our own arguments
        with contextlib.suppress(subprocess.TimeoutExpired):
            running[0].wait(timeout=1.0)
        failed += sum(process.poll() not in (None, 0) for process in running)
        running = [process for process in running if process.poll() is None]
    return 1 if failed else 0


def tasks_stage(arguments: argparse.Namespace) -> int:
    """Print samples."""
    from training.pocket.tasks import generate

    for example in itertools.islice(generate(arguments.seed, arguments.split), arguments.n):
        print(f"{example.task:14s} level {example.level}  {example.prompt!r} -> {example.answer!r}")
    return 0


def evaluate_stage(arguments: argparse.Namespace) -> int:
    """Print accuracy tables."""
    import torch

    from training.pocket.evaluate import accuracy_table, batched_runner, print_tables, write_tables
    from training.pocket.tasks import balanced
    from training.pocket.types import Split

    torch.set_num_threads(arguments.threads)
    names = list(SPECIFICATIONS) if arguments.model == "all" else [arguments.model]
    splits: tuple[Split, ...] = ("train", "test") if arguments.split == "both" else (arguments.split,)
    tables: dict[str, Any] = {}
    for split in splits:
        examples = balanced(arguments.seed, split, each=arguments.each)
        prompts = [example.prompt for example in examples]
        tables[split] = {
            name: accuracy_table(examples, batched_runner(arguments.out / name)(prompts)) for name in names
        }
        print(f"\n{split}: {len(examples)} prompts; percent right, and by level 1/2/3")
        print_tables(tables[split])
    if arguments.json:
        write_tables(tables, arguments.json)
    return 0


def log_stage(arguments: argparse.Namespace) -> int:
    """Write the outcome data set."""
    import torch

    from training.pocket.log import write_log

    torch.set_num_threads(arguments.threads)
    write_log(
        arguments.out,
        seed=arguments.seed,
        train_each=arguments.train_each,
        test_each=arguments.test_each,
        runner=arguments.runner,
    )
    return 0


def routing_stage(arguments: argparse.Namespace) -> int:
    """Print one line a router, as each is done."""
    import torch

    from training.pocket.routing_study import study

    torch.set_num_threads(arguments.threads)
    rows = []
    for kind in arguments.kinds:
        rows.append(study(kind, steps=arguments.steps, seed=arguments.seed, out=arguments.save))
        print(" ".join(f"{name}={value}" for name, value in rows[-1].items()), flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


def publish_stage(arguments: argparse.Namespace) -> int:
    """Write pool.json."""
    from training.pocket.publish import publish

    print(f"wrote {publish(arguments.out)}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run a stage; return the exit status."""
    arguments = build_parser().parse_args(argv)
    stages = {
        "train": train_stage,
        "tasks": tasks_stage,
        "evaluate": evaluate_stage,
        "log": log_stage,
        "publish": publish_stage,
        "routing": routing_stage,
    }
    return stages[arguments.stage](arguments)
