"""Drive the walk along the ranking: call models until one answers, and a second one beside a slow first."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import orjson
from starlette.responses import Response

from llmrouter.exceptions import BackendConnectError, BackendError, BackendStatusError, BackendTimeoutError
from llmrouter.pool import FailedAttempt, Race, deployments_in_use, is_upstream_trouble, most_telling
from service.errors import UPSTREAM_ERROR, APIError, json_response
from service.resilience.state import LocalLimitError

if TYPE_CHECKING:
    from service.call import Call
    from service.gateway import Gateway

logger = logging.getLogger(__name__)

T = TypeVar("T")

_BAD_GATEWAY, _GATEWAY_TIMEOUT = 502, 504
_LONGEST_TEXT = 500
_UPSTREAM_REQUEST_ID = "x-llmrouter-upstream-request-id"


class PoolFailedError(Exception):
    """Every model that was tried failed; `failures` of the call say how."""


async def first_answer(gateway: Gateway, call: Call, attempt: Callable[[str], Awaitable[T]]) -> T:
    """Return the first answer along the ranking, and take note of what failed before it.

    Where hedging is on and the first model is slower than usual, a second one is asked beside it. The slower one is
    cancelled, and an answer of its that came all the same is closed (``aclose``).

    Parameters
    ----------
    gateway : Gateway
        Pool and resilience.
    call : Call
        Gets `failures` (their errors know how long the attempt took), `served_by`, `upstream_s`, `hedges` and
        `abandoned`. Where it has failures already (a stream that broke off), this is a retry.
    attempt : callable
        Calls one model, by its pool name.

    Raises
    ------
    PoolFailedError
        If none answered, or the retry budget allows no further attempt.
    """
    return await _Dispatch(gateway, call, attempt).run()


class _Dispatch(Generic[T]):
    """One request on its way along the ranking."""

    __slots__ = ("_attempt", "_call", "_gateway", "_resilience", "_streamed", "_walk")

    def __init__(self, gateway: Gateway, call: Call, attempt: Callable[[str], Awaitable[T]]) -> None:
        self._gateway = gateway
        self._call = call
        self._attempt = attempt
        self._resilience = gateway.resilience
        self._streamed = call.chat.stream
        self._walk = self._resilience.walk([entry.model for entry in call.decision.eligible], gateway.windows)

    async def run(self) -> T:
        """Return the first answer."""
        resilience = self._resilience
        hedger = resilience.hedger
        if self._call.failures:
            name = self._next(self._call.failures[-1].error)
        else:
            resilience.retry_budget.request()
            name = self._first()
            if hedger is not None:
                hedger.request()
                wait_s = hedger.wait_s(name, streamed=self._streamed)
                if wait_s is not None:
                    before = time.perf_counter()
                    try:
                        return await self._beside(name, wait_s)
                    except _BothFailedError as failed:
                        name = self._next(failed.error)
                    finally:
                        self._call.upstream_s += time.perf_counter() - before
        while True:
            before = time.perf_counter()
            began = resilience.cooldowns.began(name)
            try:
                answer = await self._attempt(name)
            except BackendError as error:
                self._failed(name, error, began, time.perf_counter() - before)
                name = self._next(error)
            except BaseException:
                resilience.cooldowns.released(name, began=began)
                raise
            else:
                self._answered(name, began, time.perf_counter() - before)
                return answer
            finally:
                self._call.upstream_s += time.perf_counter() - before

    def _first(self) -> str:
        name = self._walk.next()
        if name is None:
            raise PoolFailedError
        return name

    def _next(self, error: BackendError) -> str:
        name = self._walk.next()
        if name is None:
            raise PoolFailedError from error
        # A model that was not called for a limit of ours costs nobody anything.
        if not isinstance(error, LocalLimitError) and not self._resilience.retry_budget.take():
            logger.warning("request %s: no further attempt, the retry budget is used up", self._call.request_id)
            raise PoolFailedError from error
        return name

    def _answered(self, name: str, began: float, seconds: float) -> None:
        resilience = self._resilience
        resilience.cooldowns.succeeded(name, began=began)
        if resilience.hedger is not None:
            resilience.hedger.answered(name, seconds, streamed=self._streamed)
        self._call.served_by = name

    def _failed(self, name: str, error: BackendError, began: float, seconds: float) -> None:
        error.latency_s = seconds
        self._call.failures.append(FailedAttempt(name, error))
        logger.warning("request %s: %s failed: %s", self._call.request_id, name, error)
        if is_upstream_trouble(error) and not isinstance(error, LocalLimitError):
            self._resilience.cooldowns.failed(name, error, began=began)
        else:
            self._resilience.cooldowns.released(name, began=began)
        self._walk.failed(name, error)

    async def _beside(self, first: str, wait_s: float) -> T:
        """Call a model, and a second one beside it after `wait_s` seconds; return the first answer.

        Raises
        ------
        _BothFailedError
            If neither answers.
        """
        race: Race[T] = Race(self._attempt)
        open_calls: dict[int, tuple[str, float]] = {}
        # Before the tasks copy the context, so that they share the set.
        token = deployments_in_use.set(set()) if self._resilience.hedges_replicas else None
        try:
            self._start(race, first, open_calls)
            if not await race.wait(wait_s):
                self._start_second(race, first, open_calls)
            while True:
                ended = await race.next()
                name, began = open_calls.pop(ended.number)
                if ended.error is None:
                    self._answered(name, began, ended.seconds)
                    if ended.number and self._resilience.hedger is not None:
                        self._resilience.hedger.won += 1
                    self._abandon(race)
                    return cast("T", ended.answer)
                self._failed(name, ended.error, began, ended.seconds)
                if self._walk.stopped or not race.running:
                    self._abandon(race)
                    raise _BothFailedError(ended.error)
        finally:
            race.close()
            for name, began in open_calls.values():
                self._resilience.cooldowns.released(name, began=began)
            if token is not None:
                deployments_in_use.reset(token)

    def _start(self, race: Race[T], name: str, open_calls: dict[int, tuple[str, float]]) -> None:
        open_calls[race.start(name)] = (name, self._resilience.cooldowns.began(name))

    def _start_second(self, race: Race[T], first: str, open_calls: dict[int, tuple[str, float]]) -> None:
        hedger = self._resilience.hedger
        if hedger is None or not hedger.take():
            return
        second: str | None = None
        if not self._resilience.hedges_replicas:
            second = self._walk.beside()
        elif getattr(self._gateway.backends.get(first), "replicas", 1) > 1 and self._walk.claim():
            second = first
        if second is None:
            hedger.give_back()
            return
        self._call.hedges.append(second)
        self._start(race, second, open_calls)

    def _abandon(self, race: Race[T]) -> None:
        """Cancel what is still under way, and take note of it."""
        hedger = self._resilience.hedger
        for number, name, seconds in race.close():
            self._call.abandoned.append((name, seconds))
            if number == 0 and hedger is not None:
                # It would have taken longer; leaving it out would make slow look usual.
                hedger.answered(name, seconds, streamed=self._streamed)


class _BothFailedError(Exception):
    """Neither of two attempts beside each other was answered; `error` is what the last one met."""

    def __init__(self, error: BackendError) -> None:
        super().__init__(str(error))
        self.error = error


def failure_response(call: Call) -> Response:
    """Return the answer when every model failed: the most telling failure, with all attempts listed.

    A single upstream error that is JSON is relayed with its own bytes.
    """
    _, error = most_telling(call.failures)
    headers = call.headers()
    attempts = _attempts(call.failures)
    if not isinstance(error, BackendStatusError):
        return _own_error(call.failures, error, headers)
    headers |= {name: value for name, value in under_our_names(error.headers).items() if name != "content-type"}
    payload = _json_object(error.body)
    if payload is None:
        text = error.body.decode("utf-8", "replace").strip()[:_LONGEST_TEXT]
        message = f"{error}: {text}" if text else str(error)
        details = {"attempts": attempts} if len(attempts) > 1 else {}
        return APIError(
            message, status=error.status, type=UPSTREAM_ERROR, code="upstream_error", headers=headers, details=details
        ).response()
    if len(attempts) == 1:
        return Response(error.body, status_code=error.status, headers=headers, media_type="application/json")
    holder = payload["error"] if isinstance(payload.get("error"), dict) else payload
    holder["attempts"] = attempts
    return json_response(payload, status=error.status, headers=headers)


def under_our_names(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the upstream's headers for the client; ``x-request-id`` is the gateway's own there."""
    return {_UPSTREAM_REQUEST_ID if name == "x-request-id" else name: value for name, value in headers.items()}


