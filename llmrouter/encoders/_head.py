"""A projection head trained over a frozen encoder; at run time a few matrix products in numpy.

CSCR (arXiv 2508.12491) leaves the sentence encoder as it is and trains two bias-free layers behind it, so that prompts
lie near the models that answer them; `training.contrastive` trains and writes such heads.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from llmrouter._files import check_files, json_bytes, read_json_object, sha256_of, write_atomically
from llmrouter.encoders._base import Encoder
from llmrouter.exceptions import ArtifactCorruptError, DataError, EncoderError, FingerprintError
from llmrouter.types import FloatArray

_ALGORITHM = 1
_WEIGHTS = "head.safetensors"


@dataclass(frozen=True)
class ProjectionHead:
    """Bias-free layers with ReLU between them and unit length behind them.

    Attributes
    ----------
    layers : tuple of arrays
        The first of shape (d, h), the last of shape (h, D'); one layer is a linear map, none the identity.
    """

    layers: tuple[FloatArray, ...]

    @classmethod
    def first(cls, sizes: Sequence[int], generator: np.random.Generator) -> Self:
        """Return He's random first weights for layers of these sizes, input first, in float32."""
        shapes = itertools.pairwise(sizes)
        return cls(tuple(generator.normal(scale=(2.0 / a) ** 0.5, size=(a, b)).astype(np.float32) for a, b in shapes))

    def activations(self, X: FloatArray) -> list[FloatArray]:
        """Return input and output of every layer, the last before it is brought to unit length."""
        active = [X]
        for number, layer in enumerate(self.layers):
            value = active[-1] @ layer
            active.append(np.maximum(value, 0.0) if number < len(self.layers) - 1 else value)
        return active

    def project(self, X: FloatArray) -> FloatArray:
        """Return unit rows of shape (n, D') in the precision of X (n, d); a zero row stays zero."""
        return unit(self.activations(X)[-1])[0]

    def arrays(self, prefix: str = "") -> dict[str, FloatArray]:
        """Return the layers by name."""
        return {f"{prefix}layer.{number}": layer for number, layer in enumerate(self.layers)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, FloatArray], prefix: str = "") -> Self:
        """Rebuild from `arrays()`; names without the prefix are left alone."""
        names = [name for name in arrays if name.startswith(f"{prefix}layer.")]
        return cls(tuple(arrays[f"{prefix}layer.{number}"] for number in range(len(names))))


