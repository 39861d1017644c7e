"""Text as it grows token by token: never half a character, never a part of a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from llmrouter.moe._vocabulary import Vocabulary

_REPLACEMENT = "\ufffd"
_MAX_PARTIAL = 3  # bytes of an incomplete UTF-8 character, each of which may decode to a replacement character
_CONTEXT_TOKENS = 16  # shortening the context costs a second decoding, keeping it costs a longer one
_MAX_HELD_TOKENS = 32  # after so many tokens without a clean border, what is decoded counts as final


class TextStream:
    """Turn token ids into text that can be sent at once.

    Text is held back while its last character may be incomplete and while its end may be the beginning of a stop
    string. The pieces that `push` and `finish` return, joined, are the completion's text.

    Parameters
    ----------
    vocabulary : Vocabulary
        Decodes tokens.
    stop_strings : sequence of str
        Generation ends before the first that appears.
    kept_tokens : frozenset of int
        Special tokens that stay in the text.
    """

    def __init__(
        self, vocabulary: Vocabulary, stop_strings: Sequence[str] = (), *, kept_tokens: frozenset[int] = frozenset()
    ) -> None:
        self._vocabulary = vocabulary
        self._kept_tokens = kept_tokens
        self._stops = tuple(stop_strings)
        # Decoding depends on the tokens before (a leading space, a joined word): decode from a border that is one
        # clean stretch back, and take what comes after that stretch's text.
        self._context: list[int] = []
        self._context_text = ""
        self._fresh: list[int] = []
        self._taken = 0  # characters of the fresh tokens' text that were taken already
        self._pending = ""
        self.decoded = 0
        self.released = 0
        self.stopped = False

    def push(self, token: int) -> str:
        """Add a token and return the text that is now final ("" for none). Sets `stopped` at a stop string."""
        self._fresh.append(token)
        return self._release(self._decode(final=False), final=False)

    def finish(self) -> str:
        """Return what was held back, as the sequence has ended."""
        return self._release(self._decode(final=True), final=True)

    def _decode(self, *, final: bool) -> str:
        if not self._fresh:
            return ""
        text = self._decoded(self._context + self._fresh)[len(self._context_text) :]
        if final or len(self._fresh) >= _MAX_HELD_TOKENS:
            stable = text
        else:
            partial = len(text) - len(text.rstrip(_REPLACEMENT))
            stable = text[: len(text) - min(partial, _MAX_PARTIAL)]
        new = stable[self._taken :]
        if stable == text:
            self._move_border(text)
        else:
            self._taken = max(self._taken, len(stable))
        self.decoded += len(new)
        return new

    def _decoded(self, tokens: Sequence[int]) -> str:
        return self._vocabulary.decode(tokens, kept=self._kept_tokens)

    def _move_border(self, text: str) -> None:
        """Count the fresh tokens, whose text is `text`, among the context; shorten it from time to time."""
        if len(self._context) < _CONTEXT_TOKENS:
            self._context += self._fresh
            self._context_text += text
        else:
            self._context = self._fresh
            self._context_text = self._decoded(self._context)
        self._fresh, self._taken = [], 0

    def _release(self, new: str, *, final: bool) -> str:
        self._pending += new
        hits = [place for place in map(self._pending.find, self._stops) if place >= 0]
        if hits:
            self.stopped = True
            ready, self._pending = self._pending[: min(hits)], ""
        else:
            held = 0 if final else self._possible_stop()
            border = len(self._pending) - held
            ready, self._pending = self._pending[:border], self._pending[border:]
        self.released += len(ready)
        return ready

    def _possible_stop(self) -> int:
        """Return how many of the last characters may be the beginning of a stop string."""
        longest = max(map(len, self._stops), default=0) - 1
        for size in range(min(longest, len(self._pending)), 0, -1):
            tail = self._pending[-size:]
            if any(stop.startswith(tail) for stop in self._stops):
                return size
        return 0
