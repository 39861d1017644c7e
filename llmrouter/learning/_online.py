"""Online adaptation: judged outcomes act within seconds, between trainings, and alike in every replica."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from llmrouter._completion import PRIOR_STD
from llmrouter.engine import RoutingEngine
from llmrouter.exceptions import ConfigError, DataError, LLMRouterError
from llmrouter.learning._online_features import LocalFeatures, landmarks_of
from llmrouter.learning._online_partial import learned_on, learns_on
from llmrouter.learning._online_residuals import ResidualPrior, fit_residuals
from llmrouter.learning._online_window import Row, Window, served, vectors_of, without_text
from llmrouter.outcomes import Event
from llmrouter.types import FloatArray, Outcome, is_missing

logger = logging.getLogger(__name__)

Trust = Callable[[Sequence[Outcome], FloatArray], FloatArray]
"""Outcomes and their embeddings (n, d) -> the weight of each, (n,) >= 0; a function of these alone."""

Method = Literal["residuals", "partial_fit"]

_DAY_S = 86_400.0
# An outcome that counts less than this is past: after ten half-lives.
_LEAST_WEIGHT = 1e-3


@dataclass(frozen=True)
class OnlineParameters:
    """How an `OnlineLearner` learns.

    Attributes
    ----------
    method : {"residuals", "partial_fit"}
        A bounded correction on top of any router, or the router's own `partial_fit` where it has one (the correction
        where it has none). `max_influence` holds for the correction only.
    half_life_days : float or None
        After that many days an outcome counts half; None never forgets.
    max_influence : float
        Largest change of an expected quality, in (0, 1].
    window : int
        Outcomes that are learned from: the newest.
    max_weight : float
        A judgement counts no more than this, whatever weight it came with.
    landmarks : int
        Places in embedding space at which the correction may differ; 0 has one for all prompts.
    scale : float
        See `LocalFeatures`.
    prior : ResidualPrior
        How much change is presumed.
    """

    method: Method = "residuals"
    half_life_days: float | None = 7.0
    max_influence: float = 0.3
    window: int = 5000
    max_weight: float = 1.0
    landmarks: int = 64
    scale: float = 0.5
    prior: ResidualPrior = field(default_factory=ResidualPrior)

    def __post_init__(self) -> None:
        if self.method not in ("residuals", "partial_fit"):
            raise ConfigError(f"method must be 'residuals' or 'partial_fit'; got {self.method!r}")
        if not 0.0 < self.max_influence <= 1.0:
            raise ConfigError(f"max_influence must lie in (0, 1]; got {self.max_influence!r}")
        for name in ("half_life_days", "max_weight", "scale"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} must be above 0; got {value!r}")
        if self.window < 1 or self.landmarks < 0:
            raise ConfigError(f"window must be >= 1 and landmarks >= 0; got {self.window!r} and {self.landmarks!r}")


@dataclass(frozen=True)
class OnlineState:
    """Where an `OnlineLearner` stands.

    Attributes
    ----------
    cursor : str
        Of the last event taken in.
    events : int
        Taken in since the artifact's training.
    learned : int
        Of these, the ones that were learned from.
    passed_over : mapping of str to int
        The others, by reason: ``not_judged``, ``cached``, ``trained_on``, ``unknown_model``, ``no_text``.
    rows : mapping of str to int
        Outcomes in the window, by model.
    moved : mapping of str to float
        By how much the expected quality of each model was changed, on average over its outcomes in the window; empty
        with ``partial_fit``.
    method : str
        In effect.
    """

    cursor: str
    events: int
    learned: int
    passed_over: Mapping[str, int]
    rows: Mapping[str, int]
    moved: Mapping[str, float]
    method: str


class OnlineLearner:
    """Adapts an engine to judged outcomes, in the order of the log.

    What it has learned is a function of the artifact and of the events up to its cursor: replicas that read the same
    log in other portions, or start again from a snapshot, come to the same engine bit by bit (on the same kind of
    processor; on others up to rounding, of which an engine's estimates are cleared). Not thread-safe: one thread
    learns, and hands over engines, which are immutable.

    Parameters
    ----------
    engine : RoutingEngine
        The artifact's, without a correction. Outcomes that its training saw (``training["log"]["until"]``, seconds
        since the epoch) are passed over, so that none counts twice.
    parameters : OnlineParameters
        How to learn.
    trust : callable, optional
        Weighs the outcomes of the window by who judged them, in place of the weights that they came with.
    """

    def __init__(
        self, engine: RoutingEngine, *, parameters: OnlineParameters | None = None, trust: Trust | None = None
    ) -> None:
        self.base = engine.adapted()
        self.parameters = OnlineParameters() if parameters is None else parameters
        self.cursor = ""
        self.window = Window(self.parameters.window)
        self.events = self.learned = 0
        self.passed_over: Counter[str] = Counter()
        self.until = _trained_until(engine.trained.training)
        self._trust = trust
        self._names = tuple(card.name for card in engine.cards)
        self._columns = {name: column for column, name in enumerate(self._names)}
        self._priors = tuple(self._prior_of(name) for name in self._names)
        landmarks = landmarks_of(engine.trained, self.parameters.landmarks, dimension=self._dimension())
        self.features = LocalFeatures(landmarks, scale=self.parameters.scale)
        self._engine: RoutingEngine | None = None
        self._moved: dict[str, float] = {}

    @property
    def key(self) -> str:
        """A name of everything but the log that the learner's engine depends on."""
        parts = {
            "artifact": self.base.artifact_id,
            "encoder": self.base.encoder.fingerprint,
            "pool": [[card.name, card.prior_quality] for card in self.base.cards],
            "parameters": dataclasses.asdict(self.parameters),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def method(self) -> str:
        """The method in effect: ``residuals`` where the router cannot learn on."""
        wanted = self.parameters.method
        return wanted if wanted == "residuals" or learns_on(self.base.trained) else "residuals"

    def learn(self, events: Sequence[Event]) -> int:
        """Take in events that follow `cursor`; return how many of them say something.

        Raises
        ------
        DataError
            If an event does not come after the last one; nothing of it is taken in then.
        """
        before = self.learned
        for event in events:
            if event.cursor <= self.cursor:
                raise DataError(f"event {event.cursor!r} does not follow {self.cursor!r}: events must come in order")
            reason = self._unusable(event.outcome)
            if reason:
                self.passed_over[reason] += 1
            else:
                self.window.put(self._row(event.outcome))
                self.learned += 1
                self._engine = None
            self.cursor = event.cursor
            self.events += 1
        return self.learned - before

    def forget(self) -> None:
        """Begin again before the first event."""
        self.window = Window(self.parameters.window)
        self.cursor, self.events, self.learned = "", 0, 0
        self.passed_over = Counter()
        self._engine = None

    def take_over(self, other: OnlineLearner) -> bool:
        """Go on where another learner stands, if it learns the same way for the same artifact; return whether."""
        if other.key != self.key:
            return False
        self.forget()
        for row in other.window:
            self.window.put(dataclasses.replace(row))
        self.cursor, self.events, self.learned = other.cursor, other.events, other.learned
        self.passed_over = Counter(other.passed_over)
        return True

    def encode(self, most: int | None = None) -> int:
        """Encode prompts that wait for it, `most` at once; return how many still wait. `engine` encodes the rest."""
        waiting = [row for row in self.window if not row.complete]
        for row in waiting[:most]:
            self._complete(row)
        return 0 if most is None else max(len(waiting) - most, 0)

    def engine(self) -> RoutingEngine:
        """Return the engine with everything learned so far; the same one as long as nothing was added."""
        if self._engine is None:
            self.encode()
            self._engine = self._adapted()
        return self._engine

    def state(self) -> OnlineState:
        """Return where it stands."""
        rows = Counter(row.model for row in self.window)
        return OnlineState(
            cursor=self.cursor,
            events=self.events,
            learned=self.learned,
            passed_over=dict(self.passed_over),
            rows=dict(rows),
            moved=dict(self._moved),
            method=self.method,
        )

    def _unusable(self, outcome: Outcome) -> str:
        if is_missing(outcome.quality):
            return "not_judged"
        if outcome.cache:
            return "cached"
        if outcome.time <= self.until:
            return "trained_on"
        if served(outcome) not in self._columns:
            return "unknown_model"
        return "" if outcome.prompt or self._stored(outcome) is not None else "no_text"

    def _row(self, outcome: Outcome) -> Row:
        known = self.window.get(outcome.request_id)
        if known is None or not known.complete or known.model != served(outcome):
            return Row(outcome)
        return dataclasses.replace(known, outcome=without_text(outcome))

    def _complete(self, row: Row) -> None:
        # One prompt at a time: the last bits of a matrix product depend on how many rows it has.
        row.vector = self._embedded(row.outcome)
        if row.vector is not None:
            (estimates,) = self.base.estimate_embedded(row.vector[None], [0])
            row.expected = float(estimates.quality[self._columns[row.model]])
            row.features = self.features.of(row.vector[None])[0]
        row.outcome = without_text(row.outcome)
        row.complete = True

    def _stored(self, outcome: Outcome) -> FloatArray | None:
        if outcome.embedding is None:
            return None
        vector = np.asarray(outcome.embedding, dtype=np.float32)
        return vector if vector.shape == (self._dimension(),) and np.isfinite(vector).all() else None

    def _embedded(self, outcome: Outcome) -> FloatArray | None:
        vector = self._stored(outcome)
        if vector is not None or not outcome.prompt:
            return vector
        try:
            return np.asarray(self.base.encoder.encode([outcome.prompt])[0], dtype=np.float32)
        except LLMRouterError as error:
            logger.debug("the prompt of %s cannot be encoded: %s", outcome.request_id, error)
            return None

    def _adapted(self) -> RoutingEngine:
        self._moved = {}
        rows, weight = self._weighted()
        if not rows:
            return self.base
        if self.method == "partial_fit":
            known = np.array([row.model in self.base.trained.models for row in rows])
            if not known.any():
                return self.base
            chosen = [row for row, keep in zip(rows, known, strict=True) if keep]
            try:
                return self.base.adapted(trained=learned_on(self.base.trained, chosen, weight[known]))
            except DataError as error:
                logger.warning("the router does not learn on, a correction is put on top of it: %s", error)
        phi = np.stack([row.features for row in rows if row.features is not None])
        column = np.array([self._columns[row.model] for row in rows])
        correction = fit_residuals(
            self.features,
            phi,
            column,
            np.array([float(row.outcome.quality or 0.0) - row.expected for row in rows]),
            weight,
            priors=self._priors,
            bound=self.parameters.max_influence,
        )
        for model in np.unique(column):
            self._moved[self._names[model]] = round(float(correction.change(phi[column == model])[:, model].mean()), 6)
        return self.base.adapted(correction=correction)

    def _weighted(self) -> tuple[list[Row], FloatArray]:
        """Return the rows that count, in order, and how much."""
        rows = [row for row in self.window if row.vector is not None]
        if not rows:
            return rows, np.empty(0)
        if self._trust is None:
            weight = np.array([row.weight for row in rows])
        else:
            weight = self._trust([row.outcome for row in rows], vectors_of(rows))
        weight = np.minimum(weight, self.parameters.max_weight)
        half_life = self.parameters.half_life_days
        if half_life is not None:
            times = np.array([row.outcome.time for row in rows])
            weight = weight * 0.5 ** ((times.max() - times) / (half_life * _DAY_S))
        kept = weight > _LEAST_WEIGHT
        return [row for row, keep in zip(rows, kept, strict=True) if keep], weight[kept]

    def _dimension(self) -> int:
        return int(self.base.encoder.dimension)

    def _prior_of(self, name: str) -> ResidualPrior:
        prior = self.parameters.prior
        if name in self.base.trained.models:
            return prior
        # Nothing but a guess is known of it.
        return dataclasses.replace(prior, bias_std=max(prior.bias_std, PRIOR_STD))


def _trained_until(training: Mapping[str, Any]) -> float:
    log = training.get("log")
    until = log.get("until") if isinstance(log, Mapping) else None
    return float(until) if isinstance(until, int | float) else -np.inf
