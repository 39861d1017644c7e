"""Settings of prices: those of one model, and where to look for the others."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, NonNegativeFloat, PositiveInt

from llmrouter.types import Price, PriceTier
from service.section import Section


def _iso_date(value: object) -> object:
    if value is None or type(value) is date:
        return value
    try:
        return date.fromisoformat(str(value))
    except ValueError:
        raise ValueError(f"must be a date such as 2026-11-01; got {value!r}") from None


class PriceTierSettings(Section):
    """What a call costs whose prompt has more than `above_tokens` tokens; see `llmrouter.types.PriceTier`."""

    above_tokens: PositiveInt
    input: NonNegativeFloat
    output: NonNegativeFloat
    cached_input: NonNegativeFloat | None = None
    cache_write: NonNegativeFloat | None = None


class PriceSettings(Section):
    """US dollars per million tokens; see `llmrouter.types.Price`.

    Attributes
    ----------
    input, output
        Prompt and completion tokens.
    cached_input, cache_write, input_audio
        Kinds of prompt tokens; None is the price of `input`.
    reasoning_output, output_audio
        Kinds of completion tokens; None is the price of `output`.
    per_request
        US dollars a call.
    tiers
        Prices of long prompts.
    as_of
        The date on which these prices were right.
    source
        Where they come from.
    """

    input: NonNegativeFloat
    output: NonNegativeFloat
    cached_input: NonNegativeFloat | None = None
    cache_write: NonNegativeFloat | None = None
    reasoning_output: NonNegativeFloat | None = None
    input_audio: NonNegativeFloat | None = None
    output_audio: NonNegativeFloat | None = None
    per_request: NonNegativeFloat = 0.0
    tiers: tuple[PriceTierSettings, ...] = ()
    as_of: Annotated[date | None, BeforeValidator(_iso_date)] = None
    source: str = "config"

    @property
    def price(self) -> Price:
        """The price as the library takes it."""
        values = self.model_dump(exclude={"tiers", "as_of"})
        tiers = tuple(PriceTier(**tier.model_dump()) for tier in self.tiers)
        return Price(**values, tiers=tiers, as_of=None if self.as_of is None else self.as_of.isoformat())


class PricingSettings(Section):
    """Where prices come from that pool entries leave out.

    Attributes
    ----------
    file : Path or None
        A price file (YAML or JSON), asked before LiteLLM's list; None takes the one that the environment variable
        ``LLMROUTER_PRICES`` names, if it names one.
    """

    file: Path | None = None
