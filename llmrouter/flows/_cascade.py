"""A cascade: a learned sequence of models, each asked only if the answer before was not good enough."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from llmrouter.exceptions import ConfigError, DataError, NotFittedError
from llmrouter.flows._answer_fit import fit_answer_model
from llmrouter.flows._answers import AnswerModel, revealed_by
from llmrouter.flows._base import Answer, FlowRun
from llmrouter.flows._crossfit import cross_fit
from llmrouter.flows._judge import check_judge_error
from llmrouter.flows._live import Observations, check_settings, flow_name, needed_score, weight_of
from llmrouter.flows._sequences import Plans, Scorer, learn_plans
from llmrouter.flows._table import FlowTable, FlowTrace
from llmrouter.flows._useful import useful_models
from llmrouter.flows._walk import Walk
from llmrouter.types import Candidate, Estimates, FloatArray, RoutingRequest

_LONGEST = 3


class Cascade:
    """FrugalGPT's cascade (arXiv 2305.05176), with acceptance scores that need no response text.

    For every cost weight one sequence of up to three models and one threshold a place are chosen on the training
    prompts, for the highest mean quality - weight x cost. A request walks the sequence: the first answer whose score
    reaches its threshold is kept, else the last one. The score is the learned probability that the answer is good,
    given the router's estimates and what the calls revealed (`AnswerModel`); on training prompts it is held out, so
    that thresholds are honest. The sequence is the same for all prompts: choosing it prompt by prompt is
    `CascadeRouting`.

    With `judge_error` the score is the verdict of RouterBench's simulated judge (arXiv 2403.12031), which knows the
    truth and errs with that probability. That is a bound, named as such everywhere, and nothing to deploy. RouterBench
    itself walks all models in the order of their cost; here the sequence is learned, which can only help.

    Parameters
    ----------
    cost_weight : float
        Weight of cost, >= 0, as in the utility policy. A request may set its own.
    reference_cost_usd : float
        Unit of the cost weight: the dearest model's mean cost on the training data.
    mean_cost_usd : float or None
        Instead of a weight: take the plan of highest training quality whose mean training cost is within this.
    max_calls : int
        Longest sequence, 1 to 3.
    max_models : int
        At most that many models are tried in sequences; of a larger pool those that routing chooses most.
    judge_error : float or None
        Probability of a wrong verdict of an **oracle judge**, in [0, 0.5]; None for the learned score.
    seed : int
        Of folds.
    features : callable or None
        More features of an answer, ``features(answer) -> sequence of float``; see `FlowTable.extra`.

    Attributes
    ----------
    answers_ : AnswerModel
        The acceptance score.
    plans_ : Plans
        Sequence and thresholds for each weight.
    """

    def __init__(
        self,
        cost_weight: float = 0.3,
        *,
        reference_cost_usd: float = 1.0,
        mean_cost_usd: float | None = None,
        max_calls: int = _LONGEST,
        max_models: int = 12,
        judge_error: float | None = None,
        seed: int = 0,
        features: Callable[[Answer], Sequence[float]] | None = None,
    ) -> None:
        check_settings(cost_weight, reference_cost_usd, max_calls=max_calls, max_models=max_models)
        if max_calls > _LONGEST:
            raise ConfigError(f"max_calls of a cascade must be 1 to {_LONGEST}; got {max_calls}")
        if mean_cost_usd is not None and not mean_cost_usd > 0:
            raise ConfigError(f"mean_cost_usd must be > 0, or None to use cost_weight; got {mean_cost_usd!r}")
        self.cost_weight = cost_weight
        self.reference_cost_usd = reference_cost_usd
        self.mean_cost_usd = mean_cost_usd
        self.max_calls = max_calls
        self.max_models = max_models
        self.judge_error = check_judge_error(judge_error)
        self.seed = seed
        self.features = features

    @property
    def name(self) -> str:
        """Short name with settings; an oracle judge is named in it."""
        return flow_name("cascade", self.cost_weight, self.judge_error)

    @property
    def sees_outcomes(self) -> bool:
        """Whether an oracle judge rules on the answers."""
        return self.judge_error is not None

    def fit(self, train: FlowTable, /, *, weights: FloatArray) -> Self:
        """Learn the acceptance score, then a plan for each weight.

        Parameters
        ----------
        train : FlowTable
            n training prompts whose estimates were held out.
        weights : array of shape (p,)
            Of a unit of cost; requests get the plan of the nearest one.

        Raises
        ------
        DataError
            If too few prompts have an outcome of every model, or an oracle judge has no verdicts.
        """
        self.answers_: AnswerModel
        self.answers_, scorer = self._learn_scores(train)
        self.plans_: Plans = learn_plans(
            train.quality,
            train.cost,
            scorer=scorer,
            columns=useful_models(train, weights, limit=self.max_models),
            weights=np.asarray(weights, dtype=np.float64),
            max_calls=self.max_calls,
        )
        return self

    def _learn_scores(self, train: FlowTable) -> tuple[AnswerModel, Scorer]:
        """Return the acceptance score for new prompts, and that of the training prompts (held out, or the verdicts)."""
        if self.judge_error is not None:
            verdicts = _verdicts(train)
            return fit_answer_model(train, max_calls=self.max_calls, seed=self.seed), verdicts
        crossed = cross_fit(train, max_calls=self.max_calls, seed=self.seed)

        def held_out(calls: tuple[int, ...]) -> FloatArray:
            return crossed.score(train, called=np.isin(np.arange(len(train.models)), calls))[:, calls[-1]]

        return crossed.model, held_out

    def start(self, request: RoutingRequest, candidates: Sequence[Candidate], estimates: Estimates, /) -> FlowRun:
        """Return the generator of one request, see `Flow.start`.

        Models of the plan that may not be called are passed over. If none of the plan answers, the other candidates
        are called by their utility until one does.

        Raises
        ------
        NotFittedError
            If the flow was not fitted.
        NoEligibleModelError
            If nothing can be called.
        """
        self._check_fitted()
        walk = Walk(request, candidates, estimates)
        weight = weight_of(self, request)
        by_weight = self.mean_cost_usd is None or request.preference.cost_weight is not None
        plan = self.plans_.nearest(weight) if by_weight else self.plans_.within(float(self.mean_cost_usd or 0))
        return self._run(walk, estimates, self.plans_.sequence(plan), weight)

    def _run(self, walk: Walk, estimates: Estimates, sequence: Sequence[tuple[int, float]], weight: float) -> FlowRun:
        seen = Observations(self.answers_.aligned(estimates.models), estimates, self.features)
        place = {name: position for position, name in enumerate(estimates.models)}
        scores: dict[int, float] = {}
        for column, threshold in sequence:
            position = place.get(self.answers_.models[column])
            if position is None or position not in walk.open():
                continue
            answer = yield from walk.call(position)
            if answer is None:
                continue
            outside = needed_score(self, answer)
            seen.add(position, answer, score=outside)
            scores[position] = self._score(seen, estimates)[position] if outside is None else outside
            if scores[position] >= threshold:
                return walk.final(position)
        if not walk.answers:
            utility = np.nan_to_num(estimates.quality - weight * estimates.cost_usd, nan=-np.inf)
            yield from walk.first_answer(np.argsort(-utility, kind="stable").tolist())
            return walk.final(next(iter(walk.answers), None))
        # The plan broke off: the best there is.
        return walk.final(max(scores, key=lambda position: scores[position]))

    def _score(self, seen: Observations, estimates: Estimates) -> FloatArray:
        quality, std = np.asarray(estimates.quality)[None], np.asarray(estimates.quality_std)[None]
        return np.asarray(seen.model.score(quality, std, revealed=seen.revealed, called=seen.called)[0])

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
        m, revealed = len(test.models), revealed_by(test)

        def learned(calls: tuple[int, ...]) -> FloatArray:
            called = np.isin(np.arange(m), calls)
            score = self.answers_.score(test.expected_quality, test.expected_std, revealed=revealed, called=called)
            return score[:, calls[-1]]

        scorer = learned if self.judge_error is None else _verdicts(test)
        kept = np.empty((len(weights), len(test)), dtype=np.int16)
        called = np.zeros((len(weights), len(test), m), dtype=bool)
        known: dict[int, tuple[npt.NDArray[np.int16], npt.NDArray[np.bool_]]] = {}
        for index, weight in enumerate(weights.tolist()):
            plan = self.plans_.nearest(weight)
            if plan not in known:
                known[plan] = _walk_all(self.plans_.sequence(plan), scorer, n=len(test), m=m)
            kept[index], called[index] = known[plan]
        return FlowTrace(kept, called)

    def _check_fitted(self) -> None:
        if not hasattr(self, "plans_"):
            raise NotFittedError("Cascade is not fitted; call fit with a training table first")

    def state(self) -> tuple[dict[str, FloatArray], dict[str, Any]]:
        """Return what was learned as (arrays, JSON values); the hook `features` is code and is given again."""
        self._check_fitted()
        names = ("cost_weight", "reference_cost_usd", "mean_cost_usd", "max_calls", "max_models", "judge_error", "seed")
        values = {
            "parameters": {name: getattr(self, name) for name in names},
            "models": list(self.answers_.models),
            "features": list(self.answers_.features),
        }
        plans = {f"plan_{name}": getattr(self.plans_, name) for name in Plans.__dataclass_fields__}
        return {**self.answers_.arrays(), **plans}, values

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
        missing = [f"plan_{name}" for name in Plans.__dataclass_fields__ if f"plan_{name}" not in arrays]
        if missing:
            raise DataError(f"the arrays of a cascade lack {', '.join(missing)}; train the flow again")
        flow = cls(**values["parameters"], features=features)
        flow.answers_ = AnswerModel.from_arrays(values["models"], values["features"], arrays)
        flow.plans_ = Plans(**{name: np.asarray(arrays[f"plan_{name}"]) for name in Plans.__dataclass_fields__})
        return flow


def _verdicts(table: FlowTable) -> Scorer:
    """Return the verdicts of an oracle judge as scores."""
    if table.verdict is None:
        raise DataError("an oracle judge needs verdicts: set FlowTable.verdict, see judge_verdicts")
    verdict = table.verdict.astype(np.float64)
    return lambda calls: np.asarray(verdict[:, calls[-1]])


def _walk_all(
    sequence: Sequence[tuple[int, float]], scorer: Scorer, *, n: int, m: int
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.bool_]]:
    """Walk one sequence on all prompts; return the model kept (n,) and the models called (n, m)."""
    kept = np.zeros(n, dtype=np.int16)
    called = np.zeros((n, m), dtype=bool)
    going = np.ones(n, dtype=bool)
    calls: tuple[int, ...] = ()
    for column, threshold in sequence:
        calls = (*calls, column)
        kept[going] = column
        called[going, column] = True
        if column != sequence[-1][0]:
            going &= ~(scorer(calls) >= threshold)
    return kept, called
