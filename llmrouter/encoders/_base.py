"""The contract of everything that turns a text into a vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from llmrouter.types import FloatArray


@runtime_checkable
class Encoder(Protocol):
    """Text to vector.

    Attributes
    ----------
    fingerprint : str
        Names weights and settings; two encoders with the same fingerprint give the same vectors. Artifacts carry
        it, and loading one with another encoder is refused.
    dimension : int
        Length d of the vectors.
    """

    @property
    def fingerprint(self) -> str:
        """Name of weights and settings."""
        ...

    @property
    def dimension(self) -> int:
        """Length d of the vectors."""
        ...

    def encode(self, texts: Sequence[str], /) -> FloatArray:
        """Return an array of shape (n, d), float32, rows of unit length (a zero row for a text without tokens)."""
        ...

    def count_tokens(self, text: str, /) -> int:
        """Return the number of tokens of `text` by the encoder's own tokenizer, before any windowing."""
        ...
