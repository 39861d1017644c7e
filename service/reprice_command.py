"""``llmrouter outcomes reprice``: costs of the log computed again from the providers' own usage."""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Protocol, Self, runtime_checkable

from llmrouter.exceptions import ConfigError
from llmrouter.outcomes import open_store
from llmrouter.pool import PriceBook, Repriced, RepricingReport, recompute_costs
from llmrouter.types import Price
from service.settings import load_settings

_BATCH = 500
_COLUMNS = ("request_id", "model", "old_cost_usd", "new_cost_usd", "price")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--store", required=True, metavar="URL", help="the log, e.g. sqlite:///outcomes.db")
    parser.add_argument("--config", type=Path, metavar="FILE", help="take the prices of this configuration's pool")
    parser.add_argument("--prices", type=Path, metavar="FILE", help="price file (default: LLMROUTER_PRICES)")
    parser.add_argument("--since", metavar="TIME", help="leave out older outcomes: 2026-11-01, or seconds since 1970")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write each change, old and new cost, as CSV")
    parser.add_argument("--write", action="store_true", help="put the new costs into the log; the report keeps the old")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


@runtime_checkable
class CostStore(Protocol):
    """An outcome store whose costs can be replaced."""

    def update_costs(self, costs: Iterable[tuple[str, float, str]], /) -> int:
        """Replace costs: request id, US dollars, stamp of the price."""
        ...


def run(options: argparse.Namespace) -> int:
    """Compute costs again, print how they differ, and change the log only where that is asked for.

    Raises
    ------
    ConfigError
        If an option, the configuration or the price file is wrong.
    StoreError
        If the log cannot be read or written.
    """
    since = read_time(options.since, "--since")
    overrides: Mapping[str, Price] = {}
    if options.config is not None:
        overrides = {model.name: model.card.price for model in load_settings(options.config).pool}
    book = PriceBook.from_environment(file=options.prices, overrides=overrides)
    store = open_store(options.store)
    try:
        if options.write and not isinstance(store, CostStore):
            raise ConfigError(f"the store {options.store} cannot replace costs; leave out --write", path="--write")
        write = store.update_costs if options.write and isinstance(store, CostStore) else None
        path = options.report or (_default_report() if options.write else None)
        with _Changes(path, write) as changes:
            report = recompute_costs(store, book, since=since, on_change=changes.take)
    finally:
        store.close()
    if options.json:
        print(json.dumps(asdict(report), indent=1))
    else:
        _print(report, path=path, written=options.write)
    return 0


class _Changes:
    """Write changes into the report, and in batches into the log: a cost is replaced only once the report holds it."""

    def __init__(self, path: Path | None, write: Callable[[Iterable[tuple[str, float, str]]], int] | None) -> None:
        self._path = path
        self._write = write
        self._file: IO[str] | None = None
        self._waiting: list[Repriced] = []

    def __enter__(self) -> Self:
        if self._path is not None:
            try:
                self._file = self._path.open("x", newline="", encoding="utf-8")
            except OSError as error:
                raise ConfigError(f"cannot create {self._path}: {error.strerror}", path="--report") from error
            csv.writer(self._file).writerow(_COLUMNS)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._flush()
        finally:
            if self._file is not None:
                self._file.close()

    def take(self, change: Repriced) -> None:
        self._waiting.append(change)
        if len(self._waiting) >= _BATCH:
            self._flush()

    def _flush(self) -> None:
        if self._file is not None:
            csv.writer(self._file).writerows(
                (change.request_id, change.model, change.before_usd, change.after_usd, change.stamp)
                for change in self._waiting
            )
            self._file.flush()
            os.fsync(self._file.fileno())
        if self._write is not None:
            self._write([(change.request_id, change.after_usd, change.stamp) for change in self._waiting])
        self._waiting.clear()


def _print(report: RepricingReport, *, path: Path | None, written: bool) -> None:
    print(
        f"{report.n} outcomes: {report.computed} computed, {report.changed} come out otherwise; {report.from_cache} "
        f"from the cache, {report.without_usage} without usage, {sum(report.without_price.values())} without a price"
    )
    print(f"total {report.total_before_usd:.6f} -> {report.total_after_usd:.6f} USD")
    for model in report.models:
        print(
            f"  {model.model}: {model.n} outcomes, {model.before_usd:.6f} -> {model.after_usd:.6f} USD "
            f"({model.difference_usd:+.6f}; price: {model.stamp})"
        )
    for name, count in sorted(report.without_price.items()):
        print(f"  {name}: {count} outcomes, no price is known; write one into a price file", file=sys.stderr)
    if path is not None:
        print(f"{'replaced in the log; ' if written else ''}old and new costs are in {path}")


def _default_report() -> Path:
    return Path(f"reprice-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.csv")


def read_time(text: str | None, option: str) -> float:
    """Return seconds since the epoch of ``2026-11-01``, another ISO date, or a number of seconds; 0 for None.

    Raises
    ------
    ConfigError
        If it is none of these; it names the option.
    """
    if text is None:
        return 0.0
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if math.isfinite(seconds):
        return seconds
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"must be a date, or seconds since 1970; got {text!r}", path=option) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
