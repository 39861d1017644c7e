"""The contract of flows: a generator that decides, without I/O, which model to call next and which answer to keep."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias, runtime_checkable

from llmrouter.exceptions import BackendError
from llmrouter.types import Candidate, Estimates, FloatArray, RoutingRequest

if TYPE_CHECKING:
    from llmrouter.flows._table import FlowTable, FlowTrace
    from llmrouter.pool import FailedAttempt


@dataclass(frozen=True, slots=True)
class Step:
    """The call to make next.

    Attributes
    ----------
    model : str
        Pool name.
    expected_cost_usd : float
        What the call is expected to cost.
    """

    model: str
    expected_cost_usd: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back from one call.

    Attributes
    ----------
    model : str
        The model of the step.
    cost_usd : float
        What the call cost; NaN where unknown (then the expected cost counts).
    output_tokens : float
        Completion tokens; NaN where unknown.
    text : str or None
        The answer itself, for a flow's feature hook.
    score : float or None
        Probability that the answer is good, in [0, 1], by a judge outside the flow; it goes before the flow's own.
    error : BackendError or None
        The call failed; the same as throwing the error into the generator.
    """

    model: str
    cost_usd: float = math.nan
    output_tokens: float = math.nan
    text: str | None = None
    score: float | None = None
    error: BackendError | None = None


@dataclass(frozen=True, slots=True)
class Final:
    """How a flow ended.

    Attributes
    ----------
    kept : Answer or None
        The answer to give to the client, one of `answers`; None if every call failed.
    answers : tuple of Answer
        All answers obtained, in the order of the calls.
    failures : tuple of FailedAttempt
        The calls that failed.
    """

    kept: Answer | None
    answers: tuple[Answer, ...]
    failures: tuple[FailedAttempt, ...] = ()


FlowRun: TypeAlias = Generator[Step, Answer, Final]


@runtime_checkable
class Flow(Protocol):
    """Calls several models for one request, one after the other, and keeps one answer."""

    @property
    def name(self) -> str:
        """Short name with settings, e.g. ``cascade(0.3)``; an oracle judge is named in it."""
        ...

    @property
    def sees_outcomes(self) -> bool:
        """Whether it judges answers by the truth: then it is a bound of the evaluation, and nothing to deploy."""
        ...

    def start(self, request: RoutingRequest, candidates: Sequence[Candidate], estimates: Estimates, /) -> FlowRun:
        """Return the generator of one request; `estimates.models` is in the order of `candidates`.

        Only eligible candidates are called, each at most once. With `request.preference.max_cost_usd` the expected
        costs of all calls that are answered stay within it together.

        Raises
        ------
        NoEligibleModelError
            If nothing can be called.
        """
        ...


@runtime_checkable
class LearnedFlow(Flow, Protocol):
    """A flow that learns from a table of outcomes and can be replayed on one, all prompts at once."""

    def fit(self, train: FlowTable, /, *, weights: FloatArray) -> Self:
        """Learn from training prompts whose estimates were held out; `weights` (p,) are of a unit of cost."""
        ...

    def simulate(self, test: FlowTable, /, *, weights: FloatArray) -> FlowTrace:
        """Return what would have been called and kept on every prompt at every weight."""
        ...

    def state(self) -> tuple[dict[str, FloatArray], dict[str, Any]]:
        """Return what was learned as (arrays, JSON values), for an artifact."""
        ...

    @classmethod
    def from_state(cls, arrays: Mapping[str, FloatArray], values: Mapping[str, Any]) -> Self:
        """Rebuild a fitted flow from `state()`."""
        ...
