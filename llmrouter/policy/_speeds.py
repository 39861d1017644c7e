"""What is known of the models' speed: the cards' figures, moved by what outcomes show."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

from llmrouter.policy._checks import require
from llmrouter.types import ModelCard, Outcome, Speed

FALLBACK_OUTPUT_TOKENS = 256.0
"""Completion tokens expected where neither the estimates nor the request say."""
_LEAST_S = 1e-6


@dataclass(frozen=True, slots=True)
class LiveSpeed(Speed):
    """How fast an engine says it is at its present load: goes before what outcomes showed of the past.

    Attributes
    ----------
    time_to_first_token_s, tokens_per_s : float
        Without the prompt; both > 0.
    seconds_per_input_token : float
        What each token of the prompt adds until the first one of the answer.
    """

    seconds_per_input_token: float = 0.0

    def after(self, prompt_tokens: int) -> Speed:
        """Return the speed of an answer to a prompt of that many tokens."""
        return Speed(self.time_to_first_token_s + prompt_tokens * self.seconds_per_input_token, self.tokens_per_s)


class SpeedTracker:
    """Expected latency of each model: exponentially weighted means, in the logarithm, of what was observed.

    A model starts at its card's speed, or at its first observation; a card whose speed is a `LiveSpeed` is believed.
    Outcomes of streamed calls give both figures; outcomes that hold the total alone scale both by the ratio of observed
    to expected. Thread-safe.

    Parameters
    ----------
    smoothing : float
        Weight of a new observation, in (0, 1].
    """

    def __init__(self, smoothing: float = 0.1) -> None:
        self.smoothing = require("smoothing", smoothing, above=0, most=1)
        self.lock = threading.RLock()
        self._observed: dict[str, Speed] = {}
        self._cards: dict[str, Speed] = {}

    def speed(self, card: ModelCard) -> Speed | None:
        """Return what is known of a model; None where nothing is."""
        if isinstance(card.speed, LiveSpeed):
            return card.speed
        observed = self._observed.get(card.name)
        if observed is not None:
            return observed
        if card.speed is not None:
            self._cards.setdefault(card.name, card.speed)
        return card.speed

    def observe(self, outcome: Outcome) -> None:
        """Take in the times of an answered call."""
        total, tokens = outcome.latency_s, outcome.output_tokens
        if outcome.status != "ok" or total is None or not (math.isfinite(total) and total > 0):
            return
        model = outcome.served_by or outcome.model
        with self.lock:
            before = self._observed.get(model) or self._cards.get(model)
            seen = _seen(total, outcome.time_to_first_token_s, tokens, before)
            self._observed[model] = seen if before is None else self._mixed(before, seen)

    def _mixed(self, before: Speed, seen: Speed) -> Speed:
        return Speed(
            self._moved(before.time_to_first_token_s, seen.time_to_first_token_s),
            self._moved(before.tokens_per_s, seen.tokens_per_s),
        )

    def _moved(self, before: float, seen: float) -> float:
        if not math.isfinite(before) or not math.isfinite(seen):  # one token or none: no rate was seen
            return before if math.isfinite(before) else seen
        low = math.log(max(before, _LEAST_S))
        return math.exp(low + self.smoothing * (math.log(max(seen, _LEAST_S)) - low))


def _seen(total: float, first: float | None, tokens: int | None, before: Speed | None) -> Speed:
    """Return the speed that one observation shows; infinitely many tokens a second where it shows no rate."""
    if first is not None and 0 < first <= total:
        rate = tokens / (total - first) if tokens and tokens > 1 and total > first else math.inf
        return Speed(first, rate)
    if before is None:
        return Speed(0.0, tokens / total) if tokens else Speed(total, math.inf)
    ratio = total / max(before.total_s(tokens or 0), _LEAST_S)
    return Speed(before.time_to_first_token_s * ratio, before.tokens_per_s / ratio)
