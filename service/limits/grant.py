"""What a limiter gives to a request that it lets through, and what every limiter offers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from service.limits.ledger import WINDOW_S, Verdict, View
from service.limits.periods import as_text, period_end
from service.limits.refusals import refusal_error
from service.limits.subjects import Subject

_NO_HEADERS: Mapping[str, str] = {}


class Grant:
    """Leave for one request, to be settled or cancelled once it has ended.

    Attributes
    ----------
    id : str
        Names it among all replicas.
    request_id : str
        Of the request.
    subjects : tuple of Subject
        For whom it counts.
    tokens : int
        Counted in advance.
    home : {"", "local", "redis"}
        Where it is counted.
    open : bool
        Whether it is neither settled nor cancelled.
    held : tuple of float
        US dollars reserved, by subject.
    """

    __slots__ = ("epoch", "held", "home", "id", "now", "open", "request_id", "subjects", "tokens", "views")

    def __init__(
        self,
        id: str,  # noqa: A002 - what it is
        subjects: tuple[Subject, ...] = (),
        *,
        request_id: str = "",
        tokens: int = 0,
        home: Literal["", "local", "redis"] = "",
        now: float = 0.0,
        views: Sequence[View] = (),
        epoch: str = "",
    ) -> None:
        self.id = id
        self.request_id = request_id
        self.subjects = subjects
        self.tokens = tokens
        self.home: Literal["", "local", "redis"] = home
        self.now = now
        self.views = views
        self.epoch = epoch
        self.open = bool(subjects)
        self.held = tuple(view.held for view in views)

    def headers(self) -> Mapping[str, str]:
        """Return OpenAI's ``x-ratelimit-*`` headers, of the subject with the least left."""
        if not self.subjects:
            return _NO_HEADERS
        return rate_headers(self.subjects, self.views, self.now)


NOTHING_LIMITED = Grant("")
"""The grant of every request that nothing limits."""


class Limiter(Protocol):
    """Decides who may go on, and counts what was used."""

    async def acquire(
        self, subjects: tuple[Subject, ...], *, tokens: int, cost_usd: float | None, request_id: str = ""
    ) -> Grant:
        """Let a request through for all subjects, or for none.

        Parameters
        ----------
        subjects : tuple of Subject
            For whom it counts; see `service.limits.subjects.Subjects`.
        tokens : int
            How many it will use, as far as can be told.
        cost_usd : float or None
            US dollars that it will cost at most, or as far as can be told; 0 is a free model, None and NaN are unknown.
        request_id : str
            Of the request.

        Raises
        ------
        LimitExceededError
            If a subject has not enough left.
        """
        ...

    async def settle(self, grant: Grant, *, tokens: int | None, cost_usd: float | None) -> None:
        """End a request; what was taken in advance is corrected to what was used. Does nothing the second time.

        Parameters
        ----------
        grant : Grant
            Of the request.
        tokens : int or None
            Used, prompt and answer; None (unknown) keeps what was taken.
        cost_usd : float or None
            US dollars; None (unknown) charges what was reserved.
        """
        ...

    async def cancel(self, grant: Grant) -> None:
        """End a request for which nothing was used, as if it had never been."""
        ...

    async def usage(self, subjects: Sequence[Subject]) -> list[dict[str, Any]]:
        """Return what the subjects have used, as JSON objects."""
        ...

    def start(self) -> None:
        """Start what runs in the background."""
        ...

    def state(self) -> Mapping[str, Any]:
        """Return counters for metrics."""
        ...

    async def aclose(self) -> None:
        """Store what is to be kept, and end."""
        ...


def known_cost(cost_usd: float | None) -> float | None:
    """Return an estimate as the ledger takes it: None where it says nothing."""
    return None if cost_usd is None or math.isnan(cost_usd) else max(cost_usd, 0.0)


def open_verdict(
    verdict: Verdict,
    subjects: tuple[Subject, ...],
    *,
    grant: str,
    home: Literal["local", "redis"],
    request_id: str,
    tokens: int,
    epoch: str = "",
    note: str = "",
) -> Grant:
    """Return the grant that a verdict means.

    Raises
    ------
    LimitExceededError
        If it is a refusal.
    """
    if verdict.refusal is not None:
        rates = rate_headers(subjects, verdict.views, verdict.now)
        raise refusal_error(verdict, subjects, tokens=tokens, rates=rates, note=note)
    return Grant(
        grant,
        subjects,
        request_id=request_id,
        tokens=tokens,
        home=home,
        now=verdict.now,
        views=verdict.views,
        epoch=epoch,
    )


def rate_headers(subjects: Sequence[Subject], views: Sequence[View], now: float) -> dict[str, str]:
    """Return the ``x-ratelimit-*`` headers: requests and tokens, each of the subject with the least left."""
    requests: tuple[int, int, float] | None = None
    tokens: tuple[int, int, float] | None = None
    for subject, view in zip(subjects, views, strict=True):
        rpm, tpm = subject.limits.rpm, subject.limits.tpm
        if rpm is not None:
            left = remaining(rpm, view.requests_full, now)
            if requests is None or left < requests[0]:
                requests = (left, rpm, view.requests_full - now)
        if tpm is not None:
            left = remaining(tpm, view.tokens_full, now)
            if tokens is None or left < tokens[0]:
                tokens = (left, tpm, view.tokens_full - now)
    headers: dict[str, str] = {}
    for name, found in (("requests", requests), ("tokens", tokens)):
        if found is not None:
            headers[f"x-ratelimit-limit-{name}"] = str(found[1])
            headers[f"x-ratelimit-remaining-{name}"] = str(found[0])
            headers[f"x-ratelimit-reset-{name}"] = as_duration(found[2])
    return headers


def remaining(limit: int, full: float, now: float) -> int:
    """Return how much of a minute's limit is left in a bucket that is full again at the moment `full`."""
    if full <= now:
        return limit
    return max(int(limit * (WINDOW_S - (full - now)) / WINDOW_S + 1e-6), 0)


def as_duration(seconds: float) -> str:
    """Return a time as OpenAI writes it: ``20ms``, ``1.5s``, ``6m0s``, ``1h0m0s``."""
    milliseconds = max(math.ceil(seconds * 1000 - 1e-6), 0)
    if milliseconds < 1000:
        return f"{milliseconds}ms" if milliseconds else "0s"
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    text = f"{rest / 1000:g}s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


def as_usage(subject: Subject, view: View, now: float) -> dict[str, Any]:
    """Return what a subject has used, as a JSON object; null where nothing is limited."""
    limits = subject.limits
    budgeted = limits.budget_usd is not None
    end = period_end(limits.budget_period, now) if budgeted else None
    return {
        "kind": subject.kind,
        "id": subject.id,
        "spent_usd": round(view.spent, 9) if budgeted else None,
        "reserved_usd": round(view.reserved, 9) if budgeted else None,
        "budget_usd": limits.budget_usd,
        "budget_period": limits.budget_period if budgeted else None,
        "period_ends": None if end is None else as_text(end),
        "requests_limit": limits.rpm,
        "requests_remaining": None if limits.rpm is None else remaining(limits.rpm, view.requests_full, now),
        "tokens_limit": limits.tpm,
        "tokens_remaining": None if limits.tpm is None else remaining(limits.tpm, view.tokens_full, now),
        "concurrency": limits.concurrency,
        "in_flight": view.in_flight,
    }
