"""What is known of a model before it is configured."""

from __future__ import annotations

from dataclasses import dataclass

from llmrouter.types import Capability, Price


@dataclass(frozen=True, slots=True)
class KnownModel:
    """What some list says of a model.

    Attributes
    ----------
    name : str
        What the list calls it.
    price : Price
        With its source and date.
    context_window : int or None
        Tokens that the model reads at most; None where the list does not say.
    capabilities : frozenset of Capability or None
        What it offers; None where the list does not say.
    """

    name: str
    price: Price
    context_window: int | None = None
    capabilities: frozenset[Capability] | None = None
