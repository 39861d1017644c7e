"""``llmrouter prices show MODEL``: what a model costs, who says so, and since when."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmrouter.exceptions import ConfigError
from llmrouter.pool import KnownModel, PriceBook
from llmrouter.types import Price
from service.settings import ModelSettings, load_settings

_NOT_PRICES = frozenset({"source", "as_of", "tiers"})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("model", help="name in the pool, or the upstream's (gpt-4o-mini, anthropic/claude-sonnet-4-5)")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="take the prices of this configuration into account"
    )
    parser.add_argument("--prices", type=Path, metavar="FILE", help="price file (default: LLMROUTER_PRICES)")
    parser.add_argument("--backend", default="openai", help="backend that reaches the model (default: openai)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Print what each list says of a model; the first one counts.

    Raises
    ------
    ConfigError
        If no list knows the model, or the configuration or the price file is wrong.
    """
    entry = None if options.config is None else _pool_entry(options.config, options.model)
    overrides: Mapping[str, Price] = {} if entry is None else {entry.name: entry.card.price}
    book = PriceBook.from_environment(file=options.prices, overrides=overrides)
    listings = book.listings(
        options.model if entry is None or entry.model is None else entry.model,
        options.backend if entry is None else entry.backend,
        base_url=None if entry is None else entry.base_url,
        name=None if entry is None else entry.name,
    )
    if not listings:
        remedy = "" if book.cost_map else " LiteLLM's list is not installed: pip install 'llmrouter-service[litellm]'."
        raise ConfigError(f"no price is known for {options.model!r}; write one into the pool or a price file.{remedy}")
    if options.json:
        print(json.dumps([_document(known) for known in listings], indent=1))
    else:
        _print(listings)
    return 0


def _pool_entry(config: Path, name: str) -> ModelSettings | None:
    pool = load_settings(config).pool
    return next((model for model in pool if name in (model.name, model.model)), None)


def _document(known: KnownModel) -> dict[str, Any]:
    return {
        "name": known.name,
        "price": asdict(known.price),
        "context_window": known.context_window,
        "capabilities": None if known.capabilities is None else sorted(known.capabilities),
    }


def _print(listings: tuple[KnownModel, ...]) -> None:
    used = listings[0]
    print(f"{used.name}: USD per million tokens, from {used.price.source}, as of {used.price.as_of or '(not dated)'}")
    for key, value in _amounts(used.price):
        print(f"  {key:18} {value:g}")
    for tier in sorted(used.price.tiers, key=lambda tier: tier.above_tokens):
        print(f"  above {tier.above_tokens:,} prompt tokens: input {tier.input:g}, output {tier.output:g}")
    for other in listings[1:]:
        print(f"not used: {other.price.source}, as of {other.price.as_of or '(not dated)'} ({other.name})")
        differing = list(_differences(used.price, other.price))
        print("\n".join(f"  {line}" for line in differing) if differing else "  the same prices")


def _amounts(price: Price) -> Iterator[tuple[str, float]]:
    for key, value in asdict(price).items():
        if key not in _NOT_PRICES and value is not None and (value or key in ("input", "output")):
            yield key, value


def _differences(used: Price, other: Price) -> Iterator[str]:
    ours, theirs = dict(_amounts(used)), dict(_amounts(other))
    for key in dict.fromkeys((*ours, *theirs)):
        here, there = ours.get(key), theirs.get(key)
        if here == there:
            continue
        change = f" ({here / there - 1:+.1%} used against it)" if here is not None and there else ""
        print_there = "nothing" if there is None else f"{there:g}"
        yield f"{key:18} {print_there} instead of {'nothing' if here is None else f'{here:g}'}{change}"
    if used.tiers != other.tiers:
        yield "tiers differ"
