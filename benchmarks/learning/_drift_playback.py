"""Playback of traffic in which a model changes halfway: what online adaptation saves, prompt by prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from benchmarks.learning._population import Population
from llmrouter.encoders import Encoder
from llmrouter.engine import RoutingEngine, TrainedRouters
from llmrouter.index import create_index
from llmrouter.learning import DriftMonitor, DriftParameters, OnlineLearner, OnlineParameters
from llmrouter.outcomes import Event
from llmrouter.policy import UtilityPolicy
from llmrouter.registry import parse_spec
from llmrouter.routers import fit_pair
from llmrouter.types import FloatArray, IntArray, ModelCard, Outcome, Price

Kind = Literal["worse", "better", "none"]
_DAY_S = 86_400.0


@dataclass(frozen=True)
class Scenario:
    """What happens.

    Attributes
    ----------
    kind : {"worse", "better", "none"}
        The most used model gets worse in a region, a little used one gets better there, or nothing changes.
    before, after : int
        Requests up to the change, and from there on.
    each : int
        Requests between two adaptations, which are also the points of the curves.
    per_day : float
        Requests a day.
    region : float
        Share of the prompts that the change affects: those nearest to a prompt drawn at random.
    factor : float
        Quality is multiplied with it (``worse``), or what it lacks to 1 is (``better``).
    cost_weight : float
        Of the utility that decides.
    explore : float
        Share of the requests that another model, drawn at random, answers.
    """

    kind: Kind = "worse"
    before: int = 400
    after: int = 900
    each: int = 50
    per_day: float = 200.0
    region: float = 0.4
    factor: float = 0.3
    cost_weight: float = 0.3
    explore: float = 0.05


@dataclass(frozen=True)
class Course:
    """What came of it, at p points in time.

    Attributes
    ----------
    requests : array of shape (p,)
        Requests so far, 0 at the change.
    frozen, adapted, informed : array of shape (p,)
        Mean utility on prompts that were never in the traffic: of the router as trained, of the one that adapts, and
        of one that knows the change from the moment it happens.
    alarms : list of (int, str, str)
        Requests so far, model, side.
    changed : str
        The model that changed, "" for none.
    """

    requests: IntArray
    frozen: FloatArray
    adapted: FloatArray
    informed: FloatArray
    alarms: list[tuple[int, str, str]]
    changed: str


def base_engine(population: Population, rows: IntArray, spec: str, encoder: Encoder) -> RoutingEngine:
    """Return an engine over a router that was fitted on some of the population's prompts."""
    name, parameters = parse_spec(spec)
    table = population.table.select(rows)
    pair = fit_pair(table, population.X[rows], name=name, parameters=parameters)
    index = create_index("exact", population.X.shape[1], rows=len(rows))
    index.add(np.arange(len(rows), dtype=np.int64), population.X[rows])
    trained = TrainedRouters(
        models=population.models,
        quality=pair.quality,
        cost=pair.cost,
        cost_unit=pair.cost_unit,
        reference_cost_usd=population.reference,
        router_name=name,
        cost_router_name=pair.cost_name,
        best_single=population.models[population.best_single],
        mean_quality=dict(zip(population.models, table.quality.mean(axis=0).tolist(), strict=True)),
        mean_cost_usd=dict(zip(population.models, population.mean_cost.tolist(), strict=True)),
        index=index,
    )
    cards = [ModelCard(model, Price(1.0, 1.0)) for model in population.models]
    return RoutingEngine(cards, encoder, trained=trained, policy=UtilityPolicy())


