"""From a checkpoint folder or hub id to an engine, with clear errors for everything that can be wrong with it."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmrouter.exceptions import CheckpointError, MissingExtraError
from llmrouter.moe._engine import Engine
from llmrouter.moe._meter import MachinePrice
from llmrouter.moe._options import Pruning, Quantization, SelfContrast
from llmrouter.moe._routing import declared_routing, refuse_unfit, weights_loader
from llmrouter.moe._shaping import check_contrast, choose_experts, quantize_experts, remove_experts, translated
from llmrouter.moe._types import SamplingDefaults
from llmrouter.moe._vocabulary import Vocabulary

if TYPE_CHECKING:
    from llmrouter.moe.experts import Reduction
    from llmrouter.moe.routing import RoutingSettings

# Where the configurations of Hugging Face's mixture-of-experts classes say how many experts a layer has.
_EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_ATTENTION_KINDS = frozenset({"full_attention", "sliding_attention"})
_DTYPES = ("auto", "float32", "bfloat16", "float16")


def load_engine(
    path_or_id: str | os.PathLike[str],
    name: str | None = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    max_batch: int = 32,
    max_queue: int = 256,
    context_window: int | None = None,
    allow_dense: bool = False,
    experts: str = "auto",
    deterministic: bool = False,
    reduction: Reduction | None = None,
    prune: Pruning | None = None,
    quantize: Quantization | None = None,
    contrast: SelfContrast | None = None,
    price: MachinePrice | None = None,
) -> Engine:
    """Load a Hugging Face mixture-of-experts checkpoint into an engine with continuous batching.

    Parameters
    ----------
    path_or_id : str or path
        Folder with config.json, safetensors and tokenizer files, or a hub id. Code from a checkpoint is never run.
        A field ``llmrouter_routing`` in config.json names another router than the class's (`llmrouter.moe.routing`).
    name : str, optional
        The name under which it is served; by default the folder's name or the hub id.
    device : str
        A torch device; "auto" is the first GPU, else the CPU.
    dtype : {"auto", "float32", "bfloat16", "float16"}
        Of weights and computation; "auto" is the checkpoint's on a GPU and float32 on a CPU, where half precision
        is slower and less exact.
    max_batch : int
        Sequences generated at once at most.
    max_queue : int
        Requests that may wait for a place; more are refused.
    context_window : int, optional
        Prompt plus completion tokens, at most (and by default) what the checkpoint's positions allow.
    allow_dense : bool
        Also load a model without experts.
    experts : str
        Implementation of the experts: "auto" is ours where the model's class takes implementations, or a name that
        Hugging Face knows ("eager", "grouped_mm", "batched_mm").
    deterministic : bool
        Compute every request's logits with the same bits whatever requests run beside it; several times as slow.
    reduction : Reduction, optional
        Compute fewer experts for a token than the model's routers choose.
    prune : Pruning, optional
        Remove experts for good, measured on its prompts first.
    quantize : Quantization, optional
        Store experts as integers, after pruning.
    contrast : SelfContrast, optional
        Decode by the contrast with the model's own weaker choice of experts.
    price : MachinePrice, optional
        What the machine costs, for the engine's `load_report`.

    Returns
    -------
    Engine
        Ready for `run`, not started.

    Raises
    ------
    CheckpointError
        If it does not exist, is damaged or incomplete, has no experts, has layers the engine cannot batch, or an option
        does not go with it.
    MissingExtraError
        If torch or transformers is not installed.
    """
    source = _source(path_or_id)
    if dtype not in _DTYPES:
        raise CheckpointError(f"dtype is {dtype!r}; one of {', '.join(_DTYPES)}")
    _require_packages()
    with _quiet_loading():
        config = _load_config(source)
        _check_architecture(source, config, allow_dense=allow_dense)
        routing = declared_routing(source, config)
        refuse_unfit(source, routing, experts=experts, reduction=reduction, prune=prune, contrast=contrast)
        tokenizer = _load_tokenizer(source)
        generation_config = _load_generation_config(source)
        model = _load_model(source, config, routing, device=device, dtype=dtype)
        choose_experts(source, model, experts, deterministic=deterministic, reduction=reduction)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        raise CheckpointError(
            f"{source}: the tokenizer has {len(tokenizer)} tokens, the model only "
            f"{model.get_input_embeddings().num_embeddings}; they do not belong together"
        )
    vocabulary, end_tokens = Vocabulary(tokenizer), _end_tokens(config, tokenizer, generation_config)
    window = _context_window(source, config, context_window)
    if prune is not None:
        remove_experts(source, model, prune, vocabulary=vocabulary, end_tokens=end_tokens, context_window=window)
    if contrast is not None:
        check_contrast(source, model, contrast)
    if quantize is not None:
        quantize_experts(source, model, quantize)
    return Engine(
        model,
        vocabulary,
        name=name or (Path(source).resolve().name if Path(source).is_dir() else source),
        context_window=window,
        end_tokens=end_tokens,
        defaults=SamplingDefaults.from_generation_config(generation_config),
        max_batch=max_batch,
        max_queue=max_queue,
        deterministic=deterministic,
        contrast=contrast,
        price=price,
    )


def _require_packages() -> None:
    for package in ("torch", "transformers", "jinja2"):
        try:
            __import__(package)
        except ImportError as error:
            raise MissingExtraError(package, extra="moe", purpose="Running a local model") from error


def _source(path_or_id: str | os.PathLike[str]) -> str:
    """Return the folder or hub id, refusing what looks like a path and is none (a hub look-up would mislead)."""
    source = os.fspath(path_or_id)
    path = Path(source).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise CheckpointError(f"{source}: no config.json in this folder; give a Hugging Face checkpoint folder")
        return str(path)
    if path.exists():
        raise CheckpointError(f"{source}: this is a file; give the folder of the checkpoint")
    looks_like_path = isinstance(path_or_id, Path) or source.startswith((".", "/", "~")) or source.count("/") != 1
    if looks_like_path:
        raise CheckpointError(f"{source}: no such folder; give a checkpoint folder or a hub id such as org/model")
    return source


def _load_config(source: str) -> Any:
    from transformers import AutoConfig

    with translated(source, "configuration"):
        return AutoConfig.from_pretrained(source, trust_remote_code=False)


def _check_architecture(source: str, config: Any, *, allow_dense: bool) -> None:
    text_config = config.get_text_config()
    counts = [getattr(text_config, name, None) for name in _EXPERT_COUNTS]
    if not allow_dense and not any(isinstance(count, int) and count > 1 for count in counts):
        raise CheckpointError(
            f"{source}: not a mixture-of-experts checkpoint (model type {config.model_type!r} without experts); "
            "serve it with allow_dense=True (--allow-dense) if that is what you want"
        )
    kinds = set(getattr(text_config, "layer_types", None) or ()) - _ATTENTION_KINDS
    if kinds:
        raise CheckpointError(
            f"{source}: layers of kind {', '.join(sorted(kinds))} keep a state that this engine cannot batch; "
            "serve this model with vLLM or SGLang"
        )


def _load_tokenizer(source: str) -> Any:
    from transformers import AutoTokenizer

    with translated(source, "tokenizer"):
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)


def _load_model(source: str, config: Any, routing: RoutingSettings | None, *, device: str, dtype: str) -> Any:
    import torch

    with translated(source, "weights"):
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if dtype == "auto" and torch.device(device).type == "cpu":
            dtype = "float32"
        model, report = weights_loader(config, routing)(
            source,
            config=config,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
        # Hugging Face fills what is missing or does not fit with random numbers and says so in the log only.
        if wrong := [
            f"{name} is {tuple(found)}, not {tuple(wanted)}"
            for name, found, wanted in sorted(report["mismatched_keys"])
        ]:
            raise CheckpointError(f"{source}: weights do not fit config.json: {_some(wrong)}")
        if missing := sorted(map(str, report["missing_keys"])):
            raise CheckpointError(f"{source}: the checkpoint lacks weights: {_some(missing)}")
        return model.to(device).eval()


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _load_generation_config(source: str) -> Mapping[str, Any] | None:
    """Return generation_config.json as it stands, or None: Hugging Face's class does not tell whether there is one."""
    from transformers.utils import cached_file

    with translated(source, "generation_config.json"):
        path = cached_file(source, "generation_config.json", _raise_exceptions_for_missing_entries=False)
        content = json.loads(Path(path).read_text(encoding="utf-8")) if path else None
        if path and not isinstance(content, dict):
            raise CheckpointError(f"{source}: generation_config.json must hold an object")
        return content


def _context_window(source: str, config: Any, wanted: int | None) -> int:
    limit: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    if wanted is None:
        if limit is None:
            raise CheckpointError(f"{source}: the configuration has no max_position_embeddings; give context_window")
        return limit
    if wanted < 2 or (limit is not None and wanted > limit):
        raise CheckpointError(f"{source}: context_window is {wanted}; it must be from 2 to {limit or 'any number'}")
    return wanted


def _end_tokens(config: Any, tokenizer: Any, generation_config: Mapping[str, Any] | None) -> frozenset[int]:
    ends: set[int] = set()
    for end in ((generation_config or {}).get("eos_token_id"), config.eos_token_id, tokenizer.eos_token_id):
        ends.update(end if isinstance(end, list) else [] if end is None else [end])
    return frozenset(ends)


@contextlib.contextmanager
def _quiet_loading() -> Iterator[None]:
    """Silence Hugging Face's progress bars and warnings while a checkpoint loads; problems are raised as errors."""
    from transformers.utils import logging

    verbosity, progress = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if progress:
            logging.enable_progress_bar()
