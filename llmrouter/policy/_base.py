"""The contract of policies: estimates in, a ranking out; and the base they are built on."""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Protocol, Self, runtime_checkable

from llmrouter.policy._facts import TrainingFacts
from llmrouter.policy._ranking import Appraisal, View, decide, view_of
from llmrouter.types import Candidate, Decision, Estimates, Outcome, RoutingRequest


@runtime_checkable
class Policy(Protocol):
    """Chooses among candidates; never chooses one that is not eligible."""

    @property
    def name(self) -> str:
        """Short name with settings, as reported in headers and outcomes, e.g. ``utility(0.3)``."""
        ...

    def choose(self, request: RoutingRequest, candidates: Sequence[Candidate], estimates: Estimates, /) -> Decision:
        """Return a decision; `estimates.models` is in the order of `candidates`.

        Raises
        ------
        NoEligibleModelError
            If no candidate is eligible.
        """
        ...

    def bind(self, facts: TrainingFacts, /) -> Policy:
        """Return the policy for an artifact: with its units, its best single model and its calibration.

        What a policy counts (budgets, quotas, conversations, latencies) is shared between the two.

        Raises
        ------
        ConfigError
            If the facts do not support what the policy promises.
        """
        ...

    def observe(self, outcome: Outcome, /) -> None:
        """Take in what a request came to; called once for each outcome, from any thread."""
        ...


class BasePolicy:
    """What policies have in common. A policy gives `name` and `appraise`; the rest is here.

    Subclasses that count something put a lock into `locks` and override `record`; `choose` holds the locks from the
    appraisal to the record, so that concurrent requests cannot spend the same allowance twice.
    """

    locks: tuple[threading.RLock, ...] = ()
    """Held, in order, while a decision is made and counted."""

    @property
    def name(self) -> str:
        """Short name with settings."""
        raise NotImplementedError

    def appraise(self, view: View, /) -> Appraisal:
        """Value the candidates of a view.

        Changes nothing but random states: policies that wrap this one may choose otherwise.
        """
        raise NotImplementedError

    def current_cost_weight(self) -> float:
        """Return the weight of cost that requests without a wish of their own are ranked with."""
        return 0.0

    def record(self, view: View, decision: Decision, /) -> None:
        """Count a decision that will be acted on; by default nothing."""

    def bind(self, _facts: TrainingFacts, /) -> Self:
        """Return the policy itself: it needs no facts."""
        return self

    def observe(self, outcome: Outcome, /) -> None:
        """Do nothing: the policy learns nothing from outcomes."""

    def choose(self, request: RoutingRequest, candidates: Sequence[Candidate], estimates: Estimates, /) -> Decision:
        """Rank the candidates for one request.

        A `dry_run` request is decided and not counted.

        Raises
        ------
        NoEligibleModelError
            If nothing is eligible.
        ConfigError
            If the policy needs the facts of an artifact and was not bound to one.
        """
        view = view_of(request, candidates, estimates)
        if not self.locks:
            return self._chosen(view)
        with ExitStack() as stack:
            for lock in self.locks:
                stack.enter_context(lock)
            return self._chosen(view)

    def _with(self, **changes: Any) -> Self:
        """Return a shallow copy with other values: locks and counters are shared."""
        bound = copy.copy(self)
        vars(bound).update(changes)
        return bound

    def _chosen(self, view: View) -> Decision:
        decision = decide(view, self.appraise(view))
        if not view.request.dry_run:
            self.record(view, decision)
        return decision
