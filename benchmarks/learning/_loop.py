"""The loop over played-back traffic: log, train, try, judge, promote; and what it is compared with."""

from __future__ import annotations

import itertools
import time
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from benchmarks.learning._playback import Log, Trial, log_as_table, play, play_epsilon, serve, serve_at_random
from benchmarks.learning._population import Estimated, FittedRouter, Population, best_single_estimates
from llmrouter.evaluation import LoggedDecisions
from llmrouter.exceptions import ConfigError
from llmrouter.learning import Gate, GateVerdict, Missing
from llmrouter.policy import ExplorePolicy, UtilityPolicy
from llmrouter.types import FloatArray, IntArray

Strategy = Literal["loop", "no-trial", "no-gate", "never", "always", "full"]
STRATEGIES: dict[Strategy, str] = {
    "loop": "explore, train, put the new router on trial, promote through the gate",
    "no-trial": "the same without the trial: exploration alone must show what the new router is worth",
    "no-gate": "explore, train, and serve whatever was trained",
    "never": "never explore: the log holds one model, and the gate has nothing to promote on",
    "always": "always explore: every request goes to a random model, and the router trained on that is scored",
    "full": "full information: the router trained on every outcome of every prompt answers from the first request",
}
WINDOWS = 50
_MOST_ON_TRIAL = 0.5


@dataclass(frozen=True)
class Settings:
    """How a loop is run.

    Attributes
    ----------
    router : str
        Registry spec of the router that is trained.
    cost_weight : float
        Of the live policy, with which requests are decided and routers judged.
    method : str
        Of `ExplorePolicy`.
    share : float
        Of the requests that may be spent on exploration, those of a router on trial included.
    early : tuple of float
        How many times that share the first parts of the requests have; the later ones have what is left of the mean.
    requests, trainings : int
        Draws in all; how many times a router is trained, after equal parts of the requests. One more part follows the
        last training, in which the router trained last can be judged.
    trial_part : float
        Part of `share` that a router on trial gets, while there is one.
    hold : int
        For how many parts of the requests a router stays on trial at most.
    confidence : float
        Of the gate.
    missing : str
        What routers learn of the gaps in the log, see `llmrouter.learning.complete_arms`.
    """

    router: str
    cost_weight: float
    method: Literal["epsilon", "thompson", "uncertainty"] = "epsilon"
    share: float = 0.048
    early: tuple[float, ...] = ()
    requests: int = 50_000
    trainings: int = 10
    trial_part: float = 0.5
    hold: int = 2
    confidence: float = 0.95
    missing: Missing = "none"

    def __post_init__(self) -> None:
        parts = self.trainings + 1
        if len(self.early) >= parts or sum(self.early) > parts or any(factor < 0 for factor in self.early):
            raise ConfigError(f"early must have fewer than {parts} factors >= 0 of sum <= {parts}; got {self.early}")

    def share_of(self, part: int) -> float:
        """Return what a part of the requests, counted from 0, may spend."""
        if part < len(self.early):
            return self.share * self.early[part]
        parts = self.trainings + 1
        return self.share * (parts - sum(self.early)) / (parts - len(self.early))


@dataclass(frozen=True)
class Candidate:
    """A trained router: what it expects of traffic and of the scored prompts, what it chooses, and its AIQ."""

    estimates: Estimated
    choices: IntArray
    aiq: float


def full_information(population: Population, settings: Settings) -> Candidate:
    """Return the same router trained on every outcome of every prompt of the traffic."""
    router = FittedRouter.fit(population.table, population.X, spec=settings.router, population=population)
    return _candidate(
        router.estimate(population.X), router.estimate(population.scored_embeddings), population, settings
    )


