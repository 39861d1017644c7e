"""What a client is told that has reached a limit, so that its SDK comes back when it makes sense, or not at all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from service.errors import APIError
from service.limits.ledger import WINDOW_S, Verdict, View
from service.limits.periods import as_text, period_end
from service.limits.subjects import Subject

_DEAR_USD = 0.01


class LimitExceededError(APIError):
    """A subject has not enough left: 429.

    Attributes
    ----------
    kind, id : str
        The subject.
    dimension : str
        ``requests``, ``tokens``, ``concurrency``, ``budget`` or ``reserved`` (a budget that requests under way may
        still use up).
    retry_after_s : float or None
        When to come back; None where it makes no sense.
    """

    kind: str
    id: str
    dimension: str
    retry_after_s: float | None


def refusal_error(
    verdict: Verdict, subjects: Sequence[Subject], *, tokens: int, rates: Mapping[str, str], note: str = ""
) -> LimitExceededError:
    """Return the error for a verdict that is a refusal.

    Parameters
    ----------
    verdict : Verdict
        The refusal.
    subjects : sequence of Subject
        As they were asked for.
    tokens : int
        That the request would have used.
    rates : mapping
        ``x-ratelimit-*`` headers.
    note : str
        Ends the message.
    """
    assert verdict.refusal is not None  # noqa: S101 - for the type checker
    place, dimension, wait_s = verdict.refusal
    subject, view = subjects[place], verdict.views[place]
    too_large = dimension == "tokens" and tokens > (subject.limits.tpm or 0)
    retry_after_s = None if too_large or dimension == "budget" else wait_s
    kind, code = ("tokens" if dimension == "tokens" else "requests"), "rate_limit_exceeded"
    if dimension == "budget":
        kind = code = "insufficient_quota"
    message = _message(subject, view, verdict, tokens=tokens, too_large=too_large)
    error = LimitExceededError(
        f"{message} {note}".rstrip(),
        status=429,
        type=kind,
        code=code,
        headers={**rates, **_retry_headers(retry_after_s)},
    )
    error.kind, error.id, error.dimension, error.retry_after_s = subject.kind, subject.id, dimension, retry_after_s
    return error


def _message(subject: Subject, view: View, verdict: Verdict, *, tokens: int, too_large: bool) -> str:
    assert verdict.refusal is not None  # noqa: S101 - for the type checker
    limits, (_, dimension, wait_s) = subject.limits, verdict.refusal
    who = _who(subject)
    if dimension == "requests":
        used = f"Limit {limits.rpm}, Used {_used(limits.rpm, view.requests_full, verdict.now)}, Requested 1"
        return f"Rate limit reached for {who} on requests per min (RPM): {used}. {_try_again(wait_s)}"
    if dimension == "tokens":
        used = f"Limit {limits.tpm}, Used {_used(limits.tpm, view.tokens_full, verdict.now)}, Requested {tokens}"
        if too_large:
            remedy = "The prompt or the maximum of output tokens must be reduced."
            return f"Request too large for {who} on tokens per min (TPM): {used}. {remedy}"
        return f"Rate limit reached for {who} on tokens per min (TPM): {used}. {_try_again(wait_s)}"
    if dimension == "concurrency":
        used = f"Limit {limits.concurrency}, Under way {view.in_flight}"
        return f"Too many requests at the same time for {who}: {used}. Please try again when one of them has ended."
    if dimension == "reserved":
        begun = f"The budget of {who} may be used up by requests under way: {_money(subject, view)}."
        return f"{begun} Please try again when one of them has ended."
    return f"The budget of {who} is used up: {_money(subject, view)}. {_renewal(subject, verdict.now)}"


def _retry_headers(seconds: float | None) -> dict[str, str]:
    if seconds is None:
        return {"x-should-retry": "false"}
    milliseconds = max(math.ceil(seconds * 1000), 1)
    return {"retry-after": str(math.ceil(milliseconds / 1000)), "retry-after-ms": str(milliseconds)}


def _who(subject: Subject) -> str:
    return "the gateway" if subject.kind == "gateway" else f"{subject.kind} {subject.id!r}"


def _used(limit: int | None, full: float, now: float) -> int:
    return max(round((limit or 0) * (full - now) / WINDOW_S), 0)


def _try_again(seconds: float) -> str:
    if seconds < 1:
        return f"Please try again in {max(math.ceil(seconds * 1000), 1)}ms."
    return f"Please try again in {math.ceil(seconds * 10) / 10:g}s."


def _money(subject: Subject, view: View) -> str:
    budget = subject.limits.budget_usd or 0.0
    period = {"total": "in total"}.get(subject.limits.budget_period, f"per {subject.limits.budget_period}")
    reserved = f", Reserved {_usd(view.reserved)}" if view.reserved else ""
    return f"Limit {_usd(budget)} {period}, Spent {_usd(view.spent)}{reserved}"


def _usd(value: float) -> str:
    return f"{value:.2f} USD" if value >= _DEAR_USD or value == 0 else f"{value:.6f} USD"


def _renewal(subject: Subject, now: float) -> str:
    end = period_end(subject.limits.budget_period, now)
    if end is None:
        return "It is not renewed; whoever runs the gateway can raise it."
    return f"It is renewed at {as_text(end)}."