class Playback:
    """One base router under one scenario, with one seed; parameters are compared on the same traffic.

    Parameters
    ----------
    population : Population
        `before + after` of its prompts are the traffic, each once (asked again and again, their chance answers would
        pass for what a region is like), the others are the router's training.
    encoder : Encoder
        Of its embeddings.
    spec : str
        Registry spec of the router.
    scenario : Scenario
        What happens.
    seed : int
        Of halves, draws, region.
    like : Playback, optional
        Of the same router, numbers of requests and seed, under another kind of change: its router is fitted already.
    """

    def __init__(
        self,
        population: Population,
        encoder: Encoder,
        *,
        spec: str,
        scenario: Scenario,
        seed: int,
        like: Playback | None = None,
    ) -> None:
        self.population, self.scenario = population, scenario
        rng = np.random.default_rng([seed, 5])
        shuffled = rng.permutation(len(population))
        self._drawn = live = shuffled[: scenario.before + scenario.after]
        history = np.sort(shuffled[len(live) :])
        self.engine: RoutingEngine = base_engine(population, history, spec, encoder) if like is None else like.engine
        self._chance = rng.random(len(self._drawn))
        self._other = rng.integers(1, len(population.models), len(self._drawn))
        X, scored = population.X, population.scored_embeddings
        centre = X[rng.choice(live)]
        reach = np.quantile(X @ centre, 1.0 - scenario.region)
        self._affected, self._scored_affected = X @ centre >= reach, scored @ centre >= reach
        self._expected, self._cost = estimates(self.engine, scored)
        self.column = self._who_changes()

    def alarms_as_trained(self, drift: DriftParameters | None = None) -> list[tuple[int, str, str]]:
        """Play the traffic without adaptation; return the alarms as in `Course`."""
        monitor, alarms = DriftMonitor(drift), []
        for start in range(0, len(self._drawn), self.scenario.each):
            part = np.arange(start, min(start + self.scenario.each, len(self._drawn)))
            for event in self._events(self.engine, part):
                number = int(event.cursor) - self.scenario.before
                alarms += [(number, model, side) for model, side in monitor.watch([event])]
        return alarms

    def run(self, parameters: OnlineParameters, drift: DriftParameters | None = None) -> Course:
        """Play the traffic once."""
        scenario = self.scenario
        learner, monitor = OnlineLearner(self.engine, parameters=parameters), DriftMonitor(drift)
        engine = self.engine
        points: list[tuple[float, ...]] = []
        alarms: list[tuple[int, str, str]] = []
        for start in range(0, len(self._drawn), scenario.each):
            part = np.arange(start, min(start + scenario.each, len(self._drawn)))
            events = self._events(engine, part)
            for event in events:
                number = int(event.cursor) - scenario.before
                alarms += [(number, model, side) for model, side in monitor.watch([event])]
            learner.learn(events)
            engine = learner.engine()
            end = int(part[-1]) + 1 - scenario.before
            points.append((end, *self._scores(engine, changed=end > 0)))
        requests, frozen, adapted, informed = np.array(points).T
        changed = "" if scenario.kind == "none" else self.population.models[self.column]
        return Course(requests.astype(np.int64), frozen, adapted, informed, alarms, changed)

    def _events(self, engine: RoutingEngine, part: IntArray) -> list[Event]:
        population, scenario = self.population, self.scenario
        rows = self._drawn[part]
        expected, cost = estimates(engine, population.X[rows])
        chosen = self._choices(expected, cost)
        explored = self._chance[part] < scenario.explore
        chosen = np.where(explored, (chosen + self._other[part]) % len(population.models), chosen)
        true = population.table.quality[rows, chosen]
        hit = self._affected[rows] & (chosen == self.column) & (part >= scenario.before)
        true = np.where(hit, self._changed(true), true)
        return [
            Event(
                f"{number:020d}",
                Outcome(
                    request_id=f"r{number}",
                    time=number / scenario.per_day * _DAY_S,
                    model=population.models[column],
                    candidates={population.models[column]: {"quality": float(expected[place, column])}},
                    embedding=population.X[row],
                    quality=float(quality),
                ),
            )
            for place, (number, row, column, quality) in enumerate(
                zip(part.tolist(), rows, chosen.tolist(), true, strict=True)
            )
        ]

    def _scores(self, engine: RoutingEngine, *, changed: bool) -> tuple[float, float, float]:
        """Return the utility of the frozen, the adapted and the informed router on the scored prompts."""
        population = self.population
        true, known = population.scored.quality.copy(), self._expected.copy()
        if changed:
            for values in (true, known):
                values[self._scored_affected, self.column] = self._changed(values[self._scored_affected, self.column])
        utility = true - self.scenario.cost_weight * population.scored_cost / population.reference
        rows = np.arange(len(utility))
        adapted = estimates(engine, population.scored_embeddings)[0]
        frozen, learned, informed = (
            float(utility[rows, self._choices(expected, self._cost)].mean())
            for expected in (self._expected, adapted, known)
        )
        return frozen, learned, informed

    def _changed(self, quality: FloatArray) -> FloatArray:
        if self.scenario.kind == "none":
            return quality
        factor = self.scenario.factor
        return quality * factor if self.scenario.kind == "worse" else 1.0 - (1.0 - quality) * factor

    def _choices(self, quality: FloatArray, cost: FloatArray) -> IntArray:
        utility = quality - self.scenario.cost_weight * cost / self.population.reference
        return np.asarray(np.round(utility, 12).argmax(axis=1))

    def _who_changes(self) -> int:
        """Return the model that is used most where it gets worse, or one that a change would make the best."""
        affected = self._choices(self._expected, self._cost)[self._scored_affected]
        used = np.bincount(affected, minlength=len(self.population.models))
        if self.scenario.kind != "better":
            return int(used.argmax())
        better = self._expected.copy()
        gains = []
        for column in range(better.shape[1]):
            quality = self._expected[self._scored_affected].copy()
            quality[:, column] = self._changed(quality[:, column])
            picked = self._choices(quality, self._cost[self._scored_affected]) == column
            gains.append(picked.mean() - used[column] / max(len(affected), 1))
        return int(np.argmax(gains))


def estimates(engine: RoutingEngine, X: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return expected quality and cost of embeddings X (n, d), each (n, m)."""
    found = engine.estimate_embedded(X, [0] * len(X))
    return np.stack([entry.quality for entry in found]), np.stack([entry.cost_usd for entry in found])
