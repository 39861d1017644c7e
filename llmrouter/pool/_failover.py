"""What to try next when a model fails: decided here without I/O, done by a driver."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from llmrouter.exceptions import BackendError, BackendStatusError, BackendTimeoutError

# 401 to 404 mean that the pool's key or model name is wrong there, which the client cannot mend and another model
# does not share.
_LOCKED_OUT_STATUS = frozenset({401, 402, 403, 404})
_TRANSIENT_STATUS = frozenset({409, 425})
_REQUEST_TIMEOUT, _TOO_MANY_REQUESTS, _SERVER_ERROR = 408, 429, 500
_OVERFLOW_STATUS = frozenset({400, 413, 422})
_OVERFLOW = re.compile(
    rb"context_length_exceeded|context_window_exceeded|maximum context length|context window|"
    rb"prompt is too long|input is too long|too many (?:input )?tokens",
    re.IGNORECASE,
)
_FILTER_STATUS = frozenset({400, 403, 422})
_FILTER_CODES = frozenset({
    "content_filter", "content_policy_violation", "responsibleaipolicyviolation", "data_inspection_failed",
})  # fmt: skip


class FailureClass(enum.Enum):
    """Why a model did not answer; the names are those of ``resilience.fallback_on``."""

    RATE_LIMIT = "rate_limit"
    """429."""
    SERVER_ERROR = "server_error"
    """5xx, and 409 and 425, which pass by themselves."""
    TIMEOUT = "timeout"
    """A time limit of ours ran out, or 408."""
    CONNECTION = "connection"
    """Not reached, or it broke off."""
    CONTEXT_OVERFLOW = "context_overflow"
    """The prompt is too long for this model."""
    CONTENT_FILTER = "content_filter"
    """This model's provider refuses the content; another may take it."""
    LOCKED_OUT = "locked_out"
    """401 to 404: the pool's key or model name is wrong there."""
    REQUEST = "request"
    """The request itself is at fault."""


FALLBACK_CLASSES = frozenset(FailureClass) - {FailureClass.REQUEST}
"""Classes after which another model may answer."""

_PASSING = frozenset({FailureClass.SERVER_ERROR, FailureClass.TIMEOUT, FailureClass.CONNECTION})
_BLAMING = _PASSING | {FailureClass.RATE_LIMIT, FailureClass.LOCKED_OUT}


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


def failure_class(error: BackendError) -> FailureClass:
    """Return why a model did not answer."""
    if isinstance(error, BackendTimeoutError):
        return FailureClass.TIMEOUT
    if not isinstance(error, BackendStatusError):
        return FailureClass.CONNECTION
    status = error.status
    if status in _OVERFLOW_STATUS and _OVERFLOW.search(error.body):
        return FailureClass.CONTEXT_OVERFLOW
    if status in _FILTER_STATUS and _filtered(error.body):
        return FailureClass.CONTENT_FILTER
    if status in _LOCKED_OUT_STATUS:
        return FailureClass.LOCKED_OUT
    if status == _TOO_MANY_REQUESTS:
        return FailureClass.RATE_LIMIT
    if status == _REQUEST_TIMEOUT:
        return FailureClass.TIMEOUT
    return FailureClass.SERVER_ERROR if status >= _SERVER_ERROR or status in _TRANSIENT_STATUS else FailureClass.REQUEST


def failure_kind(error: BackendError) -> FailureKind:
    """Return what a failure before the first byte means for the rest of the ranking."""
    found = failure_class(error)
    if found is FailureClass.CONTEXT_OVERFLOW:
        return FailureKind.LARGER
    return FailureKind.CLIENT if found is FailureClass.REQUEST else FailureKind.NEXT


def is_upstream_trouble(error: BackendError) -> bool:
    """Return whether a failure speaks of the upstream's state, and not of this request: it then counts against it."""
    return failure_class(error) in _BLAMING


