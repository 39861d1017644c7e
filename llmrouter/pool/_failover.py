"""What to try next when a model fails: decided here without I/O, done by a driver."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import NamedTuple

from llmrouter.exceptions import BackendError, BackendStatusError, BackendTimeoutError

# Of the upstream's state, not of the request's making. 401 to 404 mean that the pool's key or model name is wrong
# there, which the client cannot mend and another model does not share.
_RETRYABLE_STATUS = frozenset({401, 402, 403, 404, 408, 409, 425, 429})
_LOCKED_OUT_STATUS = frozenset({401, 402, 403, 404})
_SERVER_ERROR = 500
_OVERFLOW_STATUS = frozenset({400, 413, 422})
_OVERFLOW = re.compile(
    rb"context_length_exceeded|context_window_exceeded|maximum context length|context window|"
    rb"prompt is too long|input is too long|too many (?:input )?tokens",
    re.IGNORECASE,
)


class FailureKind(enum.Enum):
    """What a failure means for the rest of the ranking."""

    NEXT = "next"
    """Try the next model."""
    LARGER = "larger"
    """The prompt is too long: try the next model with a larger context window."""
    CLIENT = "client"
    """The request itself is at fault: no model will take it."""


class FailedAttempt(NamedTuple):
    """A model that was tried and failed."""

    model: str
    error: BackendError


def failure_kind(error: BackendError) -> FailureKind:
    """Return what a failure before the first byte means for the rest of the ranking."""
    if not isinstance(error, BackendStatusError):
        return FailureKind.NEXT
    if error.status in _OVERFLOW_STATUS and _OVERFLOW.search(error.body):
        return FailureKind.LARGER
    if error.status in _RETRYABLE_STATUS or error.status >= _SERVER_ERROR:
        return FailureKind.NEXT
    return FailureKind.CLIENT


def failover(
    models: Sequence[str],
    *,
    windows: Mapping[str, int | None],
    cooling: Callable[[str], bool] = lambda _: False,
    max_attempts: int = 4,
) -> Generator[str, BackendError, None]:
    """Yield the models to try; the driver sends back the error of each that fails, and stops at one that answers.

    Models that are cooling down come after the others, in the order of the ranking.

    Parameters
    ----------
    models : sequence of str
        The ranking, best first.
    windows : mapping of str to (int or None)
        Context windows in tokens; None (or absent) is unknown, and taken to be large enough.
    cooling : callable
        Whether a model cools down, asked when its turn comes.
    max_attempts : int
        At most that many models are tried.
    """
    waiting = list(models)
    too_small = 0
    for _ in range(max_attempts):
        waiting = [name for name in waiting if _larger(windows.get(name), too_small)]
        if not waiting:
            return
        name = next((candidate for candidate in waiting if not cooling(candidate)), waiting[0])
        waiting.remove(name)
        kind = failure_kind((yield name))
        if kind is FailureKind.CLIENT:
            return
        if kind is FailureKind.LARGER:
            too_small = max(too_small, windows.get(name) or 0)


def most_telling(failures: Sequence[FailedAttempt]) -> FailedAttempt:
    """Return the failure to report when every model failed: the one that helps the client most, the last among equals.

    A fault of the request comes first, then what an upstream said of its own state (a 429 tells when to come back),
    then timeouts, broken connections, prompts too long for some, and last a wrong key or name in the pool.
    """
    return max(enumerate(failures), key=lambda item: (_weight(item[1].error), item[0]))[1]


def _larger(window: int | None, too_small: int) -> bool:
    return window is None or window > too_small


def _weight(error: BackendError) -> int:
    kind = failure_kind(error)
    if kind is FailureKind.CLIENT:
        return 5
    if kind is FailureKind.LARGER:
        return 1
    if isinstance(error, BackendStatusError):
        return 0 if error.status in _LOCKED_OUT_STATUS else 4
    return 3 if isinstance(error, BackendTimeoutError) else 2
