"""The form of a prompt beside its meaning: length, characters, layout.

Sentence encoders are trained to see through form, and averaging token vectors loses length and layout altogether. But
form tells tasks apart (multiple choice, code, word problem, bare question), and tasks decide which model does well:
measured by cross-validation on train splits, form features raised the quality of nearly every router on nearly every
data set (`training/LOG.md`).
"""

from __future__ import annotations

import hashlib
import string
from collections.abc import Sequence

import numpy as np

from llmrouter.encoders._base import Encoder
from llmrouter.encoders._inputs import checked_texts
from llmrouter.exceptions import ConfigError
from llmrouter.types import FloatArray

# Part of the fingerprint: to be raised whenever the same settings begin to give other vectors.
_ALGORITHM = 1

_BYTES = 256
_CLASSES: dict[str, str] = {
    "lower": string.ascii_lowercase,
    "upper": string.ascii_uppercase,
    "digit": string.digits,
    "blank": " ",
    "line": "\n",
    "stop": ".,;:",
    "question": "?",
    "exclamation": "!",
    "round": "()",
    "square": "[]{}",
    "arithmetic": "+-*/=<>^%",
    "tex": "\\$",
    "quote": "'\"",
    "code": "_`#@&|~",
}
_MARKS = (
    "ends ?",
    "ends .",
    "ends :",
    "starts upper",
    "starts digit",
    "fence",
    "def",
    "return",
    "options",
    "link",
    "gap",
)

# Mean and spread of every feature over the train prompts of five public outcome sets and of the pocket prompts, each
# set weighted alike: (bytes, words, bytes a word), marks, log counts by class, root shares by class.
# fmt: off
_CENTRE = np.array([
    5.16, 3.43, 6.38, 0.172, 0.234, 0.356, 0.915, 0.00416, 0.061, 0.0107, 0.059, 0.449, 0.00285, 0.0918, 4.62, 1.82,
    0.867, 3.29, 0.988, 1.62, 0.361, 0.0225, 0.489, 0.243, 0.438, 0.238, 0.561, 0.298, 0.294, 0.809, 0.173, 0.0821,
    0.39, 0.0753, 0.143, 0.0422, 0.00291, 0.0348, 0.0188, 0.0322, 0.0208, 0.0416, 0.0214, 0.0454,
])
_SPREAD = np.array([
    0.997, 0.949, 4.45, 0.378, 0.424, 0.479, 0.279, 0.0644, 0.239, 0.103, 0.236, 0.497, 0.0533, 0.289, 1.38, 0.865,
    1.13, 1.01, 0.898, 0.918, 0.36, 0.144, 0.82, 0.647, 0.793, 0.672, 0.901, 0.761, 1.11, 0.177, 0.0654, 0.116,
    0.0624, 0.0674, 0.0683, 0.0507, 0.02, 0.0594, 0.0519, 0.0605, 0.0603, 0.0676, 0.0519, 0.191,
])
# fmt: on
_FARTHEST = 4.0


def _class_matrix() -> FloatArray:
    matrix = np.zeros((_BYTES, len(_CLASSES) + 1))
    for column, characters in enumerate(_CLASSES.values()):
        matrix[[ord(character) for character in characters], column] = 1.0
    matrix[128:, -1] = 1.0  # bytes of characters beyond ASCII
    return matrix


_MATRIX = _class_matrix()
_BLANK, _LINE = list(_CLASSES).index("blank"), list(_CLASSES).index("line")
_SIZES = 3
_FIRST_COUNT = _SIZES + len(_MARKS)
_FIRST_SHARE = _FIRST_COUNT + len(_CLASSES) + 1


