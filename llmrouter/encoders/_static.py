"""The gateway's default encoder: a table of token vectors, averaged. No neural network at run time.

The table is distilled from a sentence encoder by `training.distill` in the manner of Model2Vec (Tulkens and van
Dongen, "Model2Vec: fast state-of-the-art static embeddings", 2024).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from llmrouter._files import check_files, read_json_object
from llmrouter.encoders._inputs import checked_texts
from llmrouter.encoders._windows import WindowedTokenizer, read_tokenizer
from llmrouter.exceptions import ArtifactCorruptError, EncoderError
from llmrouter.types import FloatArray

DEFAULT_FOLDER = Path(__file__).parent.parent / "assets" / "static"

# Part of the fingerprint: to be raised whenever the same files and settings begin to give other vectors.
_ALGORITHM = 1

_BATCH = 512


class StaticEncoder:
    """Mean of token vectors, of unit length.

    Parameters
    ----------
    path : str or Path, optional
        Folder with ``table.safetensors``, ``tokenizer.json`` and ``config.json``, as `training.distill` writes it;
        None is the table shipped with the package (all-MiniLM-L6-v2, 256 dimensions).
    max_windows, window_tokens : int
        A text is seen whole up to ``max_windows * window_tokens`` tokens; of a longer one, that many windows at even
        distances, with its head and its tail (see `llmrouter.encoders._windows`).

    Raises
    ------
    EncoderError
        If the folder does not exist or is of another kind.
    ArtifactCorruptError
        If a file is missing, truncated or has another hash than recorded; the message names it.

    Notes
    -----
    Unknown tokens have no vector and are left out; a text with no known token gives a zero row. The table stays in
    half precision in memory (15 MB); sums are in single precision. Safe to use from several threads.
    """

    def __init__(self, path: str | Path | None = None, *, max_windows: int = 8, window_tokens: int = 512) -> None:
        self.path = DEFAULT_FOLDER if path is None else Path(path)
        self._config, hashes = _read_config(self.path)
        self._table = _read_table(self.path / "table.safetensors")
        tokenizer = read_tokenizer(self.path / "tokenizer.json")
        if tokenizer.get_vocab_size() != len(self._table):
            raise ArtifactCorruptError(
                f"{self.path}: tokenizer.json has {tokenizer.get_vocab_size()} tokens, table.safetensors "
                f"{len(self._table)} rows; rebuild the folder with python -m training.distill"
            )
        unknown = getattr(tokenizer.model, "unk_token", None)
        self._unknown = tokenizer.token_to_id(unknown) if unknown else None
        self._tokenizer = WindowedTokenizer(tokenizer, max_windows=max_windows, window_tokens=window_tokens)
        settings = f"{_ALGORITHM}/{max_windows}/{window_tokens}"
        digest = hashlib.sha256(f"{sorted(hashes.items())}/{settings}".encode()).hexdigest()
        self._fingerprint = f"static-{self._config.get('name', 'table')}-{digest[:16]}"

    @property
    def fingerprint(self) -> str:
        """Name of weights and settings."""
        return self._fingerprint

    @property
    def dimension(self) -> int:
        """Length d of the vectors."""
        return int(self._table.shape[1])

    def encode(self, texts: Sequence[str], /) -> FloatArray:
        """Return an array of shape (n, d), float32, rows of unit length (a zero row for a text without known tokens).

        A row does not depend on the other texts.

        Raises
        ------
        EncoderError
            If `texts` is not a sequence of strings; the message names the position.
        """
        texts = checked_texts(texts)
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for start in range(0, len(texts), _BATCH):
            ids = self._ids(texts[start : start + _BATCH])
            known = [row for row, tokens in enumerate(ids) if tokens]
            if known:
                vectors[[start + row for row in known]] = self._pooled([ids[row] for row in known])
        return vectors

    def count_tokens(self, text: str, /) -> int:
        """Return the number of tokens of `text` before any windowing (an estimate above 65,536 characters)."""
        return self._tokenizer.count(checked_texts([text])[0])

    @property
    def table(self) -> FloatArray:
        """Vectors of all tokens, (v, d), float16; not to be written to."""
        return self._table

    def token_ids(self, texts: Sequence[str], /) -> list[list[int]]:
        """Return the known tokens of each text whose vectors `encode` averages, none for a text without any.

        Raises
        ------
        EncoderError
            If `texts` is not a sequence of strings; the message names the position.
        """
        return self._ids(checked_texts(texts))

    def _ids(self, texts: list[str]) -> list[list[int]]:
        windows = self._tokenizer.windows_of_all(texts, drop=self._unknown)
        # A token-weighted mean of window means is the mean over all their tokens.
        return [list(chain.from_iterable(of_text)) for of_text in windows]

    def _pooled(self, ids: list[list[int]]) -> FloatArray:
        """Return the unit mean of the vectors of each list of tokens, none of them empty."""
        starts = [0, *accumulate(len(tokens) for tokens in ids[:-1])]
        gathered = self._table.take(np.array(list(chain.from_iterable(ids))), axis=0)
        summed: FloatArray = np.add.reduceat(gathered, starts, axis=0, dtype=np.float32)
        length = np.sqrt((summed * summed).sum(axis=1, keepdims=True))
        np.divide(summed, length, out=summed, where=length > 0)
        return summed


def _read_config(folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    if not folder.is_dir():
        raise EncoderError(
            f"static encoder: there is no folder {folder}; make one with python -m training.distill --out {folder}"
        )
    config = read_json_object(folder / "config.json")
    if config.get("kind") != "static":
        raise EncoderError(f"{folder / 'config.json'}: kind is {config.get('kind')!r}, a static table has 'static'")
    hashes = check_files(folder, config.get("files"))
    for name in ("table.safetensors", "tokenizer.json"):
        if name not in hashes:
            raise ArtifactCorruptError(f"{folder / 'config.json'} records no hash of {name}; rebuild the folder")
    return config, hashes


def _read_table(path: Path) -> FloatArray:
    try:
        with safe_open(path, framework="numpy") as file:
            table: FloatArray = file.get_tensor("table")
    except (SafetensorError, OSError) as error:
        raise ArtifactCorruptError(f"cannot read {path}: {error}; restore or rebuild it") from error
    if table.ndim != 2 or table.dtype != np.float16:
        raise ArtifactCorruptError(f"{path}: the table must be (tokens, d) float16, not {table.shape} {table.dtype}")
    return table
