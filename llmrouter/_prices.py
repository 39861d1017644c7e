"""What a call costs: list prices, and the tokens that a provider counted. To be imported from `llmrouter.types`.

Prices in US dollars per million tokens, costs in US dollars.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from typing import Any

TOKENS_PER_PRICE_UNIT = 1_000_000


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call, as the provider counted them; None where it did not say.

    Attributes
    ----------
    input_tokens, output_tokens : int or None
        All tokens of the prompt, cached ones included, and all of the completion, reasoning included.
    cached_tokens, cache_write_tokens, input_audio_tokens : int or None
        Parts of `input_tokens`: read from the provider's cache, stored in it, audio.
    reasoning_tokens, output_audio_tokens : int or None
        Parts of `output_tokens`.
    raw : mapping or None
        The provider's own usage object, as it was sent. Not compared.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    cache_write_tokens: int | None = None
    input_audio_tokens: int | None = None
    output_audio_tokens: int | None = None
    raw: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class PriceTier:
    """What a call costs whose prompt has more than `above_tokens` tokens: all of the call, not what lies above.

    US dollars per million tokens; None keeps the price of shorter prompts.
    """

    above_tokens: int
    input: float
    output: float
    cached_input: float | None = None
    cache_write: float | None = None


@dataclass(frozen=True, slots=True)
class Price:
    """List price of a model, US dollars per million tokens.

    Attributes
    ----------
    input, output : float
        Prompt and completion tokens.
    cached_input : float or None
        Prompt tokens that the provider had cached; None means no discount.
    cache_write : float or None
        Prompt tokens that the provider stored in its cache; None is `input`.
    reasoning_output : float or None
        Completion tokens spent on reasoning; None is `output`.
    input_audio, output_audio : float or None
        Audio tokens; None is the price of text.
    per_request : float
        US dollars for a call, whatever its tokens.
    tiers : tuple of PriceTier
        Prices of long prompts, in any order.
    as_of : str or None
        ISO date on which these prices were right; None where the source does not say.
    source : str
        Where they come from: ``config``, ``file``, ``pocket``, or e.g. ``litellm 1.106.2``.
    """

    input: float
    output: float
    cached_input: float | None = None
    cache_write: float | None = None
    reasoning_output: float | None = None
    input_audio: float | None = None
    output_audio: float | None = None
    per_request: float = 0.0
    tiers: tuple[PriceTier, ...] = ()
    as_of: str | None = None
    source: str = "config"

    @property
    def stamp(self) -> str:
        """What says which price list a cost was computed with: the date, or where there is none the source."""
        return self.as_of or self.source

    def cost_usd(self, input_tokens: float, output_tokens: float, *, cached_tokens: float = 0.0) -> float:
        """Return the expected cost of one call in US dollars; `cached_tokens` is a part of `input_tokens`.

        For expectations: tiers, audio and reasoning are not told apart. What a call did cost is `cost_of`.
        """
        cached_price = self.input if self.cached_input is None else self.cached_input
        fresh = max(input_tokens - cached_tokens, 0.0)
        total = fresh * self.input + cached_tokens * cached_price + output_tokens * self.output
        return total / TOKENS_PER_PRICE_UNIT + self.per_request

    def cost_of(self, usage: Usage) -> float | None:
        """Return what a call cost in US dollars: the number nearest to `exact_cost_of`, None where that is None."""
        exact = self.exact_cost_of(usage)
        return None if exact is None else float(exact)

    def exact_cost_of(self, usage: Usage) -> Decimal | None:
        """Return what a call cost in US dollars, without rounding; None where the provider did not count the tokens.

        Cached, stored and audio tokens are parts of the input, reasoning and audio tokens parts of the output; every
        token is paid once. A part of which the provider says nothing is paid at the full price.
        """
        if usage.input_tokens is None or usage.output_tokens is None:
            return None
        total = _ZERO
        for tokens, price in (*self._input_parts(usage), *self._output_parts(usage)):
            if tokens:
                total += tokens * _exact(price)
        total = total.scaleb(-6)  # TOKENS_PER_PRICE_UNIT
        return total + _exact(self.per_request) if self.per_request else total

    def _input_parts(self, usage: Usage) -> tuple[tuple[int, float], ...]:
        rest = usage.input_tokens or 0
        tier = self._tier(rest) if self.tiers else None
        text, cached_price, write_price = self.input, self.cached_input, self.cache_write
        if tier is not None:
            text = tier.input
            cached_price = cached_price if tier.cached_input is None else tier.cached_input
            write_price = write_price if tier.cache_write is None else tier.cache_write
        cached = min(usage.cached_tokens or 0, rest)
        written = min(usage.cache_write_tokens or 0, rest - cached)
        audio = min(usage.input_audio_tokens or 0, rest - cached - written)
        return (
            (rest - cached - written - audio, text),
            (cached, text if cached_price is None else cached_price),
            (written, text if write_price is None else write_price),
            (audio, text if self.input_audio is None else self.input_audio),
        )

    def _output_parts(self, usage: Usage) -> tuple[tuple[int, float], ...]:
        rest = usage.output_tokens or 0
        tier = self._tier(usage.input_tokens or 0) if self.tiers else None
        text = self.output if tier is None else tier.output
        reasoning = min(usage.reasoning_tokens or 0, rest)
        audio = min(usage.output_audio_tokens or 0, rest - reasoning)
        return (
            (rest - reasoning - audio, text),
            (reasoning, text if self.reasoning_output is None else self.reasoning_output),
            (audio, text if self.output_audio is None else self.output_audio),
        )

    def _tier(self, input_tokens: int) -> PriceTier | None:
        reached = [tier for tier in self.tiers if input_tokens > tier.above_tokens]
        return max(reached, key=lambda tier: tier.above_tokens, default=None)


_ZERO = Decimal(0)


@lru_cache(maxsize=4096)
def _exact(price: float) -> Decimal:
    """Return a price as it was written: 0.15, not the binary number next to it."""
    return Decimal(repr(float(price)))