def run(
    population: Population, strategy: Strategy, settings: Settings, *, seed: int, full: Candidate
) -> dict[str, Any]:
    """Play one strategy and return its figures as JSON values.

    Parameters
    ----------
    population : Population
        What traffic is drawn from.
    strategy : str
        One of `STRATEGIES`.
    settings : Settings
        How.
    seed : int
        Of draws and picks; the same requests come in the same order for every strategy.
    full : Candidate
        `full_information` of the same router.

    Returns
    -------
    dict
        ``stages``: what every training led to; ``regret``, ``quality``, ``cost``, ``explored``: by window of requests,
        regret cumulative, in units of quality; ``aiq`` of the router that is live at the end and ``share_closed`` of
        the distance from the Zero router to full-information training; ``wrong_promotions``: promoted although truly
        worse on the traffic at the weight in force.
    """
    started = time.perf_counter()
    drawn = np.random.default_rng([seed, 1]).integers(0, len(population), settings.requests)
    if strategy in ("never", "always", "full"):
        log, stages = _plain(population, strategy, settings, drawn, full, seed=seed)
    else:
        log, stages = _loop(population, strategy, settings, drawn, seed=seed)
    zero = population.zero_aiq
    aiq = stages[-1]["live_aiq"]
    return {
        "strategy": strategy,
        "seed": seed,
        "settings": asdict(settings),
        "zero_aiq": zero,
        "full_aiq": full.aiq,
        "best_single_aiq": _start(population, settings).aiq,
        "aiq": aiq,
        "share_closed": (aiq - zero) / (full.aiq - zero),
        "candidate_share_closed": (stages[-1]["candidate_aiq"] - zero) / (full.aiq - zero),
        "explored": float(log.explored.mean()),
        "promotions": sum(stage["promoted"] for stage in stages),
        "wrong_promotions": sum(stage["promoted"] and (stage["true_gain"] or 0.0) < 0 for stage in stages),
        "stages": stages,
        **_windows(log, population, settings, full),
        "seconds": time.perf_counter() - started,
    }


def _plain(
    population: Population, strategy: str, settings: Settings, drawn: IntArray, full: Candidate, *, seed: int
) -> tuple[Log, list[dict[str, Any]]]:
    """Play what needs no gate: the best single model, chance, or the full-information router."""
    if strategy == "always":
        log = serve_at_random(drawn, population=population, generator=np.random.default_rng([seed, 4]))
    else:
        served = full if strategy == "full" else _start(population, settings)
        log = serve(served.choices, drawn, population=population)
    stages = []
    for number, end in enumerate(_edges(settings)[1:].tolist()):
        if strategy == "always" and number < settings.trainings:
            served = _trained(log.where(np.arange(len(log)) < end), population, settings)
        stages.append(_stage(number, end, live=served, candidate=served))
    return log, stages


def _loop(
    population: Population, strategy: str, settings: Settings, drawn: IntArray, *, seed: int
) -> tuple[Log, list[dict[str, Any]]]:
    live, candidate = _start(population, settings), None
    judged: Candidate | None = None
    judged_from = 0
    logs: list[Log] = []
    stages: list[dict[str, Any]] = []
    edges = _edges(settings).tolist()
    for number, (begin, end) in enumerate(itertools.pairwise(edges)):
        if judged is None and candidate is not None and strategy != "no-gate":
            judged, judged_from = candidate, number
        trial, chance = None, settings.share_of(number)
        if judged is not None and strategy == "loop":
            trial, chance = _trial(judged, live, Log.joined(logs), population, settings, share=chance, seed=seed)
        logs.append(
            _played(
                population, live, trial, drawn[begin:end], settings, share=chance, stage=number, first=begin, seed=seed
            )
        )
        log = Log.joined(logs)
        verdict, gain = None, None
        promoted = False
        if judged is not None:
            verdict = judge(log.where(log.stage >= judged_from), judged, live, population, settings)
            gain = true_gain(judged.choices, live.choices, population, settings.cost_weight)
            promoted = verdict.promote
            if promoted:
                live = judged
            if promoted or verdict.high < 0 or number - judged_from + 1 >= settings.hold:
                judged = None
        if number < settings.trainings:
            candidate = _trained(log, population, settings)
            if strategy == "no-gate":
                gain = true_gain(candidate.choices, live.choices, population, settings.cost_weight)
                live, promoted = candidate, True
        stages.append(
            _stage(number, end, live=live, candidate=candidate or live)
            | {
                "promoted": promoted,
                "true_gain": gain,
                "on_trial": 0.0 if trial is None else trial.share,
                "explored": float(log.explored.mean()),
                **({} if verdict is None else _of_verdict(verdict)),
            }
        )
    return log, stages


def _played(
    population: Population,
    live: Candidate,
    trial: Trial | None,
    drawn: IntArray,
    settings: Settings,
    *,
    share: float,
    stage: int,
    first: int,
    seed: int,
) -> Log:
    if settings.method == "epsilon":
        picks = np.random.default_rng([seed, 3, stage])
        return play_epsilon(
            live.choices, drawn, share=share, population=population, trial=trial, generator=picks, stage=stage
        )
    policy = ExplorePolicy(_policy(population, settings), method=settings.method, share=share, seed=seed)
    return play(policy, live.estimates, drawn, population=population, trial=trial, stage=stage, first=first)


