"""The quota policy: at most a share of the requests for a model, by a bias on selection only."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from typing import Any, Self

from llmrouter.exceptions import ConfigError
from llmrouter.policy._base import BasePolicy
from llmrouter.policy._checks import require, require_count, require_shares
from llmrouter.policy._facts import TrainingFacts
from llmrouter.policy._ranking import Appraisal, View, flat_scores
from llmrouter.policy._wrapping import WrappingPolicy
from llmrouter.types import Decision


class QuotaPolicy(WrappingPolicy):
    """Hold models to shares of the requests by an additive bias on their scores.

    Loss-free balancing (arXiv 2408.15664) one decision at a time: each limited model has a bias <= 0 that is added to
    its score for the selection and nowhere else: estimates and what is reported of them stay as they are. After each
    decision the bias falls by ``rate * (1 - share)`` where the model was chosen and rises by ``rate * share``, up to
    zero, where it was not (the paper moves by the sign of a batch's excess load; the drift here is zero at exactly the
    share). After n decisions a model has at most ``share * n + (gap + rate) / rate`` of them, where the gap is the
    largest lead in score that it ever had over the best model without a limit. The bias does not move
    where only one model was eligible.

    Parameters
    ----------
    shares : mapping of str to float
        Largest share of the decisions, by model, in [0, 1]; other models are not limited.
    rate : float
        Step of the bias, in units of quality, > 0. 0.001 changes little from one request to the next and settles within
        thousands; 0.01 settles within hundreds and swings more.
    base : mapping or Policy, optional
        The policy whose scores are biased; by default the utility policy.
    window : int, optional
        A hard cap besides: among any that many consecutive decisions a model gets at most ``share * window``, rounded
        down but not below 1 for a positive share; None is no hard cap.
    """

    def __init__(
        self,
        shares: Mapping[str, float],
        *,
        rate: float = 0.001,
        base: Mapping[str, Any] | BasePolicy | None = None,
        window: int | None = None,
    ) -> None:
        super().__init__(base)
        self.shares = require_shares("shares", shares)
        self.rate = require("rate", rate, above=0)
        self.window = None if window is None else require_count("window", window)
        self._biases = dict.fromkeys(self.shares, 0.0)
        self._recent: deque[str] = deque()
        self._counts = dict.fromkeys(self.shares, 0)
        self.locks = (threading.RLock(), *self.locks)

    @property
    def biases(self) -> dict[str, float]:
        """The bias of each limited model now, <= 0, in units of quality."""
        return dict(self._biases)

    def bind(self, facts: TrainingFacts, /) -> Self:
        """Return the policy around the bound base.

        Raises
        ------
        ConfigError
            If every model of the training is limited and the shares add up to less than 1.
        """
        total = sum(self.shares.get(model, 1.0) for model in facts.models)
        if total < 1 - 1e-9:
            raise ConfigError(
                f"shares add up to {total:g} over all models ({', '.join(facts.models)}); "
                "raise them to 1 or more, or leave a model out"
            )
        return super().bind(facts)

    def appraise(self, view: View, /) -> Appraisal:
        """Let the base value what the hard cap leaves, and add the biases."""
        capped = self._capped(view)
        warnings: tuple[str, ...] = ()
        if capped and len(capped) == len(view.eligible):
            least = max(capped, key=lambda i: (self.shares[view.name(i)] - self._load(view.name(i)), -i))
            del capped[least]
            warnings = ("every eligible model has used its share: the one least over it answers",)
        view = view.without(capped)
        base = self.base.appraise(view)
        bias = [self._biases.get(candidate.card.name, 0.0) for candidate in view.candidates]
        return self._renamed(
            base,
            ruled_out=capped,
            scores=[score + b for score, b in zip(flat_scores(view, base), bias, strict=True)],
            samples=None if base.samples is None else base.samples + bias,
            tiers=None,
            warnings=base.warnings + warnings,
        )

    def record(self, view: View, decision: Decision, /) -> None:
        """Move the biases and the window."""
        super().record(view, decision)
        chosen = decision.model
        if len(view.eligible) > 1:
            for model, share in self.shares.items():
                moved = self._biases[model] + self.rate * (share - (1.0 if model == chosen else 0.0))
                self._biases[model] = min(moved, 0.0)
        if self.window is None:
            return
        self._recent.append(chosen)
        if chosen in self._counts:
            self._counts[chosen] += 1
        if len(self._recent) >= self.window:  # the next decision shares its window with one fewer
            gone = self._recent.popleft()
            if gone in self._counts:
                self._counts[gone] -= 1

    def _around(self, base: str) -> str:
        listed = ",".join(f"{model}={share:g}" for model, share in self.shares.items())
        return f"quota({listed};{base})"

    def _load(self, model: str) -> float:
        return self._counts[model] / (self.window or 1)

    def _capped(self, view: View) -> dict[int, str]:
        if self.window is None:
            return {}
        capped = {}
        for i in view.eligible:
            model = view.name(i)
            share = self.shares.get(model)
            if share is None:
                continue
            most = max(int(share * self.window + 1e-9), 1 if share > 0 else 0)
            if self._counts[model] >= most:
                capped[i] = f"has had its share of {share:g} of the last {self.window} requests"
        return capped