def stream_error(error: BackendError) -> bytes:
    """Return the error object sent when a stream breaks off after its first byte."""
    return orjson.dumps(
        {"error": {"message": str(error), "type": UPSTREAM_ERROR, "param": None, "code": error_code(error)}}
    )


def error_code(error: BackendError) -> str:
    """Return the code for a failure that no upstream put into words."""
    if isinstance(error, BackendTimeoutError):
        return "upstream_timeout"
    return "upstream_unreachable" if isinstance(error, BackendConnectError) else "upstream_broke_off"


def _own_error(failures: Sequence[FailedAttempt], error: BackendError, headers: Mapping[str, str]) -> Response:
    status = _GATEWAY_TIMEOUT if isinstance(error, BackendTimeoutError) else _BAD_GATEWAY
    details: dict[str, Any] = {}
    message = str(error)
    if len(failures) > 1:
        message = f"Every model that was tried failed. {'. '.join(str(failed) for _, failed in failures)}."
        details["attempts"] = _attempts(failures)
    return APIError(
        message, status=status, type=UPSTREAM_ERROR, code=error_code(error), headers=headers, details=details
    ).response()


def _attempts(failures: Sequence[FailedAttempt]) -> list[dict[str, str]]:
    return [{"model": name, "error": str(error)} for name, error in failures]


def _json_object(body: bytes) -> dict[str, Any] | None:
    try:
        payload = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return payload if isinstance(payload, dict) else None
