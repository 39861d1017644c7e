"""The bookkeeping of one run: who may still be called, what was spent, what failed."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from llmrouter.exceptions import BackendError, NoEligibleModelError, RoutingError
from llmrouter.flows._base import Answer, Final, Step
from llmrouter.types import Candidate, Estimates, RoutingRequest

if TYPE_CHECKING:
    from llmrouter.pool import FailedAttempt

# As many models as `llmrouter.pool.failover` tries before it gives up.
MAX_FAILURES = 4


class Walk:
    """One run over the candidates of one request.

    Parameters
    ----------
    request, candidates, estimates
        As given to `Flow.start`.

    Raises
    ------
    NoEligibleModelError
        If nothing can be called.
    """

    def __init__(self, request: RoutingRequest, candidates: Sequence[Candidate], estimates: Estimates) -> None:
        limit = request.preference.max_cost_usd
        self._candidates = tuple(candidates)
        self._expected = [float(cost) for cost in estimates.cost_usd]
        self._left = math.inf if limit is None else limit
        self._called: set[int] = set()
        self._too_small = 0
        self._over = False
        self._failures: list[FailedAttempt] = []
        self.answers: dict[int, Answer] = {}
        self._unknown = [
            math.isnan(cost) or math.isnan(quality)
            for cost, quality in zip(self._expected, estimates.quality.tolist(), strict=True)
        ]
        if not self.open():
            raise NoEligibleModelError(self._reasons(limit))

    def open(self) -> list[int]:
        """Return the positions of the candidates that may be called now, in order.

        One whose quality or cost nobody can estimate is open only while no other is.
        """
        if self._over or len(self._failures) >= MAX_FAILURES:
            return []
        allowed = [i for i in range(len(self._candidates)) if self._may_call(i)]
        return [i for i in allowed if not self._unknown[i]] or allowed

    def left_usd(self) -> float:
        """Return what is left of the request's cost limit; inf without one."""
        return self._left

    def call(self, position: int) -> Generator[Step, Answer, Answer | None]:
        """Yield the step of one candidate; return its answer, or None if it failed.

        Raises
        ------
        RoutingError
            If the driver sends back the answer of another model.
        """
        name = self._candidates[position].name
        self._called.add(position)
        try:
            answer = yield Step(name, self._expected[position])
        except BackendError as error:
            answer = Answer(name, error=error)
        if answer.model != name:
            raise RoutingError(f"the step asked for {name!r} and got an answer of {answer.model!r}; send back its own")
        if answer.error is not None:
            self._failed(position, answer.error)
            return None
        self.answers[position] = answer
        # The dearer of what was expected and what was billed: neither sum may exceed the limit.
        self._left -= float(np.nanmax([self._expected[position], answer.cost_usd, 0.0]))
        return answer

    def first_answer(self, order: Sequence[int]) -> Generator[Step, Answer, None]:
        """Call the open candidates in the given order until one answers: for when all that was planned failed."""
        for position in order:
            if position in self.open() and (yield from self.call(position)) is not None:
                return

    def final(self, kept: int | None) -> Final:
        """Return how the run ended, with the answer of the candidate at position `kept`."""
        answer = None if kept is None else self.answers[kept]
        return Final(answer, tuple(self.answers.values()), tuple(self._failures))

    def _may_call(self, position: int) -> bool:
        card = self._candidates[position].card
        window = math.inf if card.context_window is None else card.context_window
        affordable = not self._expected[position] > self._left
        return (
            self._candidates[position].eligible
            and position not in self._called
            and window > self._too_small
            and affordable
        )

    def _failed(self, position: int, error: BackendError) -> None:
        # The pool brings its HTTP client along, which replay does not need.
        from llmrouter.pool import FailedAttempt, FailureKind, failure_kind

        card = self._candidates[position].card
        self._failures.append(FailedAttempt(card.name, error))
        kind = failure_kind(error)
        if kind is FailureKind.CLIENT:
            self._over = True
        elif kind is FailureKind.LARGER:
            self._too_small = max(self._too_small, card.context_window or 0)

    def _reasons(self, limit: float | None) -> dict[str, str]:
        reasons = {}
        for candidate, cost in zip(self._candidates, self._expected, strict=True):
            dear = f"expected cost {cost:.6f} USD exceeds the limit of {limit} USD"
            reasons[candidate.name] = dear if candidate.eligible else candidate.reason or "not eligible"
        return reasons
