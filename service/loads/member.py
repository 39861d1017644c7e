"""What is known of the load of one model of the pool."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llmrouter.policy import LiveSpeed
from llmrouter.pool import LoadReading
from llmrouter.types import ModelCard, Price

if TYPE_CHECKING:
    from service.loads.settings import LoadSettings

SOURCE = "load"
"""`Price.source` of what an engine reported."""


@dataclass(slots=True)
class Member:
    """A model whose engine reports its load, and the last report.

    Attributes
    ----------
    card : ModelCard
        As configured.
    settings : LoadSettings
        How it is read.
    wanted : str
        The model's id in the report.
    reading : LoadReading or None
        The last one.
    read_at : float
        When that was asked for, seconds of the monotonic clock; NaN before the first.
    failures : int
        Readings that failed.
    trouble : str
        Why the last one did; "" where it did not.
    """

    card: ModelCard
    settings: LoadSettings
    wanted: str
    reading: LoadReading | None = None
    read_at: float = math.nan
    failures: int = 0
    trouble: str = ""

    def is_fresh(self, now: float) -> bool:
        """Return whether the last reading still counts."""
        return now - self.read_at < self.settings.stale_s  # False for NaN

    def present(self, now: float) -> ModelCard:
        """Return the card by which is decided now; the configured one where nothing fresh is known."""
        reading = self.reading
        if reading is None or not self.is_fresh(now):
            return self.card
        card = self.card
        if reading.input_usd_per_million is not None and reading.output_usd_per_million is not None:
            price = _price(card.price, reading.input_usd_per_million, reading.output_usd_per_million)
            card = replace(card, price=price)
        each_in, each_out = reading.seconds_per_input_token, reading.seconds_per_output_token
        if each_in is not None and each_out is not None:
            card = replace(card, speed=LiveSpeed(each_out, 1.0 / each_out, each_in))
        return card

    def account(self, now: float) -> dict[str, Any]:
        """Return by which price is decided and why, as JSON values."""
        card = self.present(now)
        reported = card.price.source == SOURCE
        told: dict[str, Any] = {
            "input": card.price.input,
            "output": card.price.output,
            "from": SOURCE if reported else "configuration",
            "age_s": None if math.isnan(self.read_at) else round(now - self.read_at, 3),
            "reason": "" if reported else self._why_configured(now),
        }
        if isinstance(card.speed, LiveSpeed):
            told["seconds_per_input_token"] = card.speed.seconds_per_input_token
            told["seconds_per_output_token"] = card.speed.time_to_first_token_s
        return told

    def _why_configured(self, now: float) -> str:
        # What went wrong may name what else the engine serves, and clients read this.
        log = "; the gateway's own log says why" if self.trouble else ""
        if self.reading is None:
            return f"the load was not read yet{log}"
        if not self.is_fresh(now):
            return f"the last reading is older than {self.settings.stale_s:g} s{log}"
        return self.reading.no_price


def _price(listed: Price, input_price: float, output_price: float) -> Price:
    # What the prompt cache saves is a share of the input's price, whatever that is at present.
    cached = listed.cached_input
    if cached is not None:
        cached = cached / listed.input * input_price if listed.input else None
    return Price(input_price, output_price, cached_input=cached, source=SOURCE)
