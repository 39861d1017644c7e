"""A sentence encoder exported to ONNX, run by onnxruntime. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmrouter._files import check_files, read_json_object
from llmrouter.encoders._batches import encode_windows, special_tokens
from llmrouter.encoders._inputs import checked_texts
from llmrouter.encoders._windows import Window, WindowedTokenizer, checked_count, read_tokenizer
from llmrouter.exceptions import ArtifactCorruptError, ConfigError, EncoderError, MissingExtraError
from llmrouter.types import FloatArray

_ALGORITHM = 2
# onnxruntime's kernel for a sum followed by a layer norm takes longer on a CPU than the two one by one: without it
# MiniLM in int8 needs 0.8 of the time for 40 tokens (measured with onnxruntime 1.32).
_SLOW_FUSIONS = ["SkipLayerNormFusion"]
_FLOAT_BATCH = 32


class OnnxEncoder:
    """Sentence encoder in onnxruntime.

    Parameters
    ----------
    folder : str or Path
        Folder with ``model.onnx``, ``tokenizer.json`` and ``config.json``, as `training.export_onnx` writes it.
    threads : int
        Threads of one network run; 1 keeps a gateway's latency even under load.
    max_windows : int
        Windows a text at most, their vectors averaged by their tokens; of a longer text, that many at even distances,
        with its head and its tail (see `llmrouter.encoders._windows`).
    window_tokens : int, optional
        Tokens a window; None is what the model takes, less its special tokens.
    batch_size : int, optional
        Windows that go through the network together; None is 32, and 1 for an int8 model: its activations are scaled
        by the largest value of the batch, so that a text's vector would depend on its company.

    Raises
    ------
    MissingExtraError
        If onnxruntime is not installed.
    EncoderError
        If the folder does not exist or holds something else.
    ArtifactCorruptError
        If a file is missing, truncated or has another hash than recorded; the message names it.
    """

    runs_network = True
    """Encoding is dear beside a look-up: see `llmrouter.encoders.cached_encoder`."""

    def __init__(
        self,
        folder: str | Path,
        *,
        threads: int = 1,
        max_windows: int = 8,
        window_tokens: int | None = None,
        batch_size: int | None = None,
    ) -> None:
        self.folder = Path(folder)
        checked_count("threads", threads)
        config, hashes = _read_config(self.folder)
        self._dimension = int(config["dimension"])
        tokenizer = read_tokenizer(self.folder / "tokenizer.json")
        self._specials = special_tokens(tokenizer)
        room = int(config["max_tokens"]) - len(self._specials)
        window_tokens = room if window_tokens is None else checked_count("window_tokens", window_tokens)
        if window_tokens > room:
            raise ConfigError(f"window_tokens must be 1 to {room} for {config['name']!r}, not {window_tokens}")
        self._windows = WindowedTokenizer(tokenizer, max_windows=max_windows, window_tokens=window_tokens)
        if batch_size is None:
            batch_size = 1 if config["precision"] == "int8" else _FLOAT_BATCH
        self._batch_size = checked_count("batch_size", batch_size)
        self._session = _open_session(self.folder / "model.onnx", threads)
        settings = f"{sorted(hashes.items())}/{_ALGORITHM}/{max_windows}/{window_tokens}"
        digest = hashlib.sha256(settings.encode()).hexdigest()
        self._fingerprint = f"onnx-{config['name']}-{config['precision']}-{digest[:16]}"

    @property
    def fingerprint(self) -> str:
        """Name of weights and settings."""
        return self._fingerprint

    @property
    def dimension(self) -> int:
        """Length d of the vectors."""
        return self._dimension

    def encode(self, texts: Sequence[str], /) -> FloatArray:
        """Return an array of shape (n, d), float32, rows of unit length (a zero row for a text without tokens).

        Raises
        ------
        EncoderError
            If `texts` is not a sequence of strings; the message names the position.
        """
        windows = self._windows.windows_of_all(checked_texts(texts))
        return encode_windows(windows, self._embed, dimension=self.dimension, batch_size=self._batch_size)

    def count_tokens(self, text: str, /) -> int:
        """Return the number of tokens of `text` before any windowing (an estimate above 65,536 characters)."""
        return self._windows.count(checked_texts([text])[0])

    def _embed(self, windows: list[Window]) -> FloatArray:
        sequences = [self._specials.around(window) for window in windows]
        shape = (len(sequences), max(map(len, sequences)))
        tokens = np.zeros(shape, dtype=np.int64)  # any id pads: what the mask hides does not reach the result
        mask = np.zeros(shape, dtype=np.int64)
        for row, sequence in enumerate(sequences):
            tokens[row, : len(sequence)] = sequence
            mask[row, : len(sequence)] = 1
        try:
            (vectors,) = self._session.run(None, {"input_ids": tokens, "attention_mask": mask})
        except Exception as error:  # onnxruntime's errors have no common base
            raise EncoderError(f"{self.folder / 'model.onnx'} failed on a batch of shape {shape}: {error}") from error
        embedded: FloatArray = vectors
        return embedded


def _read_config(folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    if not folder.is_dir():
        raise EncoderError(
            f"onnx encoder: there is no folder {folder}; make one with python -m training.export_onnx --out {folder}"
        )
    path = folder / "config.json"
    config = read_json_object(path)
    if config.get("kind") != "onnx":
        raise EncoderError(f"{path}: kind is {config.get('kind')!r}, an exported encoder has 'onnx'")
    for name, expected in {"name": str, "dimension": int, "max_tokens": int, "precision": str}.items():
        if not isinstance(config.get(name), expected):
            raise ArtifactCorruptError(f"{path}: {name} must be {expected.__name__}, not {config.get(name)!r}")
    hashes = check_files(folder, config.get("files"))
    for name in ("model.onnx", "tokenizer.json"):
        if name not in hashes:
            raise ArtifactCorruptError(f"{path} records no hash of {name}; rebuild the folder")
    return config, hashes


def _open_session(path: Path, threads: int) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("onnxruntime", extra="onnx", purpose="the onnx encoder") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(
            path.read_bytes(), options, providers=["CPUExecutionProvider"], disabled_optimizers=_SLOW_FUSIONS
        )
    except Exception as error:  # onnxruntime's errors have no common base
        raise ArtifactCorruptError(f"onnxruntime cannot load {path}: {error}") from error
