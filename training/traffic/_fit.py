"""Fine-tune a sentence encoder end to end on a table of outcomes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmrouter._files import json_bytes, read_json_object, sha256_of, write_atomically
from llmrouter.encoders._sources import ModelSource, resolve_source
from llmrouter.exceptions import ConfigError, DataError, EncoderError, FingerprintError
from llmrouter.outcomes import OutcomeTable
from llmrouter.types import FloatArray, IntArray
from training.contrastive import _modules, _trainer
from training.contrastive._trainer import TrainingSettings
from training.export_onnx import _check_pooling
from training.traffic._objective import outcome_loss, profile_loss, residuals

Say = Callable[[str], None]
RECORD = "llmrouter_training.json"
_PART = 8
_READOUT_SCALE = 10.0
"""Cosines times this are logits: unit vectors could not say more than e^1 to 1 otherwise."""


@dataclass(frozen=True)
class Objective:
    """What is learned.

    Attributes
    ----------
    profiles, outcomes : float
        Weights of the two losses, see `training.traffic._objective`; 0 leaves one out.
    temperature : float
        Of the cosines between prompts.
    sharpness : float
        Of the agreement between profiles.
    """

    profiles: float = 1.0
    outcomes: float = 1.0
    temperature: float = 0.1
    sharpness: float = 3.0

    def __post_init__(self) -> None:
        for name in ("profiles", "outcomes", "sharpness"):
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ConfigError(f"{name} must be a finite number >= 0; got {getattr(self, name)!r}")
        if not (np.isfinite(self.temperature) and self.temperature > 0):
            raise ConfigError(f"temperature must be a finite number > 0; got {self.temperature!r}")
        if not self.profiles and not self.outcomes:
            raise ConfigError("profiles and outcomes are both 0, so that nothing would be learned; set one above 0")

    def loss(self, vectors: Any, readout: Any, bias: Any, profiles: Any, quality: Any) -> Any:
        """Return the weighted sum of both losses of one batch."""
        loss = vectors.sum() * 0.0
        if self.profiles:
            found = profile_loss(vectors, profiles, temperature=self.temperature, sharpness=self.sharpness)
            loss = loss + self.profiles * found
        if self.outcomes:
            loss = loss + self.outcomes * outcome_loss(vectors * _READOUT_SCALE, readout, bias, quality)
        return loss


def tokenizer_sha256(folder: Path) -> str:
    """Return the SHA-256 of a model's fast tokenizer.

    Raises
    ------
    EncoderError
        If there is none.
    """
    path = folder / "tokenizer.json"
    if not path.exists():
        raise EncoderError(f"{folder} has no tokenizer.json; choose a model with a fast tokenizer")
    return sha256_of(path)


def train_weights(
    train: OutcomeTable,
    out: Path,
    *,
    encoder: str | Path,
    settings: TrainingSettings,
    objective: Objective,
    longest: int,
    say: Say = print,
) -> tuple[Path, Mapping[str, Any]]:
    """Fine-tune `encoder` on all prompts of `train` and write its weights; return their folder and the progress.

    Parameters
    ----------
    train : OutcomeTable
        Prompts to learn from; a share of them is held out to stop by.
    out : Path
        Holds ``checkpoint.safetensors`` and ``weights/``.
    encoder : str or Path
        ``minilm``, a folder or a hub id.
    settings : TrainingSettings
        Of the run.
    objective : Objective
        What is learned.
    longest : int
        Tokens of a text at most, in training.
    say : callable
        Takes one line of progress.

    Raises
    ------
    DataError
        If no outcome is observed.
    ConfigError
        If `longest` is not what the model takes.
    EncoderError
        If the encoder cannot be had or exported, or its tokenizer is not its own.
    FingerprintError
        If `out` holds the checkpoint of another encoder, tokenizer, data or settings.
    """
    import torch

    y = checked_quality(train)
    source = resolve_source(encoder)
    check_layers(source)
    texts = train.router_texts()
    learn, held_out = settings.split(len(texts))
    place = _trainer.device()
    torch.manual_seed(settings.seed)  # of what the source lacks, e.g. BERT's unused pooler: it is saved as well
    module: Any = _modules.encoder_module(source, y.shape[1], spread=0.0, seed=settings.seed)
    check_tokens(source, module, longest)
    module = module.to(place)
    tokens = _modules.Tokens(source, texts, longest=longest)
    profiles, quality, bias = (
        torch.tensor(np.asarray(values, dtype=np.float32), device=place)
        for values in (residuals(y, learn), y, logits_of_means(y[learn]))
    )
    say(f"{train.name}: {len(learn)} prompts, {len(held_out)} held out, {y.shape[1]} models; {source.name} on {place}")

    def loss_of(current: Any, batch: IntArray, generator: np.random.Generator, learning: bool) -> Any:
        del generator, learning
        chosen = torch.as_tensor(batch, device=place)
        vectors = _encoded(current, tokens, batch, place)
        return objective.loss(vectors, current.models, bias, profiles[chosen], quality[chosen])

    identity = {
        "method": "traffic", "encoder": source.weights_sha256, "tokenizer": tokenizer_sha256(source.folder),
        "longest": longest, "data": data_hash(train), "objective": asdict(objective),
    }  # fmt: skip
    progress = _trainer.run(
        module, loss_of, rows=(learn, held_out), settings=settings, folder=out, identity=identity, say=say
    )
    folder = out / "weights"
    _modules.save_encoder(module, source, folder)
    record = {
        "source": source.name, "source_sha256": source.weights_sha256, "method": "traffic",
        "weights_sha256": resolve_source(folder).weights_sha256, "tokenizer_sha256": tokenizer_sha256(folder),
        "objective": asdict(objective), "longest": longest, "data": identity["data"],
    }  # fmt: skip
    write_atomically(folder / RECORD, json_bytes(record))  # last: a folder that was broken off is refused
    return folder, progress


def read_weights(folder: Path) -> tuple[ModelSource, dict[str, Any]]:
    """Return the weights that `train_weights` wrote into `folder`, and what it recorded.

    Raises
    ------
    EncoderError
        If the folder holds none.
    FingerprintError
        If weights or tokenizer are not those recorded.
    """
    if not (folder / RECORD).exists():
        raise EncoderError(f"{folder} holds no fitted encoder; make one with python -m training.traffic fit-encoder")
    record, source = read_json_object(folder / RECORD), resolve_source(folder)
    for name, found in (
        ("weights_sha256", source.weights_sha256),
        ("tokenizer_sha256", tokenizer_sha256(folder)),
    ):
        if record.get(name) != found:
            raise FingerprintError(
                f"{folder}: {name} was {record.get(name)!r} when the encoder was fitted, now it is {found!r}; "
                "restore the folder or fit the encoder again"
            )
    return dataclasses.replace(source, name=f"{record['source']}-fitted"), record


def check_layers(source: ModelSource) -> None:
    """Refuse, before hours are spent, a model that cannot be exported once it is trained.

    Raises
    ------
    EncoderError
        If it does not pool by the mean, or has layers behind the pooling.
    """
    _check_pooling(source)
    path = source.folder / "modules.json"
    modules = json.loads(path.read_bytes()) if path.exists() else []
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
    further = [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]
    if further:
        raise EncoderError(
            f"{path}: the model has the layers {', '.join(further)} behind its transformer, which are neither trained "
            "nor exported; choose one with mean pooling alone"
        )


def check_tokens(source: ModelSource, module: Any, longest: int) -> None:
    """Refuse a tokenizer that is not the model's, as far as sizes tell, and texts longer than the model takes.

    Raises
    ------
    EncoderError
        If the tokenizer has tokens for which the model has no embedding.
    ConfigError
        If `longest` is below 3 or beyond the model's positions.
    """
    from transformers import AutoTokenizer

    known = len(AutoTokenizer.from_pretrained(source.folder, use_fast=True))
    rows = int(module.transformer.get_input_embeddings().num_embeddings)
    if known > rows:
        raise EncoderError(
            f"{source.folder}: the tokenizer has {known} tokens, the model embeds {rows}; it is the tokenizer of "
            "another model, restore the model's own tokenizer.json"
        )
    positions = getattr(module.transformer.config, "max_position_embeddings", None)
    most = positions if isinstance(positions, int) and positions > 0 else longest
    if not 3 <= longest <= most:
        raise ConfigError(f"longest must be 3 to {most} for {source.name!r}; got {longest!r}")


def checked_quality(train: OutcomeTable) -> FloatArray:
    """Return the outcomes (n, m).

    Raises
    ------
    DataError
        If none is observed.
    """
    if not np.isfinite(train.quality).any():
        raise DataError(
            f"{train.name or 'the table'}: quality is observed nowhere, and an encoder is fitted to outcomes; "
            "give feedback or scores first"
        )
    return np.asarray(train.quality, dtype=np.float64)


def data_hash(train: OutcomeTable) -> str:
    """Return a name of the prompts, models and outcomes that were learned from."""
    digest = hashlib.sha256("\n".join([*train.models, *train.prompt_ids]).encode())
    digest.update(np.ascontiguousarray(train.quality).tobytes())
    return digest.hexdigest()[:16]


def _encoded(module: Any, tokens: _modules.Tokens, rows: IntArray, place: str) -> Any:
    """Return the vectors of a batch, (rows, d); on CPU in parts of like length, so that little goes into padding."""
    import torch

    if place == "cuda":
        with torch.autocast("cuda", dtype=torch.bfloat16):
            return module(*tokens.batch(rows, place)).float()
    order = np.argsort(tokens.lengths(rows), kind="stable")
    parts = [module(*tokens.batch(rows[order[at : at + _PART]], place)) for at in range(0, len(rows), _PART)]
    return torch.cat(parts)[torch.as_tensor(np.argsort(order, kind="stable"))]


def logits_of_means(y: FloatArray) -> FloatArray:
    """Return the logit of each model's mean quality, (m,), for y (n, m), NaN where unknown; half an outcome added."""
    seen = np.isfinite(y)
    right = np.where(seen, y, 0.0).sum(axis=0)
    share = (right + 0.5) / (seen.sum(axis=0) + 1.0)
    return np.asarray(np.log(share / (1.0 - share)))
