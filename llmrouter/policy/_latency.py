"""The latency policy: no model that is expected to take too long."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmrouter.exceptions import ConfigError
from llmrouter.policy._base import BasePolicy
from llmrouter.policy._checks import require
from llmrouter.policy._ranking import Appraisal, View
from llmrouter.policy._speeds import FALLBACK_OUTPUT_TOKENS, LiveSpeed, SpeedTracker
from llmrouter.policy._wrapping import WrappingPolicy
from llmrouter.types import Outcome

MEASURES = ("total", "first_token")


class LatencyPolicy(WrappingPolicy):
    """Rule out the models whose expected latency exceeds a limit; the base policy chooses among the others.

    Expected latency is the time to the first token plus, for the total, the expected completion tokens (never more
    than the request allows) over the tokens per second. Both come from the model's card and move with the observed
    outcomes (`SpeedTracker`); the length of the prompt is then not modelled. An engine that reports its speed at the
    present load (`LiveSpeed`) is taken at its word, prompt included. A model of unknown speed is never ruled out. Where
    every model is too slow the fastest goes first, with a warning in its reason.

    Parameters
    ----------
    limit_s : float
        Seconds, > 0.
    measure : {"total", "first_token"}
        What the limit is on.
    base : mapping or Policy, optional
        The policy that chooses, e.g. ``{kind: utility, cost_weight: 0.3}``; by default the utility policy.
    smoothing : float
        Weight of a new observation, in (0, 1].
    """

    def __init__(
        self,
        limit_s: float,
        *,
        measure: str = "total",
        base: Mapping[str, Any] | BasePolicy | None = None,
        smoothing: float = 0.1,
    ) -> None:
        super().__init__(base)
        self.limit_s = require("limit_s", limit_s, above=0)
        if measure not in MEASURES:
            raise ConfigError(f"measure must be one of {', '.join(MEASURES)}; got {measure!r}")
        self.measure = measure
        self.speeds = SpeedTracker(smoothing)

    def _around(self, base: str) -> str:
        return f"latency({self.limit_s:g}s;{base})"

    def observe(self, outcome: Outcome, /) -> None:
        """Move the speed of the model that answered."""
        self.speeds.observe(outcome)
        super().observe(outcome)

    def appraise(self, view: View, /) -> Appraisal:
        """Let the base value what is fast enough."""
        expected = {i: self._expected_s(view, i) for i in view.eligible}
        slow = {
            i: f"expected latency {seconds:.2f} s exceeds the limit of {self.limit_s:g} s"
            for i, seconds in expected.items()
            if seconds is not None and seconds > self.limit_s
        }
        if len(slow) < len(view.eligible):
            return self._renamed(self.base.appraise(view.without(slow)), ruled_out=slow)
        base = self.base.appraise(view)  # what it rules out, such as a budget's, holds here, too
        return Appraisal(
            [-(expected.get(i) or 0.0) for i in range(len(view.cost))],
            self._around(base.policy),
            base.cost_weight,
            base.reference_cost_usd,
            ruled_out=base.ruled_out,
            warnings=(
                *base.warnings,
                f"every model is expected to exceed the limit of {self.limit_s:g} s: the fastest goes first",
            ),
        )

    def _expected_s(self, view: View, position: int) -> float | None:
        speed = self.speeds.speed(view.candidates[position].card)
        if speed is None:
            return None
        if isinstance(speed, LiveSpeed):
            speed = speed.after(view.request.prompt_tokens)
        if self.measure == "first_token":
            return speed.time_to_first_token_s
        tokens, most = float(view.estimates.output_tokens[position]), view.request.max_output_tokens
        if tokens != tokens:  # NaN
            tokens = FALLBACK_OUTPUT_TOKENS
        return speed.total_s(tokens if most is None else min(tokens, most))
