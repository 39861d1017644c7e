"""``llmrouter outcomes``: the outcome log exported, pruned, and its costs computed again."""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

from llmrouter.exceptions import ConfigError
from llmrouter.outcomes import export_outcomes, open_store
from llmrouter.types import is_missing
from service import reprice_command
from service.reprice_command import read_time

_SECONDS_PER_DAY = 86_400.0
_STEP = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands of ``llmrouter outcomes``."""
    commands = parser.add_subparsers(required=True, metavar="ACTION")

    def action(name: str, job: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
        added.set_defaults(outcomes_job=job)
        return added

    reprice = action("reprice", reprice_command.run, "compute costs again from the raw usage that is stored")
    reprice_command.add_arguments(reprice)
    export = action("export", _export, "write the log to a flat Parquet or JSONL file")
    _store_option(export)
    export.add_argument("--out", required=True, type=Path, metavar="FILE", help="FILE.parquet or FILE.jsonl")
    export.add_argument("--since", metavar="TIME", help="leave out older outcomes: 2026-11-01, or seconds since 1970")
    export.add_argument("--until", metavar="TIME", help="leave out outcomes of that time and later")
    export.add_argument("--judged-only", action="store_true", help="leave out outcomes without a quality")
    export.add_argument("--json", action="store_true", help="print the summary as JSON")
    prune = action("prune", _prune, "remove old outcomes with their feedback, for good")
    _store_option(prune)
    prune.add_argument("--days", type=float, metavar="N", help="remove what is older than N days")
    prune.add_argument("--keep", type=int, metavar="N", help="keep the newest N outcomes only")
    prune.add_argument("--json", action="store_true", help="print the summary as JSON")


def run(options: argparse.Namespace) -> int:
    """Run the chosen subcommand and return the exit status.

    Raises
    ------
    LLMRouterError
        If an argument is wrong or the log cannot be used; the message says so.
    """
    job: Callable[[argparse.Namespace], int] = options.outcomes_job
    return job(options)


def _store_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--store", required=True, metavar="URL", help="the log: sqlite:///outcomes.db, redis://HOST:PORT/DATABASE"
    )


def _export(options: argparse.Namespace) -> int:
    since = read_time(options.since, "--since")
    until = math.inf if options.until is None else read_time(options.until, "--until")
    store = open_store(options.store)
    try:
        chosen = (
            outcome
            for outcome in store.scan(since)
            if outcome.time < until and not (options.judged_only and is_missing(outcome.quality))
        )
        count = export_outcomes(chosen, options.out)
    finally:
        store.close()
    if options.json:
        print(json.dumps({"outcomes": count, "file": str(options.out)}))
    else:
        print(f"{count} outcomes are in {options.out}")
    return 0


def _prune(options: argparse.Namespace) -> int:
    if options.days is None and options.keep is None:
        raise ConfigError("give --days, --keep or both: what is to be kept", path="prune")
    if options.days is not None and not (options.days >= 0 and math.isfinite(options.days)):
        raise ConfigError(f"must be a number of days, 0 or more; got {options.days}", path="--days")
    if options.keep is not None and options.keep < 0:
        raise ConfigError(f"must be a number of outcomes, 0 or more; got {options.keep}", path="--keep")
    before = -math.inf if options.days is None else time.time() - options.days * _SECONDS_PER_DAY
    store = open_store(options.store)
    removed = 0
    try:
        while step := store.prune(before=before, keep=options.keep, limit=_STEP):
            removed += step
    finally:
        store.close()
    if options.json:
        print(json.dumps({"removed": removed}))
    else:
        print(f"{removed} outcomes were removed")
    return 0
