"""Fit an encoder to the outcomes of your own traffic, and see what it is worth.

::

    python -m training.traffic fit-encoder --data DIR --encoder minilm --out RUN
    python -m training.traffic fit-head --data DIR --encoder static --out RUN
    python -m training.traffic compare --data DIR --encoder minilm --work DIR --out FILE

What a run wrote is an encoder like any other: ``llmrouter train --encoder RUN/carried`` (a token table, no torch at run
time), ``RUN/encoder`` (the network in ONNX, or the head) or ``form:base=RUN/carried``. A run that was broken off goes
on from its checkpoint when it is started again with the same arguments.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from llmrouter.outcomes import load_table
from training.contrastive._trainer import TrainingSettings
from training.traffic import compare
from training.traffic._fit import Objective
from training.traffic._runs import ENCODER_SETTINGS, HEAD_SETTINGS, fit_encoder, fit_head

_HELP = {
    "epochs": "at most",
    "patience": "epochs without a better held-out loss",
    "batch": "prompts a step; they are each other's neighbours, so more is better",
    "steps": "steps an epoch at most; 0: all prompts",
    "held_out": "share of the train split to stop by",
    "profiles": "weight of the loss on neighbours",
    "outcomes": "weight of the loss on a read-out of each model's outcome",
    "temperature": "of the cosines between prompts",
    "sharpness": "of the agreement between the outcomes of prompts",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    full = commands.add_parser("fit-encoder", help="fine-tune a sentence encoder and distil it to a token table")
    head = commands.add_parser("fit-head", help="train a head over a frozen encoder: seconds, on any machine")
    measured = commands.add_parser("compare", help="AIQ before and after, by cross-validation on the train split")
    for command in (full, head, measured):
        command.add_argument("--data", type=Path, required=True, help="folder of a data set")
    for command in (full, head):
        command.add_argument("--out", type=Path, required=True, help="folder of the run")
        _add(command, HEAD_SETTINGS if command is head else ENCODER_SETTINGS)
        _add(command, Objective())
    for command in (full, measured):
        command.add_argument("--encoder", default="minilm", help="minilm | a folder | a hub id (default: minilm)")
        command.add_argument("--longest", type=int, default=128, help="tokens of a text at most, in training")
        command.add_argument("--dimension", type=int, default=256, help="of the token tables (default: 256)")
    head.add_argument("--encoder", default="static", help="as load_encoder takes it (default: static)")
    head.add_argument("--hidden", type=int, default=0, help="width of a hidden layer; 0: one layer, from the identity")
    head.add_argument("--dimension", type=int, default=0, help="of the vectors; 0: the encoder's own")
    _add(measured, ENCODER_SETTINGS)
    _add(measured, Objective())
    measured.add_argument("--folds", type=int, default=2)
    measured.add_argument("--resamples", type=int, default=1000)
    measured.add_argument("--work", type=Path, required=True, help="folder of the folds' checkpoints and tables")
    measured.add_argument("--out", type=Path, required=True, help="JSON file to write")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    settings = TrainingSettings(**{field.name: getattr(chosen, field.name) for field in fields(TrainingSettings)})
    objective = Objective(**{field.name: getattr(chosen, field.name) for field in fields(Objective)})
    table = load_table(chosen.data)
    if chosen.command == "fit-head":
        fit_head(
            table, chosen.out, encoder=chosen.encoder, settings=settings, objective=objective, hidden=chosen.hidden,
            dimension=chosen.dimension, say=_say,
        )  # fmt: skip
        return
    common = {"encoder": chosen.encoder, "longest": chosen.longest, "dimension": chosen.dimension}
    if chosen.command == "fit-encoder":
        fit_encoder(table, chosen.out, settings=settings, objective=objective, **common, say=_say)
        return
    plan = compare.Plan(settings=settings, head_settings=HEAD_SETTINGS, objective=objective, seed=chosen.seed, **common)
    found = compare.compare(table, chosen.work, plan, folds=chosen.folds, resamples=chosen.resamples, say=_say)
    print(compare.format_rows(compare.write_comparison(chosen.out, table, plan, found)))


def _add(command: argparse.ArgumentParser, defaults: TrainingSettings | Objective) -> None:
    for field in fields(defaults):
        value = getattr(defaults, field.name)
        text = f"{_HELP.get(field.name, '')} (default: %(default)s)".lstrip()
        command.add_argument(f"--{field.name.replace('_', '-')}", type=type(value), default=value, help=text)


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
