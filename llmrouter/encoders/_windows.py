"""Long texts: windows of tokens, spread over the whole text where there are too many, never a silent cut.

A text is encoded in windows of `window_tokens` tokens whose vectors are averaged, weighted by their tokens.

- Up to ``max_windows * window_tokens`` tokens, the windows are consecutive and cover everything.
- Above that, `max_windows` windows are taken at even distances: the first begins with the text, the last ends with it.
- Above ``CHARACTERS_PER_TOKEN`` characters for each of those tokens, only `max_windows` slices of the text, at even
  distances and with head and tail among them, are tokenized at all, so that the work is bounded by the settings and
  not by the text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from llmrouter.encoders._words import Words
from llmrouter.exceptions import ArtifactCorruptError, ConfigError

Window = list[int]

# English prose has 4 to 5 characters a token, code fewer; at twice that, sampling characters loses no token that
# sampling tokens would have kept.
CHARACTERS_PER_TOKEN = 8

# Counting more than this exactly would take a gateway longer than anything else it does with a request.
EXACT_COUNT_CHARACTERS = 65_536
_COUNT_SAMPLES = 16


class WindowedTokenizer:
    """A fast tokenizer that gives the windows of a text.

    Parameters
    ----------
    tokenizer : tokenizers.Tokenizer
        Its truncation and padding are switched off.
    max_windows : int
        Windows a text at most; with 1 only its head is seen.
    window_tokens : int
        Tokens a window, special tokens not counted.
    """

    def __init__(self, tokenizer: Tokenizer, *, max_windows: int, window_tokens: int) -> None:
        self.max_windows = checked_count("max_windows", max_windows)
        self.window_tokens = checked_count("window_tokens", window_tokens)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._words = Words(tokenizer) if Words.applies(tokenizer) else None

    @property
    def _max_characters(self) -> int:
        return self.max_windows * self.window_tokens * CHARACTERS_PER_TOKEN

    def windows(self, text: str, *, drop: int | None = None) -> list[Window]:
        """Return the windows of one text; none for a text without tokens.

        Parameters
        ----------
        text : str
            Any length.
        drop : int, optional
            Token id to leave out before windows are cut (the unknown token of a static table).
        """
        if len(text) <= self._max_characters:
            ids = self._tokens(text)
        else:
            slices = spread_slices(text, self.max_windows, self.window_tokens * CHARACTERS_PER_TOKEN)
            ids = _joined(self._tokenizer.encode_batch_fast(slices, add_special_tokens=False))
        return self._cut(ids, drop)

    def windows_of_all(self, texts: Sequence[str], *, drop: int | None = None) -> list[list[Window]]:
        """Return the windows of every text, the same as one by one, tokenized together where that is faster."""
        if len(texts) < 2 or any(len(text) > self._max_characters for text in texts):
            return [self.windows(text, drop=drop) for text in texts]
        found = [None if self._words is None else self._words.tokens(text) for text in texts]
        others = [text for text, tokens in zip(texts, found, strict=True) if tokens is None]
        encodings = iter(self._tokenizer.encode_batch_fast(others, add_special_tokens=False))
        return [self._cut(next(encodings).ids if tokens is None else tokens, drop) for tokens in found]

    def count(self, text: str) -> int:
        """Return the number of tokens of `text`, special tokens not counted.

        Above `EXACT_COUNT_CHARACTERS` characters the count is estimated from samples at even distances.
        """
        if len(text) <= EXACT_COUNT_CHARACTERS:
            return len(self._tokens(text))
        length = EXACT_COUNT_CHARACTERS // _COUNT_SAMPLES
        slices = spread_slices(text, _COUNT_SAMPLES, length)
        counted = len(_joined(self._tokenizer.encode_batch_fast(slices, add_special_tokens=False)))
        return round(counted * len(text) / (length * _COUNT_SAMPLES))

    def _tokens(self, text: str) -> list[int]:
        tokens = None if self._words is None else self._words.tokens(text)
        if tokens is None:
            # A batch of one: without offsets, in half the time.
            tokens = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids
        return tokens

    def _cut(self, ids: list[int], drop: int | None) -> list[Window]:
        if drop is not None:
            ids = [token for token in ids if token != drop]
        if len(ids) <= self.window_tokens:
            return [ids] if ids else []
        if len(ids) <= self.max_windows * self.window_tokens:
            starts: Iterable[int] = range(0, len(ids), self.window_tokens)
        else:
            starts = spread_starts(len(ids), self.max_windows, self.window_tokens)
        return [ids[start : start + self.window_tokens] for start in starts]


def spread_starts(total: int, count: int, length: int) -> list[int]:
    """Return where `count` pieces of `length` begin at even distances: the first at 0, the last to end at `total`."""
    last = total - length
    return [round(last * piece / max(count - 1, 1)) for piece in range(count)]


def spread_slices(text: str, count: int, length: int) -> list[str]:
    """Return `count` slices of `length` characters at even distances, head and tail among them."""
    return [text[start : start + length] for start in spread_starts(len(text), count, length)]


def checked_count(name: str, value: object) -> int:
    """Return `value` if it is an integer >= 1.

    Raises
    ------
    ConfigError
        If it is not; the message names the setting.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{name} must be an integer >= 1, not {value!r}")
    return value


def read_tokenizer(path: Path) -> Tokenizer:
    """Read a ``tokenizer.json``.

    Raises
    ------
    ArtifactCorruptError
        If it is missing or no tokenizer; the message names the file.
    """
    try:
        return Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # tokenizers raises bare Exception
        raise ArtifactCorruptError(f"cannot read {path}: {error}; restore or rebuild it") from error


def _joined(encodings: Iterable[Any]) -> list[int]:
    return [token for encoding in encodings for token in encoding.ids]