def form_features(texts: Sequence[str]) -> FloatArray:
    """Return the raw form features of texts, shape (n, 44): sizes, marks, log counts and root shares of characters.

    A row does not depend on the other texts.
    """
    encoded = [np.frombuffer(text.encode("utf-8", "replace"), dtype=np.uint8) for text in texts]
    lengths = np.array([len(data) for data in encoded], dtype=np.float64)
    # Sums of whole numbers: exact in whatever order they are added, and so the same in every batch.
    counts = np.array([np.bincount(data, minlength=_BYTES) for data in encoded]) @ _MATRIX
    features = np.empty((len(texts), len(_CENTRE)))
    words = counts[:, _BLANK] + counts[:, _LINE] + 1.0
    features[:, 0] = np.log1p(lengths)
    features[:, 1] = np.log1p(words)
    features[:, 2] = lengths / words
    features[:, _SIZES:_FIRST_COUNT] = [_marks(text) for text in texts]
    features[:, _FIRST_COUNT:_FIRST_SHARE] = np.log1p(counts)
    features[:, _FIRST_SHARE:] = np.sqrt(counts / np.maximum(lengths, 1.0)[:, None])
    return features


def _marks(text: str) -> tuple[bool, ...]:
    stripped = text.strip()
    last, first = stripped[-1:], stripped[:1]
    return (
        last == "?",
        last == ".",
        last == ":",
        first.isupper(),
        first.isdigit(),
        "```" in text,
        "def " in text,
        "return" in text,
        "\nA" in text or " A." in text or "(A)" in text,
        "http" in text,
        "\n\n" in text,
    )


def with_form(meaning: FloatArray, texts: Sequence[str], weight: float) -> FloatArray:
    """Return the vectors of meaning (n, d) of texts with their form appended, (n, d + 44), float32, unit rows.

    A zero row of `meaning` gives a zero row; `weight` as in `FormEncoder`.
    """
    width = meaning.shape[1]
    vectors = np.zeros((len(texts), width + len(_CENTRE)), dtype=np.float32)
    if not len(texts):
        return vectors
    form = (form_features(texts) - _CENTRE) / _SPREAD
    form = np.minimum(np.maximum(form, -_FARTHEST), _FARTHEST).astype(np.float32)
    form *= np.float32(weight)
    length = np.sqrt(1.0 + (form * form).sum(axis=1, dtype=np.float64)).astype(np.float32)[:, None]
    np.divide(meaning, length, out=vectors[:, :width])
    np.divide(form, length, out=vectors[:, width:])
    vectors[~meaning.any(axis=1)] = 0.0
    return vectors


class FormEncoder:
    """Another encoder's vector with the prompt's form appended, of unit length.

    Parameters
    ----------
    base : str
        Name of the encoder of meaning, as `load_encoder` takes it.
    weight : float
        Length of one standard deviation of a form feature beside a meaning vector of length 1. 0.12 was chosen by
        cross-validation on train splits; below 0.05 the form is lost, above 0.3 it drowns the meaning.

    Raises
    ------
    ConfigError
        If `weight` is not a number > 0.

    Notes
    -----
    A text in which the base encoder knows no token gives a zero row. Safe in several threads where the base is.
    """

    def __init__(self, base: str = "static", *, weight: float = 0.12) -> None:
        from llmrouter.encoders._load import load_encoder

        if not (isinstance(weight, int | float) and 0 < weight < np.inf):
            raise ConfigError(f"weight must be a finite number > 0; got {weight!r}", path="encoder.form")
        self._base: Encoder = load_encoder(base)
        self._weight = float(weight)
        digest = hashlib.sha256(f"{_ALGORITHM}/{self._base.fingerprint}/{weight!r}".encode()).hexdigest()
        self._fingerprint = f"form-{self._base.fingerprint[:60]}-{digest[:16]}"

    @property
    def fingerprint(self) -> str:
        """Name of the base encoder and settings."""
        return self._fingerprint

    @property
    def dimension(self) -> int:
        """Length d of the vectors."""
        return self._base.dimension + len(_CENTRE)

    @property
    def runs_network(self) -> bool:
        """Whether the base encoder does."""
        return getattr(self._base, "runs_network", False)

    def encode(self, texts: Sequence[str], /) -> FloatArray:
        """Return an array of shape (n, d), float32, rows of unit length (a zero row for a text without known tokens).

        A row does not depend on the other texts.

        Raises
        ------
        EncoderError
            If `texts` is not a sequence of strings; the message names the position.
        """
        texts = checked_texts(texts)
        return with_form(self._base.encode(texts), texts, self._weight)

    def count_tokens(self, text: str, /) -> int:
        """Return the base encoder's count of tokens."""
        return self._base.count_tokens(text)
