"""What a local engine reports of its load: the present price of a token, and how long one takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from llmrouter.exceptions import DataError

_MOST_USD_PER_MILLION = 1e9
_MOST_SECONDS = 1e5
_NO_PRICE_YET = "the engine has not measured what a token costs yet"
_NO_MACHINE_COST = "the engine was not told what its machine costs (service.moe: --usd-per-hour), so it reports 0"


@dataclass(frozen=True, slots=True)
class LoadReading:
    """What one more request would cost at an engine's present load.

    Attributes
    ----------
    input_usd_per_million, output_usd_per_million : float or None
        US dollars per million tokens of prompt and of completion: both, or neither where no price is known.
    seconds_per_input_token, seconds_per_output_token : float or None
        How long the request would wait for a token, > 0; both, or neither where nothing was measured.
    no_price : str
        Why no price is known; "" where one is.
    """

    input_usd_per_million: float | None = None
    output_usd_per_million: float | None = None
    seconds_per_input_token: float | None = None
    seconds_per_output_token: float | None = None
    no_price: str = ""


def read_load(document: Any, model: str, *, price: Literal["marginal", "average"] = "marginal") -> LoadReading:
    """Read the report of one model out of the answer to ``GET /v1/load``.

    Parameters
    ----------
    document : Any
        The parsed JSON: ``{"data": [{"id": ..., "marginal": {"input": {"usd_per_million": ...}, "output": ...},
        "seconds_per_input_token": ..., "seconds_per_output_token": ..., "machine": ...}]}``. Null stands for what was
        not measured yet.
    model : str
        Its ``id``.
    price : {"marginal", "average"}
        Which price of an output token: what the engine says that one more costs, or an equal share among those that
        run (``average.output``).

    Raises
    ------
    DataError
        If the document is no such report, does not list the model, or holds a value that cannot be.
    """
    entries = document.get("data") if isinstance(document, Mapping) else None
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        raise DataError("the answer is no load report: it has no list `data` of objects; check the address")
    found = next((entry for entry in entries if entry.get("id") == model), None)
    if found is None:
        listed = ", ".join(repr(entry.get("id")) for entry in entries) or "nothing"
        raise DataError(f"the load report lists {listed}, not {model!r}; say under which id it does (load.model)")
    input_usd, output_usd = _usd(found, "marginal", "input"), _usd(found, price, "output")
    no_price = ""
    if input_usd is None or output_usd is None:
        no_price = _NO_PRICE_YET
    elif input_usd == output_usd == 0 and not _machine_costs(found.get("machine")):
        no_price = _NO_MACHINE_COST
    input_s, output_s = (_positive_seconds(found, f"seconds_per_{kind}_token") for kind in ("input", "output"))
    timed = input_s is not None and output_s is not None
    return LoadReading(
        input_usd_per_million=None if no_price else input_usd,
        output_usd_per_million=None if no_price else output_usd,
        seconds_per_input_token=input_s if timed else None,
        seconds_per_output_token=output_s if timed else None,
        no_price=no_price,
    )


def _usd(entry: Mapping[str, Any], which: str, kind: str) -> float | None:
    costs = entry.get(which)
    cost = costs.get(kind) if isinstance(costs, Mapping) else None
    if cost is None:
        return None
    if not isinstance(cost, Mapping):
        raise DataError(f"{which}.{kind} of the load report must be an object or null; got {cost!r:.80}")
    return _number(cost.get("usd_per_million"), f"{which}.{kind}.usd_per_million", most=_MOST_USD_PER_MILLION)


def _positive_seconds(entry: Mapping[str, Any], key: str) -> float | None:
    # Nothing takes no time: 0 says that it was too short to be measured.
    return _number(entry.get(key), key, most=_MOST_SECONDS) or None


def _number(value: Any, name: str, *, most: float) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(f"{name} of the load report must be a number or null; got {value!r:.80}")
    if not 0 <= value <= most:
        raise DataError(f"{name} of the load report must be from 0 to {most:g}; got {value!r}")
    return float(value)


def _machine_costs(machine: Any) -> bool:
    """Return whether the engine knows what its machine costs, so that a price of 0 is one."""
    if not isinstance(machine, Mapping):
        return False
    dollars = [machine.get(key) for key in ("usd_per_hour", "usd_per_kwh")]
    return any(isinstance(value, int | float) and value > 0 for value in dollars)
