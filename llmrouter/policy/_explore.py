"""Exploration with known propensities around any policy."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np

from llmrouter.exceptions import ConfigError
from llmrouter.policy._base import BasePolicy
from llmrouter.policy._chance import uniform_of
from llmrouter.policy._checks import require, require_count
from llmrouter.policy._explore_budget import DailyLedger, Ledger, SharePacer
from llmrouter.policy._ranking import Appraisal, View, flat_scores, to_front
from llmrouter.policy._wrapping import WrappingPolicy
from llmrouter.types import Decision, FloatArray

Method = Literal["epsilon", "thompson", "uncertainty"]

_PURPOSE = "explore"
_LARGEST_SEED = 2**32 - 1
_DRAWS = 256
_SMOOTHING = 0.5
_REMEMBERED_ORDERS = 256
# The base's choice keeps at least half of every request, so that weights of importance stay small for it.
_LARGEST_PROBABILITY = 0.5
# What a request is worth before any was seen: in Thompson's case a probability, in the other an expected loss.
_USUAL = {"epsilon": 1.0, "thompson": 0.1, "uncertainty": 0.01}


@dataclass
class _Drawn:
    """What the decision in hand came to: counted once it is recorded."""

    value: float = 0.0
    probability: float = 0.0
    extra_usd: float = 0.0
    explored: bool = False


@dataclass
class _State:
    """What is counted; shared by a policy and what `bind` returns."""

    pacer: SharePacer
    ledger: Ledger
    lock: threading.RLock = field(default_factory=threading.RLock)
    unnamed: int = 0
    explored: int = 0
    seen: int = 0
    extra_usd: float = 0.0
    drawn: _Drawn | None = None


class ExplorePolicy(WrappingPolicy):
    """Let chance put another model first in a share of the requests, with the exact probability of every model.

    The base decides; then model i takes its place with probability ``e_i``. The reported propensity of i is
    ``(1 - sum(e)) * base_i + e_i``, where ``base_i`` is the base's own probability, averaged over the base's choices
    where that is random. It is how the model was drawn, not an estimate of it.

    - ``epsilon``: ``e_i = share / k`` for each of the k others. The known baseline.
    - ``thompson``: ``e_i`` is the probability that i is the best, its score being normal around its value with the
      estimate's standard error, times one factor of at most 1. The probability is the share of 256 fixed draws in pairs
      of opposite sign, half a win being added for each model (see `ThompsonPolicy`).
    - ``uncertainty``: ``e_i`` is proportional to what is expected to be lost by not knowing better,
      ``s * (phi(g / s) - g / s * (1 - Phi(g / s)))`` with the gap g in score to the base's choice and its standard
      error s: the linear loss of Chick and Inoue (Operations Research 49, 2001). Requests whose answer is clear are
      left alone.

    In the last two the factor is set so that the mean probability is the share: see `SharePacer`; the base's choice
    keeps at least half of every request. Which number picks depends on the seed and the request's id, not on what else
    is decided at the moment.

    A request that wants no exploration (`RoutingRequest.explore`), sets a `quality_floor`, or has one eligible model
    only, is the base's. A dry run is shown the probabilities and is the base's, too.

    Parameters
    ----------
    base : mapping or BasePolicy, optional
        The policy below; by default the utility policy.
    method : {"epsilon", "thompson", "uncertainty"}
        See above.
    share : float
        Expected share of the requests that chance decides, in [0, 0.5].
    usd_per_day : float, optional
        What exploring may cost a UTC day, US dollars: the expected cost of explored models beyond that of the base's
        choice. When it is spent nothing is explored; None is no limit.
    max_extra_usd : float, optional
        A model expected to cost that much more than the base's choice is not tried.
    max_gap : float, optional
        A model that far below the base's choice in score (units of quality) is not tried.
    min_propensity : float
        Least ``e_i`` of a model that may be tried, so that logs have overlap; lowered where all together would take
        more than half of the share. Of no use to ``epsilon``.
    seed : int
        In [0, 2^32).
    clock : callable, optional
        Seconds since the epoch; for tests.

    Raises
    ------
    ConfigError
        If a parameter is not allowed.
    """

    def __init__(
        self,
        base: Mapping[str, Any] | BasePolicy | None = None,
        *,
        method: Method = "epsilon",
        share: float = 0.05,
        usd_per_day: float | None = None,
        max_extra_usd: float | None = None,
        max_gap: float | None = None,
        min_propensity: float = 0.002,
        seed: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(base)
        if method not in get_args(Method):
            raise ConfigError(f"method must be one of {', '.join(get_args(Method))}; got {method!r}")
        self.method = method
        self.share = require("share", share, least=0, most=_LARGEST_PROBABILITY)
        self.max_extra_usd = None if max_extra_usd is None else require("max_extra_usd", max_extra_usd, least=0)
        self.max_gap = None if max_gap is None else require("max_gap", max_gap, least=0)
        self.min_propensity = require("min_propensity", min_propensity, least=0, most=0.1)
        self.seed = require_count("seed", seed, least=0)
        if seed > _LARGEST_SEED:
            raise ConfigError(f"seed must be < 2^32; got {seed!r}")
        self._state = _State(
            pacer=SharePacer(self.share, usual=_USUAL[method]), ledger=DailyLedger(usd_per_day, clock=clock)
        )
        self._normals: dict[tuple[int, tuple[int, ...]], FloatArray] = {}
        self.locks = (self._state.lock, *self.locks)

    def use_ledger(self, ledger: Ledger) -> None:
        """Count dollars with `ledger` from now on, e.g. with one that several processes share."""
        with self._state.lock:
            self._state.ledger = ledger

    def state(self) -> dict[str, float | None]:
        """Return what was counted: requests that could be explored, those that were, and what that cost extra.

        ``left_usd`` is None without a limit.
        """
        state = self._state
        with state.lock:
            left = state.ledger.left_usd()
            return {
                "seen": state.seen,
                "explored": state.explored,
                "extra_usd": state.extra_usd,
                "left_usd": left if math.isfinite(left) else None,
            }

    def appraise(self, view: View, /) -> Appraisal:
        """Let the base value the candidates, and draw once wrapping policies have had their say."""
        base = self.base.appraise(view)
        self._state.drawn = None
        wanted = view.request.explore and view.request.preference.quality_floor is None
        return replace(self._renamed(base), explorer=self if wanted and self.share > 0 else base.explorer)

    def draw(
        self, view: View, appraisal: Appraisal, order: list[int], chances: list[float], /
    ) -> tuple[list[int], list[float], bool]:
        """Put another model first, by chance; see `Explorer`."""
        if len(order) < 2 or self._state.ledger.left_usd() <= 0:
            return order, chances, False
        scores = flat_scores(view, appraisal)
        best = self._best_probabilities(view, scores, order) if self.method == "thompson" else {}
        drawn = _Drawn()
        mixed = [0.0] * len(order)
        mine: list[float] = []
        for place, chance in enumerate(chances):
            if chance <= 0 and place:
                continue
            row, value = self._row(view, scores, order, place, best)
            left = 1.0 - math.fsum(row)
            for i, probability in enumerate(row):
                mixed[i] += chance * (left if i == place else probability)
            if place == 0:
                mine, drawn.value, drawn.probability = row, value, 1.0 - left
        self._state.drawn = drawn
        chosen = 0 if view.request.dry_run else _picked(mine, self._uniform(view))
        drawn.explored = chosen > 0
        drawn.extra_usd = max(view.cost[order[chosen]] - view.cost[order[0]], 0.0)
        return to_front(order, chosen), to_front(mixed, chosen), chosen > 0

    def record(self, view: View, decision: Decision, /) -> None:
        """Count the decision, with what exploring it costs."""
        super().record(view, decision)
        state, drawn = self._state, self._state.drawn
        if not view.request.request_id:
            state.unnamed += 1
        if drawn is None:
            return
        state.drawn = None
        state.seen += 1
        state.pacer.count(drawn.value, drawn.probability)
        if drawn.explored:
            state.explored += 1
        if drawn.extra_usd > 0:
            state.extra_usd += drawn.extra_usd
            state.ledger.charge(drawn.extra_usd)

    def _around(self, base: str) -> str:
        return f"explore({self.method}={self.share:g};{base})"

    def _uniform(self, view: View) -> float:
        return uniform_of(_PURPOSE, self.seed, view.request.request_id or f"#{self._state.unnamed}")

    def _row(
        self, view: View, scores: list[float], order: list[int], place: int, best: Mapping[int, float]
    ) -> tuple[list[float], float]:
        """Return with what probability each takes the place of the base's choice, and what that is worth in all."""
        allowed = [i for i in range(len(order)) if i != place and self._allows(view, scores, order[i], order[place])]
        row = [0.0] * len(order)
        if not allowed:
            return row, 0.0
        if self.method == "epsilon":
            for i in allowed:
                row[i] = self.share / len(allowed)
            return row, 1.0
        pacer = self._state.pacer
        values = [
            best[order[i]] if self.method == "thompson" else _linear_loss(view, scores, order[i], order[place])
            for i in allowed
        ]
        total = math.fsum(values)
        factor = min(pacer.factor, 1.0) if self.method == "thompson" else pacer.factor
        floor = min(self.min_propensity, 0.5 * self.share / len(allowed))
        wanted = [max(floor, factor * value) for value in values]
        most = min(pacer.most, _LARGEST_PROBABILITY)
        above = math.fsum(wanted) - floor * len(wanted)
        room = most - floor * len(wanted)
        scale = 1.0 if above <= room else room / above
        for i, probability in zip(allowed, wanted, strict=True):
            row[i] = floor + scale * (probability - floor)
        return row, total

    def _allows(self, view: View, scores: list[float], other: int, chosen: int) -> bool:
        extra = view.cost[other] - view.cost[chosen]
        gap = scores[chosen] - scores[other]
        # Not "gap > max_gap": what has no estimate is not tried.
        return (
            math.isfinite(gap)
            and extra <= self._state.ledger.left_usd()
            and (self.max_extra_usd is None or extra <= self.max_extra_usd)
            and (self.max_gap is None or gap <= self.max_gap)
        )

    def _best_probabilities(self, view: View, scores: list[float], order: list[int]) -> dict[int, float]:
        finite = tuple(i for i in order if math.isfinite(scores[i]))
        std = np.array([view.std[i] if view.std[i] > 0 else 0.0 for i in finite])
        samples = self._standard(len(view.cost), finite) * std
        samples += [scores[i] for i in finite]
        # As `choice_probabilities`, over all columns: half a win for each.
        wins = np.bincount(samples.argmax(axis=1), minlength=len(finite)).tolist()
        whole = _DRAWS + _SMOOTHING * len(finite)
        return {i: (won + _SMOOTHING) / whole for i, won in zip(finite, wins, strict=True)}

    def _standard(self, models: int, positions: tuple[int, ...]) -> FloatArray:
        """Return the numbers of some positions: the same for a position whichever others there are."""
        found = self._normals.get((models, positions))
        if found is None:
            if len(self._normals) >= _REMEMBERED_ORDERS:
                self._normals.clear()
            half = np.random.default_rng([self.seed, 0]).standard_normal((_DRAWS // 2, models))
            found = self._normals[models, positions] = np.concatenate((half, -half))[:, positions]
        return found


def _picked(row: list[float], uniform: float) -> int:
    """Return the place that a number in [0, 1) falls on; 0 where it falls beyond the others."""
    reached = 0.0
    for place, probability in enumerate(row):
        reached += probability
        if probability > 0 and uniform < reached:
            return place
    return 0


def _linear_loss(view: View, scores: list[float], other: int, chosen: int) -> float:
    """Return by how much the other is expected to be better, where it is: 0 for one that is surely worse."""
    gap = scores[chosen] - scores[other]
    error = math.hypot(view.std[other], view.std[chosen])
    if not error > 0:
        return max(-gap, 0.0)
    z = gap / error
    density = math.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    return max(error * (density - z * 0.5 * math.erfc(z / math.sqrt(2))), 0.0)
