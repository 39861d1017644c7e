"""One-armed traffic: prompts drawn, decided by a policy, and a log that knows the chosen model's outcome only."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.learning._population import Estimated, Population
from llmrouter.outcomes import OutcomeTable
from llmrouter.policy import Policy
from llmrouter.types import Candidate, Estimates, FloatArray, IntArray, ModelCard, Price, RoutingRequest


@dataclass(frozen=True)
class Log:
    """What n requests left behind. Nothing in it tells what another model would have done.

    Attributes
    ----------
    rows : array of shape (n,)
        Row of the population that was drawn.
    chosen : array of shape (n,)
        Column of the model that answered.
    quality, cost : array of shape (n,)
        What came of it.
    propensity : array of shape (n, m)
        Probability with which the policy chose each model.
    explored : array of bool, shape (n,)
        Whether chance put the model there.
    stage : array of shape (n,)
        Which stage of the loop it belongs to.
    """

    rows: IntArray
    chosen: IntArray
    quality: FloatArray
    cost: FloatArray
    propensity: FloatArray
    explored: npt.NDArray[np.bool_]
    stage: IntArray

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, kept: npt.NDArray[np.bool_]) -> Log:
        """Return the requests of a mask."""
        return Log(**{field.name: getattr(self, field.name)[kept] for field in dataclasses.fields(self)})

    @classmethod
    def joined(cls, logs: list[Log]) -> Log:
        """Return several logs as one, in their order."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: np.concatenate([getattr(log, name) for log in logs]) for name in names})


@dataclass(frozen=True)
class Trial:
    """A router on trial: it decides a share of the requests, drawn by chance, as a canary does.

    Attributes
    ----------
    policy : Policy
        Of the router on trial.
    estimates : Estimated
        What that router expects of every prompt of the population.
    choices : array of shape (population,)
        What the policy chooses there; it explores nothing.
    share : float
        Of the requests.
    seed : int
        Of the draws.
    """

    policy: Policy
    estimates: Estimated
    choices: IntArray
    share: float
    seed: int


def play(
    policy: Policy,
    estimates: Estimated,
    drawn: IntArray,
    *,
    population: Population,
    trial: Trial | None = None,
    stage: int = 0,
    first: int = 0,
) -> Log:
    """Let policies decide requests one after another.

    Parameters
    ----------
    policy : Policy
        Decides each request by itself, as in the gateway.
    estimates : Estimated
        What the router expects of every prompt of the population.
    drawn : array of shape (n,)
        Rows of the population, in the order in which they are asked.
    population : Population
        Where outcomes are looked up: of the chosen model only.
    trial : Trial, optional
        Decides some of the requests. The propensity of a model is that of being chosen by either, and a request
        counts as explored where the model is not what the live router alone would have chosen.
    stage : int
        Recorded.
    first : int
        Number of the first request, of which its id is made.
    """
    models = population.models
    column = {model: index for index, model in enumerate(models)}
    candidates = [Candidate(ModelCard(model, Price(0.0, 0.0))) for model in models]
    n = len(drawn)
    chosen = np.empty(n, dtype=np.int64)
    base = np.empty(n, dtype=np.int64)
    propensity = np.zeros((n, len(models)))
    live, tried = _Rows(estimates, models), None if trial is None else _Rows(trial.estimates, models)
    share = 0.0 if trial is None else trial.share
    on_trial = np.random.default_rng([0 if trial is None else trial.seed, stage, 11]).random(n) < share
    for number, (row, elsewhere) in enumerate(zip(drawn.tolist(), on_trial.tolist(), strict=True)):
        # Where the trial decides, the live policy only says with what probability it would have chosen each.
        request = RoutingRequest("", request_id=f"{first + number}", dry_run=elsewhere)
        decision = policy.choose(request, candidates, live.of(row))
        for entry in decision.ranking:
            propensity[number, column[entry.model]] = entry.propensity
        chosen[number] = column[decision.model]
        if trial is not None and tried is not None and elsewhere:
            chosen[number] = column[trial.policy.choose(request, candidates, tried.of(row)).model]
        base[number] = column[decision.model] if not decision.explored else -1
    if trial is not None:
        propensity *= 1.0 - share
        propensity[np.arange(n), trial.choices[drawn]] += share
    return _log(drawn, chosen, propensity, chosen != base, population=population, stage=stage)


