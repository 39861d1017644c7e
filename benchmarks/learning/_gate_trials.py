"""Trials of the gate: logs drawn from a table on which the true gain of a router is known, and what the gate said."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np

from benchmarks.learning._playback import Log, Trial, play_epsilon
from benchmarks.learning._population import Estimated, FittedRouter, Population
from llmrouter.evaluation import LoggedDecisions
from llmrouter.learning import Gate, cross_fitted
from llmrouter.policy import UtilityPolicy
from llmrouter.types import FloatArray, IntArray

Design = Literal["explore", "trial"]
DESIGNS: dict[Design, str] = {
    "explore": "chance decides {share:.1%} of the requests, evenly among the other models",
    "trial": "chance decides {half:.1%}; the new router is on trial, and differs on {half:.1%} more at most",
}
_LIVE_PROMPTS = (400, 200, 100, 50, 25)
_ROOM = 1.25
_NEAR = 2e-4
_MOST_ON_TRIAL = 0.5


@dataclass(frozen=True)
class Contest:
    """A live router and a new one whose true gain is known exactly.

    Attributes
    ----------
    live, new : array of shape (population,)
        What each chooses.
    true_gain : float
        Mean utility of the new one less that of the live one, over the population.
    expected : array of shape (population, m)
        Expected utility, of the live router: the reward model of the gate.
    live_prompts : int
        How many prompts the live router was trained on.
    best : array of shape (population, m)
        Expected utility by the best reward model at hand: cross-fitted on every outcome of every prompt, which no log
        holds.
    """

    live: IntArray
    new: IntArray
    true_gain: float
    expected: FloatArray
    live_prompts: int
    best: FloatArray

    @property
    def disagreement(self) -> float:
        """Share of the prompts on which the two differ."""
        return float((self.live != self.new).mean())


def contests(
    population: Population, gains: Sequence[float], *, router: str, cost_weight: float, seed: int
) -> dict[float, Contest]:
    """Return a contest for each wanted gain.

    The live router was trained on random prompts, so few that there is something to gain. The new one decides like it
    but on some prompts, drawn at random from those where a donor decides otherwise, until the true gain is as near to
    the wanted one as it gets. For a gain the donor is the same router trained on every prompt; for a loss it is what
    the live router likes second best, or third, and so on until there is enough to lose.
    """
    generator = np.random.default_rng([seed, 21])
    n = len(population)
    rows, order = np.arange(n), generator.permutation(n)
    utility = population.utility(cost_weight)
    good = _estimates(population, rows, router=router).choices(cost_weight, reference=population.reference)
    for size in _LIVE_PROMPTS:
        live = _estimates(population, np.sort(order[:size]), router=router)
        first = live.choices(cost_weight, reference=population.reference)
        if (utility[rows, good] - utility[rows, first]).mean() >= _ROOM * max(gains):
            break
    expected = live.quality - cost_weight * live.cost / population.reference
    best = cross_fitted(population.X, utility, groups=population.table.texts, seed=seed)
    ranked = np.argsort(-expected, axis=1, kind="stable")
    found = {}
    for gain in gains:
        donor = good if gain > 0 else _worse(ranked, first, utility, gain)
        new = _mixed(first, donor, utility, gain, generator=generator)
        true = float((utility[rows, new] - utility[rows, first]).mean())
        found[gain] = Contest(first, new, true, expected, size, best)
    return found


def log_of(
    contest: Contest, design: Design, n: int, *, share: float, population: Population, generator: np.random.Generator
) -> Log:
    """Return a log of n requests drawn from the population, `share` of them explored at most."""
    drawn = generator.integers(0, len(population), n)
    chance, trial = _dealt(contest, design, share)
    return play_epsilon(contest.live, drawn, share=chance, population=population, trial=trial, generator=generator)


def requests_needed(
    contest: Contest,
    design: Design,
    *,
    share: float,
    population: Population,
    cost_weight: float,
    model: FloatArray,
    gate: Gate,
) -> int:
    """Return how many requests find the gate's gain with its power, computed from the whole table rather than a log.

    The variance of one request's doubly robust term is exact; the mean of many is taken to be normal. No unbiased
    estimate of a linear contrast has a smaller one with the same reward model, and the model that knows the mean
    reward of every prompt and model makes it the semiparametric bound (Dudik et al., arXiv 1103.4601).

    Parameters
    ----------
    model : array of shape (population, m)
        Reward model.
    gate : Gate
        Its `gain`, `confidence` and `power`.
    """
    everyone = np.arange(len(population))
    chance, trial = _dealt(contest, design, share)
    log = play_epsilon(
        contest.live, everyone, share=chance, population=population, trial=trial, generator=np.random.default_rng(0)
    )
    m = len(population.models)
    contrast = np.eye(m)[contest.new] - np.eye(m)[contest.live]
    utility = population.utility(cost_weight)
    residual = contrast * (utility - model)
    within = np.square(residual) / log.propensity
    spread = float((contrast * utility).sum(axis=1).var())
    variance = spread + float((within.sum(axis=1) - np.square(residual.sum(axis=1))).mean())
    normal = NormalDist()
    error = gate.gain / (normal.inv_cdf(gate.confidence) + normal.inv_cdf(gate.power))
    return math.ceil(variance / error**2)


def _dealt(contest: Contest, design: Design, share: float) -> tuple[float, Trial | None]:
    """Return the share that chance decides, and the new router on trial where the design has it."""
    if design == "explore":
        return share, None
    chance = share / 2
    part = min(_MOST_ON_TRIAL, (share - chance) / max(contest.disagreement, 1e-12))
    nothing = Estimated(*(np.empty((0, 0)),) * 3)
    return chance, Trial(UtilityPolicy(), nothing, contest.new, part, 0)


def trials(
    contest: Contest,
    design: Design,
    n: int,
    *,
    count: int,
    share: float,
    population: Population,
    cost_weight: float,
    confidence: float,
    seed: int,
) -> dict[str, Any]:
    """Return how often the gate promoted the new router, over `count` logs, and what it estimated.

    Returns
    -------
    dict
        ``promoted``, ``trials``, ``rate`` and its exact 95% interval ``low``, ``high`` (Clopper and Pearson 1934); the
        mean and standard deviation of the estimated gain, how often the true one lay above the gate's lower bound, and
        the mean share of explored requests; ``needed``, how many requests the whole table says would find the gate's
        gain, ``needed_best`` with the best reward model at hand, and ``needed_said``, the median of what the verdicts
        that did not promote said (None if there were none or no number would do).
    """
    m = len(population.models)
    gate = Gate(confidence=confidence)
    new, live = np.eye(m)[contest.new], np.eye(m)[contest.live]
    gains, lows, promoted, explored, effective, said = [], [], 0, [], [], []
    for number in range(count):
        generator = np.random.default_rng([seed, n, number])
        log = log_of(contest, design, n, share=share, population=population, generator=generator)
        decisions = LoggedDecisions(
            chosen=log.chosen,
            reward=log.quality - cost_weight * log.cost / population.reference,
            propensity=log.propensity[np.arange(n), log.chosen],
            propensities=log.propensity,
        )
        verdict = gate.compare(
            decisions, new[log.rows], live[log.rows], model=contest.expected[log.rows], methods=["dr"]
        )
        promoted += verdict.promote
        if verdict.needed is not None and verdict.needed.requests is not None:
            said.append(verdict.needed.requests)
        gains.append(verdict.gain)
        lows.append(verdict.low)
        explored.append(float(log.explored.mean()))
        effective.append(verdict.effective_rows)
    low, high = exact_interval(promoted, count)
    needed = {
        name: requests_needed(
            contest, design, share=share, population=population, cost_weight=cost_weight, model=model, gate=gate
        )
        for name, model in (("needed", contest.expected), ("needed_best", contest.best))
    }
    return {
        "design": design,
        "requests": n,
        "trials": count,
        "true_gain": contest.true_gain,
        "disagreement": contest.disagreement,
        "promoted": promoted,
        "rate": promoted / count,
        "low": low,
        "high": high,
        "mean_gain": float(np.mean(gains)),
        "std_gain": float(np.std(gains)),
        "true_above_low": float(np.mean(np.array(lows) < contest.true_gain)),
        "explored": float(np.mean(explored)),
        "effective_rows": float(np.mean(effective)),
        **needed,
        "needed_said": float(np.median(said)) if said else None,
    }


def exact_interval(successes: int, trials: int, *, level: float = 0.95) -> tuple[float, float]:
    """Return the exact binomial interval of a rate (Clopper and Pearson, Biometrika 26, 1934)."""
    from scipy.stats import beta

    tail = (1 - level) / 2
    low = 0.0 if successes == 0 else float(beta.ppf(tail, successes, trials - successes + 1))
    high = 1.0 if successes == trials else float(beta.ppf(1 - tail, successes + 1, trials - successes))
    return low, high


def _estimates(population: Population, rows: IntArray, *, router: str) -> Estimated:
    """Return what a router expects of the population that was trained on every outcome of some prompts."""
    fitted = FittedRouter.fit(population.table.select(rows), population.X[rows], spec=router, population=population)
    return fitted.estimate(population.X)


def _worse(ranked: IntArray, first: IntArray, utility: FloatArray, gain: float) -> IntArray:
    """Return the first column of the live router's ranking, from the second on, with enough to lose."""
    rows = np.arange(len(first))
    donor = first
    for place in range(1, ranked.shape[1]):
        donor = ranked[:, place]
        if (utility[rows, donor] - utility[rows, first]).mean() <= _ROOM * gain:
            break
    return donor


def _mixed(
    live: IntArray, donor: IntArray, utility: FloatArray, gain: float, *, generator: np.random.Generator
) -> IntArray:
    """Return the live choices with the donor's in their place on random prompts, until the gain is the wanted one."""
    rows = generator.permutation(np.flatnonzero(live != donor))
    reached = np.cumsum(utility[rows, donor[rows]] - utility[rows, live[rows]]) / len(live)
    error = np.abs(reached - gain)
    near = np.flatnonzero(error <= _NEAR)
    count = 0 if not len(rows) else int(near[0] if near.size else error.argmin()) + 1
    mixed = live.copy()
    mixed[rows[:count]] = donor[rows[:count]]
    return mixed
