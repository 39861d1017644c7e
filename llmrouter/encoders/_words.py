"""Tokens of a text by its words, which a BERT tokenizer splits one like the other, and once."""

from __future__ import annotations

import re
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# What BERT's rules leave together of ASCII text: letters and digits, or one mark. White space is dropped.
_WORD = re.compile(r"[A-Za-z0-9]+|[!-/:-@\[-`{-~]")
_PLAIN = re.compile(r"[ -~\t\n\r]*")
# From white space to white space, with some other character in it: below the space, BERT drops those from within words.
_OTHER = re.compile(r"(?<![^ \t\n\r])[!-~]*+[^ -~\t\n\r][^ \t\n\r]*")
_MOST_WORDS = 32_768
_LONGEST = 32
"""Characters of a word that is remembered."""
_NEW_AT_ONCE = 64
"""Words of one text that are split apart; one by one they take three times as long as in their text."""


class Words:
    """The tokens of a text, looked up word by word.

    A BERT tokenizer splits text into words and each word into tokens, whatever stands beside it, so that a word has to
    be split only once. What is not ASCII is looked up as far as it reaches from white space to white space. Safe to use
    from several threads.

    Parameters
    ----------
    tokenizer : tokenizers.Tokenizer
        One that `applies`.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._lowercase: bool = tokenizer.normalizer.lowercase
        self._added = tuple(token.content for token in tokenizer.get_added_tokens_decoder().values())
        self._known: dict[str, list[int]] = {}

    @staticmethod
    def applies(tokenizer: Tokenizer) -> bool:
        """Return whether `tokenizer` splits text by BERT's rules, and takes added tokens as they are written."""
        parts = (tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.model)
        kinds = tuple(type(part).__name__ for part in parts)
        added = tokenizer.get_added_tokens_decoder().values()
        return kinds == ("BertNormalizer", "BertPreTokenizer", "WordPiece") and not any(t.normalized for t in added)

    def tokens(self, text: str) -> list[int] | None:
        """Return the tokens that the tokenizer gives `text`, special tokens not added; None where it must be asked.

        That is text with names of special tokens, with many words that are new, or in a script without spaces.
        """
        for token in self._added:
            if token in text:
                return None
        words = self._split_plain(text) if _PLAIN.fullmatch(text) else self._split_any(text)
        if words is None:
            return None
        known = self._known
        try:
            return list(chain.from_iterable([known[word] for word in words]))
        except KeyError:
            return self._learnt(words)

    def _learnt(self, words: list[str]) -> list[int] | None:
        known = self._known
        found = {word: known[word] for word in words if word in known}
        new = [word for word in dict.fromkeys(words) if word not in found]
        learnt = {word: self._split(word) for word in new[:_NEW_AT_ONCE]}
        if len(known) + len(learnt) > _MOST_WORDS:
            self._known = known = {}
        known.update({word: tokens for word, tokens in learnt.items() if len(word) <= _LONGEST})
        if len(new) > _NEW_AT_ONCE:
            return None
        found |= learnt
        return list(chain.from_iterable([found[word] for word in words]))

    def _split_plain(self, text: str) -> list[str]:
        return _WORD.findall(text.lower() if self._lowercase else text)

    def _split_any(self, text: str) -> list[str] | None:
        words: list[str] = []
        at = 0
        for other in _OTHER.finditer(text):
            if other.end() - other.start() > _LONGEST:
                return None
            words += self._split_plain(text[at : other.start()])
            words.append(other[0])
            at = other.end()
        return words + self._split_plain(text[at:])

    def _split(self, word: str) -> list[int]:
        tokens: list[int] = self._tokenizer.encode_batch_fast([word], add_special_tokens=False)[0].ids
        return tokens