def play_epsilon(
    choices: IntArray,
    drawn: IntArray,
    *,
    share: float,
    population: Population,
    trial: Trial | None = None,
    generator: np.random.Generator,
    stage: int = 0,
) -> Log:
    """Decide many requests at once as `play` does under ``ExplorePolicy(method="epsilon")``.

    The probabilities are the policy's own, to which a test holds them; only the numbers that pick are others.

    Parameters
    ----------
    choices : array of shape (population,)
        What the base policy chooses.
    share : float
        Of `ExplorePolicy`.
    generator : Generator
        Picks.
    """
    n, m = len(drawn), len(population.models)
    base = choices[drawn]
    propensity = np.full((n, m), share / (m - 1))
    propensity[np.arange(n), base] = 1.0 - share
    if trial is not None:
        propensity *= 1.0 - trial.share
        propensity[np.arange(n), trial.choices[drawn]] += trial.share
    reached = np.cumsum(propensity, axis=1)
    reached[:, -1] = 1.0  # what rounding leaves goes to the last
    chosen = (reached > generator.random(n)[:, None]).argmax(axis=1)
    return _log(drawn, chosen, propensity, chosen != base, population=population, stage=stage)


def serve(choices: IntArray, drawn: IntArray, *, population: Population, stage: int = 0) -> Log:
    """Let fixed choices, one for every prompt of the population, answer without exploring."""
    chosen = choices[drawn]
    propensity = np.zeros((len(drawn), len(population.models)))
    propensity[np.arange(len(drawn)), chosen] = 1.0
    nothing = np.zeros(len(drawn), dtype=bool)
    return _log(drawn, chosen, propensity, nothing, population=population, stage=stage)


def serve_at_random(drawn: IntArray, *, population: Population, generator: np.random.Generator, stage: int = 0) -> Log:
    """Let chance alone answer: every model with the same probability."""
    m = len(population.models)
    chosen = generator.integers(0, m, len(drawn))
    everything = np.ones(len(drawn), dtype=bool)
    return _log(drawn, chosen, np.full((len(drawn), m), 1.0 / m), everything, population=population, stage=stage)


def _log(
    drawn: IntArray,
    chosen: IntArray,
    propensity: FloatArray,
    explored: npt.NDArray[np.bool_],
    *,
    population: Population,
    stage: int,
) -> Log:
    return Log(
        rows=np.asarray(drawn, dtype=np.int64),
        chosen=chosen,
        quality=population.table.quality[drawn, chosen],
        cost=population.cost[drawn, chosen],
        propensity=propensity,
        explored=explored,
        stage=np.full(len(drawn), stage, dtype=np.int64),
    )


class _Rows:
    """Rows of estimates as policies take them, made once each."""

    def __init__(self, estimates: Estimated, models: tuple[str, ...]) -> None:
        self._estimates, self._models = estimates, models
        self._tokens = np.full(len(models), np.nan)
        self._made: dict[int, Estimates] = {}

    def of(self, row: int) -> Estimates:
        """Return the estimates of one prompt."""
        found = self._made.get(row)
        if found is None:
            every = self._estimates
            found = Estimates(self._models, every.quality[row], every.std[row], every.cost[row], self._tokens)
            self._made[row] = found
        return found


def log_as_table(log: Log, population: Population) -> tuple[OutcomeTable, FloatArray, IntArray]:
    """Return the log as a table of its distinct prompts, their embeddings, and how often each was asked.

    A prompt that was asked several times is one row: the mean of each model's outcomes there, NaN for a model that
    never answered it. Asking the same again tells nothing new here, and a router that counted it again would be surer
    than it may be.
    """
    rows, place = np.unique(log.rows, return_inverse=True)
    shape = (len(rows), len(population.models))
    count, quality, cost, chance = (np.zeros(shape) for _ in range(4))
    np.add.at(count, (place, log.chosen), 1.0)
    np.add.at(quality, (place, log.chosen), log.quality)
    np.add.at(cost, (place, log.chosen), log.cost)
    np.add.at(chance, (place, log.chosen), log.propensity[np.arange(len(log)), log.chosen])
    seen = count > 0
    divisor = np.where(seen, count, 1.0)

    def mean(total: FloatArray) -> FloatArray:
        return np.where(seen, total / divisor, np.nan)

    table = dataclasses.replace(
        population.table.select(rows), quality=mean(quality), cost_usd=mean(cost), propensity=mean(chance)
    )
    return table, population.X[rows], np.bincount(place)
