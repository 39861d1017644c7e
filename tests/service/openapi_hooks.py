"""What schemathesis has to be told: formats that JSON Schema has no word for."""

from __future__ import annotations

import os
import time
from typing import Any

import schemathesis
from hypothesis import strategies

_UNITS = strategies.sampled_from("smhdw")
_DURATIONS = strategies.builds("{}{}".format, strategies.integers(1, 9), _UNITS)
_MOMENTS = strategies.one_of(
    _DURATIONS,
    strategies.dates().filter(lambda date: 2100 < date.year < 9000).map(str),
)
# 30 days are 4 weeks and a bit.
_GRACES = strategies.builds("{}{}".format, strategies.integers(0, 4), _UNITS)
_PRINTABLE = strategies.text(strategies.characters(exclude_categories=("C", "Z")), min_size=1, max_size=128).filter(
    str.isprintable
)

schemathesis.openapi.format("moment", _MOMENTS)
schemathesis.openapi.format("duration-up-to-30d", _GRACES)
schemathesis.openapi.format("printable", _PRINTABLE)


OWN_KEY = os.environ.get("LLMROUTER_OWN_KEY_ID")
"""Id of the key that asks: were it revoked, nothing else could be asked."""

_LARGEST = 2**63
_SOON_S = 3600.0


@schemathesis.hook
def map_body(_context: schemathesis.HookContext, body: Any) -> Any:
    """Send whole numbers without a fraction: JSON Schema takes 5.0 for one, OpenAI and the gateway do not."""
    if isinstance(body, dict):
        return {name: map_body(_context, value) for name, value in body.items()}
    if isinstance(body, list):
        return [map_body(_context, value) for value in body]
    return int(body) if isinstance(body, float) and abs(body) < _LARGEST and body.is_integer() else body


@schemathesis.hook
def filter_case(_context: schemathesis.HookContext, case: schemathesis.Case) -> bool:
    """Leave the key alone that asks, and leave out keys that expire at a number of seconds that has passed.

    Which those are no schema can say.
    """
    if OWN_KEY is not None and (case.path_parameters or {}).get("key_id") == OWN_KEY:
        return False
    expires = case.body.get("expires") if isinstance(case.body, dict) else None
    return isinstance(expires, bool) or not isinstance(expires, int | float) or expires > time.time() + _SOON_S
