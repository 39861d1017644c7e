"""Paced spending: an allowance that fills with every request, and a price on dollars that follows it."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict

import numpy as np

from llmrouter.policy._checks import require, require_count
from llmrouter.policy._facts import TrainingFacts
from llmrouter.types import Outcome

START_WEIGHT = 0.3
_LEAST, _MOST = 3e-3, 3e3
# The price follows how full the allowance is, by a proportional and an integral part. With spending that falls by one
# percent where the price rises by one, these two damp critically: the fill returns to a half without swinging.
_PROPORTIONAL = 2.0
_INTEGRAL = 1.0
_PENDING = 10_000
_GRID = np.concatenate(([0.0], np.geomspace(_LEAST, _MOST, 161)))


class Pacer:
    """Keep the mean spending at a set number of dollars per 1,000 requests.

    Two mechanisms. **The allowance** is hard: it starts at `burst_requests` requests' worth, every decision adds one
    request's worth (up to the start again) and takes the expected cost of the chosen model; what costs more than
    there is, is ruled out. After n decisions at most ``(n + burst_requests)`` requests' worth were charged, unless not
    even the cheapest model fitted. **The price** is soft: a cost weight that rises while less than half
    of the allowance is there and falls while more is (in the logarithm), so that the money goes where it buys most
    instead of to whoever comes first, and the hard limit is seldom met.

    Not locked: callers hold `lock`.

    Parameters
    ----------
    usd_per_1k : float
        US dollars per 1,000 requests, > 0.
    burst_requests : int
        Requests' worth that may be spent ahead; also how slowly the price moves.
    """

    def __init__(self, usd_per_1k: float, burst_requests: int) -> None:
        self.usd_per_1k = require("usd_per_1k", usd_per_1k, above=0)
        self.burst_requests = require_count("burst_requests", burst_requests)
        self.per_request_usd = usd_per_1k / 1000
        self.balance_usd = self.per_request_usd * burst_requests
        self.charged_usd = 0.0
        self.decisions = 0
        self.lock = threading.RLock()
        self._log_weight = math.log(START_WEIGHT)
        self._pending: OrderedDict[str, float] = OrderedDict()

    @property
    def cost_weight(self) -> float:
        """The price now: a cost weight."""
        return math.exp(self._log_weight + _PROPORTIONAL * self._lack())

    def start_from(self, facts: TrainingFacts) -> None:
        """Set the price to the smallest that keeps the mean cost on the calibration, unless decisions were made."""
        calibration = facts.calibration
        if self.decisions or calibration is None or len(calibration) == 0:
            return
        quality, cost = calibration.expected_quality, calibration.expected_cost_usd
        rows = np.arange(len(calibration))
        for weight in _GRID:
            chosen = (quality - weight * cost / facts.reference_cost_usd).argmax(axis=1)
            if cost[rows, chosen].mean() <= self.per_request_usd:
                break
        self._log_weight = math.log(max(float(weight), _LEAST))

    def affordable_usd(self) -> float:
        """Return what the next decision may cost."""
        return self.balance_usd + self.per_request_usd

    def charge(self, cost_usd: float, request_id: str | None) -> None:
        """Take the expected cost of a decision from the allowance and move the price."""
        full = self.per_request_usd * self.burst_requests
        self.balance_usd = min(self.balance_usd + self.per_request_usd - cost_usd, full)
        self.charged_usd += cost_usd
        self.decisions += 1
        moved = self._log_weight + _INTEGRAL * self._lack() / self.burst_requests
        self._log_weight = min(max(moved, math.log(_LEAST)), math.log(_MOST))
        if request_id is not None:
            self._pending[request_id] = cost_usd
            if len(self._pending) > _PENDING:
                self._pending.popitem(last=False)

    def settle(self, outcome: Outcome) -> None:
        """Replace the expected cost of a decision by what it came to; costs that are not known stay as expected."""
        with self.lock:
            expected = self._pending.pop(outcome.request_id, None)
            if expected is None or outcome.cost_usd is None or not math.isfinite(outcome.cost_usd):
                return
            balance = self.balance_usd + expected - outcome.cost_usd
            self.balance_usd = min(balance, self.per_request_usd * self.burst_requests)

    def _lack(self) -> float:
        """Return how much of the allowance is missing to a half of it, as a share: -0.5 when full."""
        return min(0.5 - self.balance_usd / (self.per_request_usd * self.burst_requests), 1.0)
