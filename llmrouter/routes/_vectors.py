"""Texts and conversations as vectors: what they say beyond the talk that all have in common."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmrouter.encoders import Encoder
from llmrouter.routes._conversation import Conversation
from llmrouter.types import FloatArray

DECAY = 0.5
"""Each message of the user before the last counts half as much as the one after it."""

_SAYS_NOTHING = (
    "Hello",
    "Please help me",
    "Thanks, go on",
    "Can you explain that again?",
    "shorter, please",
    "Answer the question",
    "I have a question",
    "What do you think?",
    "Tell me more",
    "Yes, do it",
    "and the next one",
    "Give only the answer",
)


class ConversationEncoder:
    """Encode texts, less what is said of nothing; and conversations, the newest messages of the user added up.

    The mean vector of a dozen utterances without a subject is taken off every vector. A description with everyday
    words ("writing", "explaining") is otherwise like everything: on the train splits of three data sets this raised
    the accuracy of picks by description from 0.69, 0.55 and 0.29 to 0.76, 0.58 and 0.43.

    What is left of a message weighs as much as it is long, times 1 for the last, 1/2 for the one before it, 1/4, ...
    So a follow-up such as "and now shorter" leaves the subject as it was, which joined texts, or vectors of one length,
    do not.

    Parameters
    ----------
    encoder : Encoder
        Of texts.
    turns : int
        Messages of the user that count, at least 1.
    """

    def __init__(self, encoder: Encoder, *, turns: int = 3) -> None:
        self.encoder = encoder
        self.turns = turns
        self._common = np.asarray(encoder.encode(_SAYS_NOTHING), dtype=np.float64).mean(axis=0)

    def encode_texts(self, texts: Sequence[str]) -> FloatArray:
        """Return an array of shape (n, d), rows of unit length; a zero row for a text that the encoder does not know.

        Raises
        ------
        EncoderError
            If a text cannot be encoded.
        """
        return unit_rows(self._beyond_common(texts))

    def encode(self, conversations: Sequence[Conversation]) -> FloatArray:
        """Return an array of shape (n, d), rows of unit length; a zero row where there is no text.

        Raises
        ------
        EncoderError
            If a text cannot be encoded.
        """
        texts: list[str] = []
        rows: list[int] = []
        weights: list[float] = []
        for row, conversation in enumerate(conversations):
            said = [text for role, text in conversation if role == "user" and text.strip()][-self.turns :]
            for age, text in enumerate(reversed(said)):
                texts.append(text)
                rows.append(row)
                weights.append(DECAY**age)
        summed = np.zeros((len(conversations), self.encoder.dimension))
        if texts:
            np.add.at(summed, rows, self._beyond_common(texts) * np.array(weights)[:, None])
        return unit_rows(summed)

    def _beyond_common(self, texts: Sequence[str]) -> FloatArray:
        vectors = np.asarray(self.encoder.encode(texts), dtype=np.float64)
        left: FloatArray = np.where(vectors.any(axis=1, keepdims=True), vectors - self._common, 0.0)
        return left


def unit_rows(X: FloatArray) -> FloatArray:
    """Return X, shape (n, d), with its rows scaled to unit length; zero rows stay."""
    length = np.linalg.norm(X, axis=1, keepdims=True)
    scaled: FloatArray = X / np.where(length > 0, length, 1.0)
    return scaled
