"""The time of a gateway without Redis."""

from __future__ import annotations

import time

_BEGAN_AT = time.time() - time.monotonic()


def steady_time() -> float:
    """Return seconds since the epoch on a clock that is never set back: a bucket must not seem full of the future."""
    return _BEGAN_AT + time.monotonic()
