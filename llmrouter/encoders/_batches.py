"""From the windows of texts to one unit vector a text, for encoders that run a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmrouter.encoders._windows import Window
from llmrouter.exceptions import EncoderError
from llmrouter.types import FloatArray


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """What a tokenizer puts around a text, e.g. ``[CLS]`` and ``[SEP]``."""

    before: tuple[int, ...]
    after: tuple[int, ...]

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.before) + len(self.after)

    def around(self, window: Window) -> Window:
        """Return a window as the network wants it."""
        return [*self.before, *window, *self.after]


def special_tokens(tokenizer: Any) -> SpecialTokens:
    """Find out what a fast tokenizer puts around a text; its padding is switched off.

    Raises
    ------
    EncoderError
        If the text's own tokens are not found in one piece between them.
    """
    tokenizer.no_padding()
    plain = tokenizer.encode("a", add_special_tokens=False).ids
    full = tokenizer.encode("a", add_special_tokens=True).ids
    for start in range(len(full) - len(plain) + 1):
        if full[start : start + len(plain)] == plain:
            return SpecialTokens(tuple(full[:start]), tuple(full[start + len(plain) :]))
    raise EncoderError("the tokenizer changes a text's own tokens where it adds special ones; choose another model")


def encode_windows(
    texts: Sequence[Sequence[Window]],
    embed: Callable[[list[Window]], FloatArray],
    *,
    dimension: int,
    batch_size: int,
) -> FloatArray:
    """Encode each text as the mean of its windows' unit vectors, weighted by their tokens, of unit length again.

    Parameters
    ----------
    texts : sequence of sequence of Window
        The windows of each text; a text without any gets a zero row.
    embed : callable
        Takes a batch of windows and returns their vectors, shape (b, d).
    dimension : int
        Length d of the vectors.
    batch_size : int
        Windows a batch; they are sorted by length first, so that little is spent on padding.

    Returns
    -------
    array of shape (n, d), float32
    """
    flat = [(row, window) for row, windows in enumerate(texts) for window in windows]
    flat.sort(key=lambda entry: len(entry[1]))
    summed = np.zeros((len(texts), dimension), dtype=np.float32)
    for start in range(0, len(flat), batch_size):
        batch = flat[start : start + batch_size]
        vectors = unit_rows(embed([window for _, window in batch]))
        for (row, window), vector in zip(batch, vectors, strict=True):
            summed[row] += len(window) * vector
    return unit_rows(summed)


def unit_rows(rows: FloatArray) -> FloatArray:
    """Return (n, d) rows scaled to unit length, float32; zero rows stay zero."""
    rows = np.asarray(rows, dtype=np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: FloatArray = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    return scaled