def unit(rows: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the rows (n, D) at unit length and their lengths (n, 1), 1 for a zero row."""
    lengths = np.sqrt((rows * rows).sum(axis=1, keepdims=True))
    lengths = np.where(lengths > 0, lengths, np.ones_like(lengths))
    return rows / lengths, lengths


def save_head(folder: Path, head: ProjectionHead, *, base: str, base_fingerprint: str, about: Mapping[str, Any]) -> str:
    """Write a head for `HeadEncoder` into `folder` and return the SHA-256 of its weights.

    Parameters
    ----------
    folder : Path
        Made where it is missing.
    head : ProjectionHead
        At least one layer.
    base, base_fingerprint : str
        Name of the frozen encoder, as `load_encoder` takes it, and its fingerprint.
    about : mapping
        How it was trained; JSON values.

    Raises
    ------
    DataError
        If the head has no layer.
    """
    if not head.layers:
        raise DataError("head has 0 layers, which is the frozen encoder itself; save a head of one layer or more")
    layers = {name: np.ascontiguousarray(layer, dtype=np.float32) for name, layer in head.arrays().items()}
    write_atomically(folder / _WEIGHTS, save(layers))
    digest = sha256_of(folder / _WEIGHTS)
    config = {
        "kind": "head",
        "layout": 1,
        "base": base,
        "base_fingerprint": base_fingerprint,
        "shape": [int(head.layers[0].shape[0]), *(int(layer.shape[1]) for layer in head.layers)],
        "files": {_WEIGHTS: digest},
        "training": dict(about),
    }
    write_atomically(folder / "config.json", json_bytes(config))  # last: a folder that was broken off has none
    return digest


class HeadEncoder:
    """A frozen encoder with a trained projection head behind it. No torch.

    Parameters
    ----------
    folder : str or Path
        Folder with ``head.safetensors`` and ``config.json``, as `training.contrastive` writes it.
    base : str, optional
        The frozen encoder, where it is to be found under another name than the one recorded.

    Raises
    ------
    EncoderError
        If the folder does not exist or holds something else.
    ArtifactCorruptError
        If a file is missing, truncated or has another hash than recorded; the message names it.
    FingerprintError
        If the encoder is not the one the head was trained on.
    """

    def __init__(self, folder: str | Path, *, base: str | None = None) -> None:
        from llmrouter.encoders._load import load_encoder

        self.folder = Path(folder)
        self._head, config = read_head(self.folder)
        self._base: Encoder = load_encoder(config["base"] if base is None else base)
        if self._base.fingerprint != config["base_fingerprint"]:
            raise FingerprintError(
                f"{self.folder}: the head was trained on the encoder {config['base_fingerprint']}, but "
                f"{config['base'] if base is None else base!r} is {self._base.fingerprint}; load that encoder, or "
                "train a head on this one with python -m training.contrastive"
            )
        if self._base.dimension != self._head.layers[0].shape[0]:
            raise ArtifactCorruptError(
                f"{self.folder}: the head takes {self._head.layers[0].shape[0]} dimensions, the encoder gives "
                f"{self._base.dimension}; restore or retrain it"
            )
        named = f"{_ALGORITHM}/{self._base.fingerprint}/{config['files'][_WEIGHTS]}"
        self._fingerprint = f"head-{self.dimension}-{hashlib.sha256(named.encode()).hexdigest()[:16]}"

    @property
    def fingerprint(self) -> str:
        """Name of the frozen encoder and the head's weights."""
        return self._fingerprint

    @property
    def dimension(self) -> int:
        """Length D' of the vectors."""
        return int(self._head.layers[-1].shape[1])

    def encode(self, texts: Sequence[str], /) -> FloatArray:
        """Return an array of shape (n, D'), float32, rows of unit length (a zero row for a text without tokens).

        A row does not depend on the other texts.
        """
        vectors = self._base.encode(texts).astype(np.float64)
        projected = np.zeros((len(vectors), self.dimension), dtype=np.float32)
        for row, vector in enumerate(vectors):  # one by one: a product of all rows would round by how many there are
            projected[row] = self._head.project(vector[None])[0]
        return projected

    def count_tokens(self, text: str, /) -> int:
        """Return the frozen encoder's count of tokens."""
        return self._base.count_tokens(text)


def read_head(folder: Path) -> tuple[ProjectionHead, dict[str, Any]]:
    """Return head and config of a folder that `save_head` wrote.

    Raises
    ------
    EncoderError, ArtifactCorruptError
        As `HeadEncoder`.
    """
    if not folder.is_dir():
        raise EncoderError(f"head encoder: there is no folder {folder}; train one with python -m training.contrastive")
    config = read_json_object(folder / "config.json")
    if config.get("kind") != "head":
        raise EncoderError(f"{folder / 'config.json'}: kind is {config.get('kind')!r}, a head has 'head'")
    if _WEIGHTS not in check_files(folder, config.get("files")):
        raise ArtifactCorruptError(f"{folder / 'config.json'} records no hash of {_WEIGHTS}; train the head again")
    try:
        head = ProjectionHead.from_arrays(load_file(folder / _WEIGHTS))
    except (SafetensorError, OSError) as error:
        raise ArtifactCorruptError(f"cannot read {folder / _WEIGHTS}: {error}; restore or retrain it") from error
    shape = [*(layer.shape[0] for layer in head.layers[:1]), *(layer.shape[1] for layer in head.layers)]
    if not head.layers or shape != config.get("shape"):
        raise ArtifactCorruptError(
            f"{folder}: head.safetensors has the shape {shape}, config.json says {config.get('shape')}; retrain it"
        )
    return head, config
