"""models.json: the columns of a table, their list prices, and where the data comes from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from llmrouter.exceptions import DataError
from llmrouter.outcomes._table import OutcomeTable
from llmrouter.types import Price

MODELS_FILE = "models.json"

_INPUT, _OUTPUT, _CACHED = "price_in_per_1m", "price_out_per_1m", "price_cached_in_per_1m"


def read_models(path: Path) -> tuple[str | None, list[tuple[str, Price | None]]]:
    """Return the name of the data set (None where the file has none) and (model, list price) in column order.

    Raises
    ------
    DataError
        If the file is not the JSON it should be, a model comes twice, or a price is no price.
    """
    try:
        payload = orjson.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; check its permissions") from error
    except orjson.JSONDecodeError as error:
        raise DataError(f"{path} is not JSON ({error}); restore it, or delete it to do without prices") from error
    entries = payload.get("models") if isinstance(payload, dict) else None
    if not isinstance(entries, list) or not entries:
        raise DataError(f'{path} has no list "models"; write {{"models": [{{"name": "..."}}, ...]}}')
    models: dict[str, Price | None] = {}
    for position, entry in enumerate(entries):
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not name:
            raise DataError(f"{path}: models[{position}] has no name; every model needs one")
        if name in models:
            raise DataError(f"{path}: models[{position}] repeats the name {name!r}; names are unique")
        models[name] = _price(entry, f"{path}: models[{position}] ({name})")
    dataset = payload.get("dataset")
    return dataset if isinstance(dataset, str) else None, list(models.items())


def _price(entry: Mapping[str, Any], where: str) -> Price | None:
    fresh, output, cached = (_amount(entry.get(key), f"{where}: {key}") for key in (_INPUT, _OUTPUT, _CACHED))
    if (fresh is None) != (output is None):
        raise DataError(f"{where}: {_INPUT} and {_OUTPUT} go together; give both, or neither")
    return None if fresh is None or output is None else Price(fresh, output, cached)


def _amount(value: Any, where: str) -> float | None:
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number and math.isfinite(value) and value >= 0):
        raise DataError(f"{where} {value!r} is not a price; give US dollars per million tokens, or null")
    return float(value)


def write_models(path: Path, table: OutcomeTable, *, provenance: Mapping[str, Any]) -> None:
    """Write the columns of `table`; `provenance` adds top-level keys (source, commit, how the split was made).

    Raises
    ------
    DataError
        If `provenance` uses a key of the file itself or is not JSON.
    """
    reserved = sorted({"dataset", "models"} & set(provenance))
    if reserved:
        raise DataError(f"provenance must not set {reserved[0]!r}, which the table itself gives; choose another key")
    models: list[dict[str, Any]] = []
    for name, price in zip(table.models, table.prices, strict=True):
        entry: dict[str, Any] = {"name": name, _INPUT: None, _OUTPUT: None}
        if price is not None:
            entry.update({_INPUT: price.input, _OUTPUT: price.output})
            if price.cached_input is not None:
                entry[_CACHED] = price.cached_input
        models.append(entry)
    try:
        text = orjson.dumps({"dataset": table.name, **provenance, "models": models}, option=orjson.OPT_INDENT_2)
    except orjson.JSONEncodeError as error:
        raise DataError(f"{MODELS_FILE} cannot be written ({error}); names and provenance must be JSON") from error
    path.write_bytes(text + b"\n")
