"""The sticky policy: a conversation stays with its model unless switching is worth what it loses."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from llmrouter.policy._base import BasePolicy
from llmrouter.policy._checks import require, require_count
from llmrouter.policy._ranking import Appraisal, View, flat_scores
from llmrouter.policy._wrapping import WrappingPolicy
from llmrouter.types import TOKENS_PER_PRICE_UNIT, Decision, Outcome, Price


@dataclass(frozen=True, slots=True)
class _Conversation:
    model: str
    prompt_tokens: int
    time: float


class StickyPolicy(WrappingPolicy):
    """Keep a conversation on its model unless the gain in utility exceeds what switching loses.

    What it loses is the provider's discount on the prompt tokens that its cache holds, those of the conversation's last
    turn: ``tokens * (price.input - price.cached_input)`` in dollars, turned into utility by the base policy's cost
    weight. `max_gain` more is given up so as not to switch back and forth. A conversation whose model is not eligible,
    or that was idle for longer than the provider's cache lives, is decided afresh; requests without a conversation id
    are the base policy's.

    Parameters
    ----------
    base : mapping or Policy, optional
        The policy that values the models; by default the utility policy.
    idle_s : float
        Seconds after which the cache is taken to be gone, > 0.
    max_gain : float
        Gain in utility, beyond the discount, that is forgone to stay; >= 0.
    max_conversations : int
        The longest idle are forgotten beyond that many.
    clock : callable, optional
        Seconds, monotonic; for tests.
    """

    def __init__(
        self,
        base: Mapping[str, Any] | BasePolicy | None = None,
        *,
        idle_s: float = 300.0,
        max_gain: float = 0.01,
        max_conversations: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(base)
        self.idle_s = require("idle_s", idle_s, above=0)
        self.max_gain = require("max_gain", max_gain, least=0)
        self.max_conversations = require_count("max_conversations", max_conversations)
        self._clock = clock
        self._lock = threading.RLock()
        self._conversations: OrderedDict[str, _Conversation] = OrderedDict()
        self.locks = (self._lock, *self.locks)

    def appraise(self, view: View, /) -> Appraisal:
        """Let the base value the candidates, and add what leaving would lose to the conversation's model."""
        base = self.base.appraise(view)
        known = self._conversations.get(view.request.conversation_id or "")
        position = None if known is None else view.position(known.model)
        if known is None or position is None or self._clock() - known.time > self.idle_s:
            return self._renamed(base)
        tokens = min(known.prompt_tokens, view.request.prompt_tokens)
        lost = discount_usd(view.candidates[position].card.price, tokens)
        bonus = self.max_gain + lost * base.cost_weight / base.reference_cost_usd
        scores = list(flat_scores(view, base))
        scores[position] += bonus
        samples = base.samples
        if samples is not None:
            samples = samples.copy()
            samples[:, position] += bonus
        return self._renamed(base, scores=scores, samples=samples, tiers=None)

    def record(self, view: View, decision: Decision, /) -> None:
        """Remember the model of the conversation."""
        super().record(view, decision)
        conversation = view.request.conversation_id
        if not conversation:
            return
        self._conversations[conversation] = _Conversation(decision.model, view.request.prompt_tokens, self._clock())
        self._conversations.move_to_end(conversation)
        if len(self._conversations) > self.max_conversations:
            self._conversations.popitem(last=False)

    def observe(self, outcome: Outcome, /) -> None:
        """Follow the conversation to the model that answered, where that was a fallback."""
        with self._lock:
            known = self._conversations.get(outcome.conversation_id or "")
            if known is not None and outcome.conversation_id and outcome.served_by and known.model == outcome.model:
                self._conversations[outcome.conversation_id] = replace(known, model=outcome.served_by)
        super().observe(outcome)

    def _around(self, base: str) -> str:
        return f"sticky({base})"


def discount_usd(price: Price, cached_tokens: float) -> float:
    """Return what the provider's prompt cache saves on that many tokens, US dollars; 0 where there is no discount."""
    if price.cached_input is None:
        return 0.0
    return max(cached_tokens * (price.input - price.cached_input) / TOKENS_PER_PRICE_UNIT, 0.0)