class Walk:
    """The way along a ranking: what to try next, given what failed so far.

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
        At most that many attempts.
    fallback_on : collection of FailureClass
        After a failure of another class nothing more is tried.
    retries_same_model : int
        How often a model whose trouble may pass (server error, timeout, connection) is asked again before the next
        one is; never twice for trouble of the same class.
    """

    __slots__ = (
        "_cooling",
        "_fallback_on",
        "_left",
        "_retried",
        "_retries",
        "_seen",
        "_too_small",
        "_waiting",
        "_windows",
        "stopped",
    )  # fmt: skip

    def __init__(
        self,
        models: Sequence[str],
        *,
        windows: Mapping[str, int | None],
        cooling: Callable[[str], bool] = lambda _: False,
        max_attempts: int = 4,
        fallback_on: Collection[FailureClass] = FALLBACK_CLASSES,
        retries_same_model: int = 0,
    ) -> None:
        self._waiting = list(models)
        self._windows = windows
        self._cooling = cooling
        self._left = max_attempts
        self._fallback_on = fallback_on
        self._retries = retries_same_model
        self._retried: dict[str, int] = {}
        self._seen: set[tuple[str, FailureClass]] = set()
        self._too_small = 0
        self.stopped = False

    def next(self) -> str | None:
        """Return the model to try next, None where none is left."""
        return self._take(spare_cooling=True)

    def beside(self) -> str | None:
        """Return a model to try while another is being tried; None where none is left that is well."""
        return self._take(spare_cooling=False)

    def claim(self) -> bool:
        """Count one more attempt at a model that is being tried; return whether that is still allowed."""
        if self._left <= 0:
            return False
        self._left -= 1
        return True

    def failed(self, name: str, error: BackendError) -> None:
        """Take note that `name` did not answer."""
        found = failure_class(error)
        if found not in self._fallback_on or found is FailureClass.REQUEST:
            self.stopped = True
            self._left = 0
        elif found is FailureClass.CONTEXT_OVERFLOW:
            self._too_small = max(self._too_small, self._windows.get(name) or 0)
        elif self._retries and found in _PASSING:
            self._again(name, found)

    def _again(self, name: str, found: FailureClass) -> None:
        retried = self._retried.get(name, 0)
        if retried < self._retries and (name, found) not in self._seen:
            self._retried[name] = retried + 1
            self._waiting.insert(0, name)
        self._seen.add((name, found))

    def _take(self, *, spare_cooling: bool) -> str | None:
        if self._left <= 0:
            return None
        if self._too_small:
            self._waiting = [name for name in self._waiting if self._fits(name)]
        name = next((candidate for candidate in self._waiting if not self._cooling(candidate)), None)
        if name is None:
            if not spare_cooling or not self._waiting:
                return None
            name = self._waiting[0]
        self._waiting.remove(name)
        self._left -= 1
        return name

    def _fits(self, name: str) -> bool:
        window = self._windows.get(name)
        return window is None or window > self._too_small


def failover(models: Sequence[str], **options: Any) -> Generator[str, BackendError, None]:
    """Yield the models to try; the driver sends back the error of each that fails, and stops at one that answers.

    Parameters
    ----------
    models : sequence of str
        The ranking, best first.
    **options : Any
        See `Walk`.
    """
    walk = Walk(models, **options)
    while (name := walk.next()) is not None:
        walk.failed(name, (yield name))


def most_telling(failures: Sequence[FailedAttempt]) -> FailedAttempt:
    """Return the failure to report when every model failed: the one that helps the client most, the last among equals.

    A fault of the request comes first, then what an upstream said of its own state (a 429 tells when to come back),
    then timeouts, broken connections, refused content, prompts too long for some, and last a wrong key or name in the
    pool.
    """
    return max(enumerate(failures), key=lambda item: (_weight(item[1].error), item[0]))[1]


_WEIGHTS = {
    FailureClass.LOCKED_OUT: 0,
    FailureClass.CONTEXT_OVERFLOW: 1,
    FailureClass.CONTENT_FILTER: 2,
    FailureClass.CONNECTION: 3,
    FailureClass.TIMEOUT: 4,
    FailureClass.RATE_LIMIT: 5,
    FailureClass.SERVER_ERROR: 5,
    FailureClass.REQUEST: 6,
}


def _weight(error: BackendError) -> int:
    # What the upstream put into words (a 408 too) tells more than our own clock.
    found = failure_class(error)
    said = isinstance(error, BackendStatusError) and found is FailureClass.TIMEOUT
    return _WEIGHTS[FailureClass.SERVER_ERROR if said else found]


def _filtered(body: bytes) -> bool:
    """Return whether an error names a content filter in its codes; its message may quote anything."""
    try:
        payload = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    error = payload.get("error") if isinstance(payload, dict) else None
    if not isinstance(error, dict):
        return False
    inner = error.get("innererror")
    codes = [error.get("code"), error.get("type"), inner.get("code") if isinstance(inner, dict) else None]
    return any(isinstance(code, str) and code.lower() in _FILTER_CODES for code in codes)
