"""Cascade routing: before every call the best set of models is chosen anew, in the light of the answers so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from llmrouter.exceptions import DataError, NotFittedError
from llmrouter.flows._answer_fit import fit_answer_model
from llmrouter.flows._answers import AnswerModel, revealed_by
from llmrouter.flows._base import Answer, FlowRun
from llmrouter.flows._beliefs import judged_beliefs, learned_beliefs
from llmrouter.flows._crossfit import cross_fit
from llmrouter.flows._judge import check_judge_error
from llmrouter.flows._live import Observations, check_settings, flow_name, needed_score, weight_of
from llmrouter.flows._supermodels import additions, best_addition, normal_samples, sampled_qualities, tabulate
from llmrouter.flows._table import FlowTable, FlowTrace
from llmrouter.flows._useful import useful_models
from llmrouter.flows._walk import Walk
from llmrouter.types import Candidate, Estimates, FloatArray, RoutingRequest

# Prompts simulated at once: bounds the array of sampled qualities.
_BLOCK = 256


class CascadeRouting:
    """Routing and cascading in one, after "A Unified Approach to Routing and Cascading for LLMs" (arXiv 2410.10347).

    Before each call, among all sets of models (supermodels) that hold the called ones, take the one with the highest
    E[max of its qualities] - weight x cost. If it adds nothing, stop and keep the answer of highest estimate; else
    call the cheapest model it adds. With `max_calls=1` this is plain routing.

    Faithful to the paper: the rule, the normal estimates whose deviation is that of the later from the earlier
    estimate (not of the truth), the quasi-random E[max] of independent qualities, pruning by negative gain, the
    cheapest model first. Different: one weight of cost for all steps (theirs are tuned one by one, which no sweep of
    weights can afford) and no random tie-breaking; the deviation is constant on the log-odds, so that it is smaller for
    estimates near 0 or 1 (theirs is constant), and no quality is imagined beyond [0, 1]; what answers reveal is learned
    from cost and tokens, as outcome tables hold no responses (theirs adds noise to the truth: compare `judge_error`).

    Parameters
    ----------
    cost_weight : float
        Weight of cost, >= 0, as in the utility policy. A request may set its own.
    reference_cost_usd : float
        Unit of the cost weight: the dearest model's mean cost on the training data.
    max_calls : int
        Largest number of answers paid for, >= 1.
    max_models : int
        At most that many models are combined; of a larger pool those that routing chooses most. All may go alone.
    judge_error : float or None
        An **oracle judge** rules on every answer and errs with this probability: a bound, not to be deployed.
    seed : int
        Of folds and samples.
    features : callable or None
        More features of an answer, ``features(answer) -> sequence of float``; see `FlowTable.extra`.

    Attributes
    ----------
    answers_ : AnswerModel
        What calls reveal.
    combinable_ : tuple of str
        The models that may be combined.
    samples_ : array of shape (1 + max_models, s)
        Standard normal samples; the first row is for models that are only called alone.
    """

    def __init__(
        self,
        cost_weight: float = 0.3,
        *,
        reference_cost_usd: float = 1.0,
        max_calls: int = 3,
        max_models: int = 12,
        judge_error: float | None = None,
        seed: int = 0,
        features: Callable[[Answer], Sequence[float]] | None = None,
    ) -> None:
        check_settings(cost_weight, reference_cost_usd, max_calls=max_calls, max_models=max_models)
        self.cost_weight = cost_weight
        self.reference_cost_usd = reference_cost_usd
        self.max_calls = max_calls
        self.max_models = max_models
        self.judge_error = check_judge_error(judge_error)
        self.seed = seed
        self.features = features

    @property
    def name(self) -> str:
        """Short name with settings; an oracle judge is named in it."""
        return flow_name("cascade-routing", self.cost_weight, self.judge_error)

    @property
    def sees_outcomes(self) -> bool:
        """Whether an oracle judge rules on the answers."""
        return self.judge_error is not None

    def fit(self, train: FlowTable, /, *, weights: FloatArray) -> Self:
        """Learn what calls reveal.

        Parameters
        ----------
        train : FlowTable
            n training prompts whose estimates were held out.
        weights : array of shape (p,)
            Weights of a unit of cost that will be used; they tell which models are worth combining.

        Raises
        ------
        DataError
            If no quality was observed.
        """
        if self.judge_error is None:
            self.answers_: AnswerModel = cross_fit(train, max_calls=self.max_calls, seed=self.seed).model
        else:
            self.answers_ = fit_answer_model(train, max_calls=self.max_calls, seed=self.seed)
        combinable = useful_models(train, weights, limit=self.max_models)
        self.combinable_ = tuple(train.models[j] for j in combinable)
        self.samples_: FloatArray = normal_samples(1 + len(combinable), seed=self.seed)
        return self

    def start(self, request: RoutingRequest, candidates: Sequence[Candidate], estimates: Estimates, /) -> FlowRun:
        """Return the generator of one request, see `Flow.start`.

        Raises
        ------
        NotFittedError
            If the flow was not fitted.
        NoEligibleModelError
            If nothing can be called.
        """
        self._check_fitted()
        walk = Walk(request, candidates, estimates)
        return self._run(walk, estimates, weight_of(self, request))

    def _run(self, walk: Walk, estimates: Estimates, weight: float) -> FlowRun:
        seen = Observations(self.answers_.aligned(estimates.models), estimates, self.features)
        samples, combinable = self._samples_of(estimates.models), self._columns(estimates.models)
        quality, cost = np.asarray(estimates.quality, dtype=np.float64), np.asarray(estimates.cost_usd)
        while True:
            called = list(walk.answers)
            estimate, deviation = self._beliefs(seen, quality)
            added = best_addition(
                sampled_qualities(estimate[None], deviation[None], samples)[0],
                cost,
                called=called,
                open_models=walk.open() if len(called) < self.max_calls else [],
                combinable=combinable,
                weight=weight,
                max_calls=self.max_calls,
                budget=walk.left_usd(),
            )
            if not added:
                break
            position = min(added, key=lambda j: (cost[j], j))
            answer = yield from walk.call(position)
            if answer is not None:
                seen.add(position, answer, score=needed_score(self, answer))
        if not walk.answers:
            yield from walk.first_answer(np.argsort(-np.nan_to_num(quality, nan=-1.0), kind="stable").tolist())
            return walk.final(next(iter(walk.answers), None))
        return walk.final(max(walk.answers, key=lambda j: (estimate[j], -cost[j], -j)))

    def _beliefs(self, seen: Observations, quality: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return estimates and deviations (m,) after what was seen; a judge's score goes before the flow's own."""
        if self.judge_error is not None:
            estimate, deviation = judged_beliefs(
                self.judge_error, quality[None], verdict=seen.accepted[None], called=seen.called
            )
            return estimate[0], deviation[0]
        estimate, deviation = learned_beliefs(seen.model, quality[None], revealed=seen.revealed, called=seen.called)
        return np.where(np.isnan(seen.scores), estimate[0], seen.scores), deviation[0]

    def simulate(self, test: FlowTable, /, *, weights: FloatArray) -> FlowTrace:
        """Return what would have been called and kept on every prompt, for weights (p,) of a unit of cost.

        Raises
        ------
        DataError
            If the columns are not those it was fitted on, or an oracle judge has no verdicts.
        """
        self._check_fitted()
        if test.models != self.answers_.models:
            raise DataError(f"fitted on the models {self.answers_.models}, asked about {test.models}; fit it again")
        if self.judge_error is not None and test.verdict is None:
            raise DataError("an oracle judge needs verdicts: set FlowTable.verdict, see judge_verdicts")
        traces = [
            self._simulate_block(test.select(np.arange(start, min(start + _BLOCK, len(test)))), weights)
            for start in range(0, len(test), _BLOCK)
        ]
        return FlowTrace(
            np.concatenate([trace.kept for trace in traces], axis=1),
            np.concatenate([trace.called for trace in traces], axis=1),
        )

    def _simulate_block(self, table: FlowTable, weights: FloatArray) -> FlowTrace:
        n, m = table.quality.shape
        kept = np.zeros((len(weights), n), dtype=np.int16)
        all_called = np.zeros((len(weights), n, m), dtype=bool)
        revealed = revealed_by(table)
        samples, combinable = self._samples_of(table.models), self._columns(table.models)

        def visit(called: tuple[int, ...], here: npt.NDArray[np.bool_]) -> None:
            """Go on from the points (p, n) at which exactly these models were called."""
            rows = np.flatnonzero(here.any(axis=0))
            part = table.select(rows)
            mask = np.isin(np.arange(m), called)
            estimate, deviation = self._table_beliefs(part, revealed[rows], mask)
            sets = additions(called, models=m, combinable=combinable, max_calls=self.max_calls)
            sampled = sampled_qualities(estimate, deviation, samples)
            step = tabulate(sampled, part.expected_cost, called=called, sets=sets).decide(weights)
            following = np.full(here.shape, -2, dtype=np.int16)
            following[:, rows] = np.where(here[:, rows], step, -2)
            stopped = following == -1
            if called:
                best = np.full(n, -1, dtype=np.int16)
                best[rows] = _best_of(called, estimate, part.expected_cost)
                kept[stopped] = np.broadcast_to(best, here.shape)[stopped]
                all_called[stopped] = mask
            for j in np.unique(following[following >= 0]).tolist():
                visit((*called, j), following == j)

        visit((), np.ones((len(weights), n), dtype=bool))
        return FlowTrace(kept, all_called)

    def _table_beliefs(
        self, table: FlowTable, revealed: FloatArray, called: npt.NDArray[np.bool_]
    ) -> tuple[FloatArray, FloatArray]:
        if self.judge_error is not None and table.verdict is not None:
            return judged_beliefs(self.judge_error, table.expected_quality, verdict=table.verdict, called=called)
        return learned_beliefs(self.answers_, table.expected_quality, revealed=revealed, called=called)

    def _columns(self, models: Sequence[str]) -> list[int]:
        return [j for j, name in enumerate(models) if name in self.combinable_]

    def _samples_of(self, models: Sequence[str]) -> FloatArray:
        place = {name: index + 1 for index, name in enumerate(self.combinable_)}
        return np.asarray(self.samples_[[place.get(name, 0) for name in models]])

    def _check_fitted(self) -> None:
        if not hasattr(self, "answers_"):
            raise NotFittedError("CascadeRouting is not fitted; call fit with a training table first")

    def state(self) -> tuple[dict[str, FloatArray], dict[str, Any]]:
        """Return what was learned as (arrays, JSON values); the hook `features` is code and is given again."""
        self._check_fitted()
        values = {
            "parameters": {
                "cost_weight": self.cost_weight,
                "reference_cost_usd": self.reference_cost_usd,
                "max_calls": self.max_calls,
                "max_models": self.max_models,
                "judge_error": self.judge_error,
                "seed": self.seed,
            },
            "models": list(self.answers_.models),
            "features": list(self.answers_.features),
            "combinable": list(self.combinable_),
        }
        return {**self.answers_.arrays(), "samples": self.samples_}, values

    @classmethod
    def from_state(
        cls,
        arrays: Mapping[str, FloatArray],
        values: Mapping[str, Any],
        *,
        features: Callable[[Answer], Sequence[float]] | None = None,
    ) -> Self:
        """Rebuild a fitted flow from `state()`.

        Raises
        ------
        DataError
            If an array is missing.
        """
        if "samples" not in arrays:
            raise DataError("the arrays of a cascade routing lack samples; train the flow again")
        flow = cls(**values["parameters"], features=features)
        flow.answers_ = AnswerModel.from_arrays(values["models"], values["features"], arrays)
        flow.combinable_ = tuple(values["combinable"])
        flow.samples_ = np.asarray(arrays["samples"], dtype=np.float64)
        return flow


def _best_of(called: Sequence[int], estimate: FloatArray, cost: FloatArray) -> npt.NDArray[np.int16]:
    """Return the called model (n,) of highest estimate, the cheaper, then the first of equals."""
    columns = np.sort(np.array(called))
    order = columns[np.argsort(cost[:, columns], axis=1, kind="stable")]
    best = np.take_along_axis(estimate, order, axis=1).argmax(axis=1)
    return np.asarray(order[np.arange(len(order)), best], dtype=np.int16)