def judge(log: Log, new: Candidate, live: Candidate, population: Population, settings: Settings) -> GateVerdict:
    """Let the project's gate compare two routers on requests that were logged after both were trained.

    What the new router expects is the reward model: it was fitted on earlier requests only, so that the randomness of
    the choices that are judged is not in it.
    """
    rate = settings.cost_weight / population.reference
    decisions = LoggedDecisions(
        chosen=log.chosen,
        reward=log.quality - rate * log.cost,
        propensity=log.propensity[np.arange(len(log)), log.chosen],
        propensities=log.propensity,
    )
    expected = (new.estimates.quality - rate * new.estimates.cost)[log.rows]
    m = len(population.models)
    return Gate(confidence=settings.confidence).compare(
        decisions, np.eye(m)[new.choices[log.rows]], np.eye(m)[live.choices[log.rows]], model=expected
    )


def true_gain(new: IntArray, live: IntArray, population: Population, cost_weight: float) -> float:
    """Return the mean utility of one set of choices less that of another over the population: nobody is told."""
    utility, rows = population.utility(cost_weight), np.arange(len(population))
    return float((utility[rows, new] - utility[rows, live]).mean())


def _trial(
    judged: Candidate,
    live: Candidate,
    log: Log,
    population: Population,
    settings: Settings,
    *,
    share: float,
    seed: int,
) -> tuple[Trial | None, float]:
    """Return the trial, and what is left of the share for chance.

    Where both routers choose alike a trial explores nothing, so that its share of the requests may be as much larger
    than its part of the exploration as they are often alike: shadow mode counts that before the trial begins.
    """
    differ = float((judged.choices != live.choices)[log.rows].mean())
    if differ == 0:
        return None, share
    part = settings.trial_part * share
    tried = min(_MOST_ON_TRIAL, part / differ)
    return Trial(_policy(population, settings), judged.estimates, judged.choices, tried, seed), share - part


def _policy(population: Population, settings: Settings) -> UtilityPolicy:
    return UtilityPolicy(settings.cost_weight, guard=None, reference_cost_usd=population.reference)


def _start(population: Population, settings: Settings) -> Candidate:
    n, t = len(population), len(population.scored)
    return _candidate(best_single_estimates(population, n), best_single_estimates(population, t), population, settings)


def _trained(log: Log, population: Population, settings: Settings) -> Candidate:
    table, X, _ = log_as_table(log, population)
    router = FittedRouter.fit(table, X, spec=settings.router, population=population, missing=settings.missing)
    return _candidate(
        router.estimate(population.X), router.estimate(population.scored_embeddings), population, settings
    )


def _candidate(traffic: Estimated, scored: Estimated, population: Population, settings: Settings) -> Candidate:
    choices = traffic.choices(settings.cost_weight, reference=population.reference)
    return Candidate(traffic, choices, population.aiq(scored))


def _edges(settings: Settings) -> IntArray:
    return np.linspace(0, settings.requests, settings.trainings + 2).astype(np.int64)


def _stage(number: int, end: int, *, live: Candidate, candidate: Candidate) -> dict[str, Any]:
    return {
        "stage": number,
        "requests": end,
        "live_aiq": live.aiq,
        "candidate_aiq": candidate.aiq,
        "promoted": False,
        "true_gain": None,
    }


def _of_verdict(verdict: GateVerdict) -> dict[str, Any]:
    return {
        "gain": verdict.gain,
        "low": verdict.low,
        "high": verdict.high,
        "disagreement": verdict.disagreement,
        "effective_rows": verdict.effective_rows,
        "judged_rows": verdict.rows,
    }


def _windows(log: Log, population: Population, settings: Settings, full: Candidate) -> dict[str, Any]:
    """Return quality, cost, explored share and cumulative regret by window of requests."""
    utility = population.utility(settings.cost_weight)
    obtained = log.quality - settings.cost_weight * log.cost / population.reference
    against_full = np.cumsum(utility[log.rows, full.choices[log.rows]] - obtained)
    against_oracle = np.cumsum(utility[log.rows].max(axis=1) - obtained)
    ends = np.linspace(0, len(log), min(WINDOWS, len(log)) + 1).astype(np.int64)[1:]

    def means(values: FloatArray) -> list[float]:
        return [float(part.mean()) for part in np.split(values, ends[:-1])]

    return {
        "window_ends": ends.tolist(),
        "regret": against_full[ends - 1].tolist(),
        "regret_oracle": against_oracle[ends - 1].tolist(),
        "quality": means(log.quality),
        "cost": means(log.cost),
        "utility": means(obtained),
        "explored_by_window": means(log.explored.astype(np.float64)),
    }
