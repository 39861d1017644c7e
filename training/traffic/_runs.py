"""Whole runs: outcomes in, fitted encoder or head and its token tables out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmrouter._files import json_bytes, write_atomically
from llmrouter.encoders import ProjectionHead, StaticEncoder, encode_cached, load_encoder, save_head
from llmrouter.encoders._sources import ModelSource
from llmrouter.exceptions import ConfigError, DataError
from llmrouter.outcomes import OutcomeTable
from llmrouter.types import FloatArray, IntArray
from training.contrastive import _modules, _trainer
from training.contrastive._runs import train_rows
from training.contrastive._trainer import TrainingSettings
from training.contrastive.export import export_head
from training.distill import distill, write_table
from training.export_onnx import export
from training.traffic._fit import (
    Objective,
    Say,
    checked_quality,
    data_hash,
    logits_of_means,
    read_weights,
    train_weights,
)
from training.traffic._objective import residuals
from training.traffic.tables import fold_head, write_carried

ENCODER_SETTINGS = TrainingSettings(epochs=6, patience=2, batch=32, learning_rate=1e-4, held_out=0.15)
HEAD_SETTINGS = TrainingSettings(epochs=40, patience=4, batch=128, learning_rate=1e-3, held_out=0.15)


@dataclass(frozen=True)
class Fitted:
    """What a run wrote.

    Attributes
    ----------
    encoders : mapping of str to Path
        ``encoder`` (ONNX, or the head) and the tables ``static``, ``carried`` or ``folded``; what could not be made is
        not in it.
    progress : mapping
        Of the training, as `training.contrastive._trainer.run` returns it.
    """

    encoders: Mapping[str, Path]
    progress: Mapping[str, Any]


def fit_encoder(
    table: OutcomeTable,
    out: Path,
    *,
    encoder: str | Path = "minilm",
    settings: TrainingSettings = ENCODER_SETTINGS,
    objective: Objective | None = None,
    longest: int = 128,
    dimension: int = 256,
    say: Say = print,
) -> Fitted:
    """Fine-tune a sentence encoder on the train split, export it and make token tables of it.

    Parameters
    ----------
    table : OutcomeTable
        Outcomes; only its train split is read.
    out : Path
        Gets ``checkpoint.safetensors``, ``weights/`` (Hugging Face), ``encoder/`` (ONNX), ``static/`` (distilled),
        ``carried/`` (distilled and moved towards whole prompts) and ``fitted.json``, which names encoder and
        fingerprints.
    encoder : str or Path
        ``minilm``, a folder or a hub id.
    settings, objective, longest
        As `training.traffic._fit.train_weights` takes them.
    dimension : int
        Of the token tables.
    say : callable
        Takes one line of progress.

    Raises
    ------
    DataError
        If there is no train split, or no outcome observed.
    EncoderError
        If the encoder cannot be had, or its tokenizer is not its own.
    FingerprintError
        If `out` is the run of another encoder, tokenizer, data or settings.
    """
    train = table.select(train_rows(table))
    objective = Objective() if objective is None else objective
    folder, progress = train_weights(
        train, out, encoder=encoder, settings=settings, objective=objective, longest=longest, say=say
    )
    source, record = read_weights(folder)
    config = export(source, out / "encoder")
    say(f"wrote {out / 'encoder'}; smallest cosine of ONNX and original {config['cosine_with_source']['min']:.6f}")
    made = {"encoder": out / "encoder"}
    texts = train.router_texts()
    vectors = encode_cached(load_encoder(out / "encoder"), texts)
    made |= make_tables(source, texts, vectors, out, dimension=dimension, seed=settings.seed, say=say)
    return _finished(out, made, progress, record)


def make_tables(
    source: ModelSource,
    texts: tuple[str, ...] | list[str],
    vectors: FloatArray,
    out: Path,
    *,
    dimension: int,
    seed: int,
    say: Say,
) -> dict[str, Path]:
    """Distil `source` into ``static/`` under `out`, carry it by prompts and their vectors into ``carried/``."""
    write_table(distill(source, dimension), source, out / "static")
    say(f"wrote {out / 'static'}: {dimension} dimensions, token by token")
    about = {"source": source.name, "source_sha256": source.weights_sha256}
    try:
        carried = write_carried(out / "static", texts, vectors, out / "carried", about=about, seed=seed)
    except DataError as error:
        say(f"no carried table: {error}")
        return {"static": out / "static"}
    say(
        f"wrote {out / 'carried'}: mean cosine with the encoder {carried.before:.3f} as distilled, {carried.after:.3f} "
        f"as carried (left out), penalty {carried.strength:g}, {carried.prompts} prompts"
    )
    return {"static": out / "static", "carried": out / "carried"}


def fit_head(
    table: OutcomeTable,
    out: Path,
    *,
    encoder: str = "static",
    settings: TrainingSettings = HEAD_SETTINGS,
    objective: Objective | None = None,
    hidden: int = 0,
    dimension: int = 0,
    say: Say = print,
) -> Fitted:
    """Train a head over a frozen encoder on the train split: for machines on which a network cannot be fine-tuned.

    Parameters
    ----------
    table : OutcomeTable
        Outcomes; only its train split is read.
    out : Path
        Gets ``checkpoint.safetensors``, ``encoder/`` (the head, for numpy and in ONNX), ``folded/`` where a head of one
        layer stands on a token table, and ``fitted.json``.
    encoder : str
        As `load_encoder` takes it; it stays as it is.
    settings, objective
        As `fit_encoder`.
    hidden : int
        Width of a hidden layer with random first weights; 0 is one layer.
    dimension : int
        Of the vectors; 0 is the encoder's own, where one layer begins as the identity.
    say : callable
        Takes one line of progress.

    Raises
    ------
    ConfigError
        If `hidden` or `dimension` is negative.
    DataError, FingerprintError
        As `fit_encoder`.
    """
    for name, value in (("hidden", hidden), ("dimension", dimension)):
        if value < 0:
            raise ConfigError(f"{name} must be >= 0; got {value!r}")
    train = table.select(train_rows(table))
    objective = Objective() if objective is None else objective
    loaded = load_encoder(encoder)
    X = encode_cached(loaded, train.router_texts())
    head, progress = train_head(
        train, X, out, fingerprint=loaded.fingerprint, settings=settings, objective=objective, hidden=hidden,
        dimension=dimension, say=say,
    )  # fmt: skip
    record = {
        "method": "traffic-head", "source": encoder, "source_fingerprint": loaded.fingerprint,
        "objective": asdict(objective), "data": data_hash(train),
    }  # fmt: skip
    folder = out / "encoder"
    save_head(folder, head, base=encoder, base_fingerprint=loaded.fingerprint, about=record)
    say(f"wrote {folder}; head.onnx differs from head.safetensors by {export_head(folder):.1e} at most")
    made = {"encoder": folder}
    if isinstance(loaded, StaticEncoder) and len(head.layers) == 1:
        fold_head(loaded, head, out / "folded", about={"source": loaded.fingerprint, "training": record})
        made["folded"] = out / "folded"
        say(f"wrote {out / 'folded'}: the same vectors from one token table")
    return _finished(out, made, progress, record)


def train_head(
    train: OutcomeTable, X: FloatArray, out: Path, *, fingerprint: str, settings: TrainingSettings,
    objective: Objective, hidden: int = 0, dimension: int = 0, say: Say = print,
) -> tuple[ProjectionHead, Mapping[str, Any]]:  # fmt: skip
    """Return a head trained over embeddings X (n, d) of `train`, and the progress; the checkpoint lies in `out`."""
    import torch

    y = checked_quality(train)
    learn, held_out = settings.split(len(X))
    inputs, width = X.shape[1], dimension or X.shape[1]
    if hidden or width != inputs:
        sizes = (inputs, hidden, width) if hidden else (inputs, width)
        first = ProjectionHead.first(sizes, np.random.default_rng([settings.seed, 4]))
    else:
        first = ProjectionHead((np.eye(inputs),))
    place = _trainer.device()
    module: Any = _modules.head_module(first)
    module.models = torch.nn.Parameter(torch.zeros(y.shape[1], width))
    module = module.to(place)
    vectors, profiles, quality, bias = (
        torch.tensor(np.asarray(values, dtype=np.float32), device=place)
        for values in (X, residuals(y, learn), y, logits_of_means(y[learn]))
    )
    say(f"{train.name}: {len(learn)} prompts, {len(held_out)} held out, {y.shape[1]} models; a head on {place}")

    def loss_of(current: Any, batch: IntArray, generator: np.random.Generator, learning: bool) -> Any:
        del generator, learning
        chosen = torch.as_tensor(batch, device=place)
        return objective.loss(current(vectors[chosen]), current.models, bias, profiles[chosen], quality[chosen])

    identity = {
        "method": "traffic-head", "encoder": fingerprint, "hidden": hidden, "dimension": width,
        "data": data_hash(train), "objective": asdict(objective),
    }  # fmt: skip
    progress = _trainer.run(
        module, loss_of, rows=(learn, held_out), settings=settings, folder=out, identity=identity, say=say
    )
    return _modules.trained_head(module), progress


def _finished(out: Path, made: Mapping[str, Path], progress: Mapping[str, Any], record: Mapping[str, Any]) -> Fitted:
    summary = {
        **record,
        "encoders": {name: load_encoder(path).fingerprint for name, path in made.items()},
        "progress": dict(progress),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }  # fmt: skip
    write_atomically(out / "fitted.json", json_bytes(summary))
    _trainer.log_line(out.parent / "experiments.jsonl", {"run": out.name, **summary})
    return Fitted(dict(made), progress)
