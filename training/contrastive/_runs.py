"""A training run of CSCR, and what it shares with RouterDC's: data in, encoder or head, checks and artifact out."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from llmrouter import artifact
from llmrouter._files import json_bytes, write_atomically
from llmrouter.encoders import encode_cached, load_encoder, save_head
from llmrouter.exceptions import DataError
from llmrouter.outcomes import OutcomeTable
from llmrouter.routers import CSCRRouter, OutcomeFingerprint, RouterDCRouter, weighted_mean
from llmrouter.routers._contrastive_loss import CostSpectrum
from llmrouter.routers.descriptors import MeasuredSpace, load_descriptors
from llmrouter.types import FloatArray, IntArray
from training.contrastive import _losses, _modules, _trainer
from training.contrastive._trainer import TrainingSettings
from training.contrastive.export import export_head
from training.train import fit

Say = Callable[[str], None]


@dataclass(frozen=True)
class Finished:
    """A finished run: the trained encoder's folder, the calibrated router, the artifact (None without costs).

    The router's state lies beside them in ``router.safetensors`` and ``router.json``, the course of the training in
    ``history.json``.
    """

    encoder: Path
    router: CSCRRouter | RouterDCRouter
    artifact: Path | None
    progress: Mapping[str, Any]


def train_rows(table: OutcomeTable) -> IntArray:
    """Return the rows of the train split.

    Raises
    ------
    DataError
        If there is none.
    """
    rows = np.flatnonzero(np.asarray([split == "train" for split in table.splits], dtype=bool))
    if not rows.size:
        raise DataError(f"{table.name or 'the table'} has no train split; it has {sorted(set(table.splits))}")
    return rows


def train_cscr(
    table: OutcomeTable,
    out: Path,
    *,
    encoder: str,
    settings: TrainingSettings,
    parameters: Mapping[str, Any],
    say: Say = print,
) -> Finished:
    """Train CSCR's head over a frozen encoder on the train split and write encoder and artifact under `out`.

    Parameters
    ----------
    table : OutcomeTable
        Outcomes.
    out : Path
        Holds ``checkpoint.safetensors``, ``encoder/`` (safetensors and ONNX) and ``artifacts/``.
    encoder : str
        As `load_encoder` takes it.
    settings : TrainingSettings
        Of the run.
    parameters : mapping
        Of `CSCRRouter`: what describes models, the loss and the head.
    say : callable
        Takes one line of progress.
    """
    import torch

    rows = train_rows(table)
    train = table.select(rows)
    loaded = load_encoder(encoder)
    X, y = encode_cached(loaded, train.router_texts()), train.quality
    learn, held_out = settings.split(len(X))
    costs = mean_costs(train)
    router = CSCRRouter(**{"costs": costs, **parameters, "seed": settings.seed, "members": 1})
    fingerprint, vectors = _described(router, X[learn], y[learn])
    shift = router.gamma if router.cost_sign == "plus" else -router.gamma
    prices = np.zeros(y.shape[1]) if router.costs is None else np.asarray(router.costs, dtype=np.float64)
    spectrum = CostSpectrum.make(prices, bands=router.bands, alpha=router.alpha, tau_min=router.tau_min, shift=shift)
    place = _trainer.device()
    inputs, relevance, models = (
        torch.tensor(np.asarray(values, dtype=np.float32), device=place) for values in (X, y, vectors)
    )

    def loss_of(module: Any, batch: IntArray, generator: np.random.Generator, learning: bool) -> Any:
        del generator, learning
        chosen = torch.as_tensor(batch, device=place)
        return _losses.cost_spectrum_loss(module(inputs[chosen]) @ models.T, relevance[chosen], spectrum)

    router.fingerprint_ = fingerprint
    start = router.first_head(X.shape[1], vectors.shape[1], np.random.default_rng([settings.seed, 4]))
    module = _modules.head_module(start).to(place)
    identity = {
        "method": "cscr", "encoder": loaded.fingerprint, "probe_set": fingerprint.probe_set,
        "data": data_hash(train), "parameters": plain_parameters(router, y.shape[1]),
    }  # fmt: skip
    progress = _trainer.run(
        module, loss_of, rows=(learn, held_out), settings=settings, folder=out, identity=identity, say=say
    )
    head = _modules.trained_head(module)
    folder = out / "encoder"
    about = {
        "method": "cscr",
        "probe_set": fingerprint.probe_set,
        "best": progress["best"],
        "epoch": progress["best_epoch"],
    }
    save_head(folder, head, base=encoder, base_fingerprint=loaded.fingerprint, about=about)
    say(f"wrote {folder}; head.onnx differs from head.safetensors by {export_head(folder):.1e} at most")
    router.adopt_described(X, y, (head, vectors), held_out=held_out, fingerprint=fingerprint)
    written = save_artifact(train, X, router, "cscr", out, artifact.EncoderSpec(encoder, {}, loaded.fingerprint), say)
    return finish(folder, router, written, progress, out, identity)


def _described(
    router: CSCRRouter, X: FloatArray, y: FloatArray
) -> tuple[OutcomeFingerprint | MeasuredSpace, FloatArray]:
    """Return what the router describes models by, and the models' vectors (m, D)."""
    if router.descriptors is not None:
        measured = load_descriptors(router.descriptors, y.shape[1])
        space = MeasuredSpace.over(measured, centred=router.centred, spread=router.spread)
        return space, space.described(measured)
    once = np.ones(len(X))
    outcomes = OutcomeFingerprint.over(
        X, once, probes=router.probes, anchors=router.anchors, shrinkage=router.shrinkage, seed=router.seed
    )
    if router.centred:
        outcomes = outcomes.centred(X, y, once)
    return outcomes, outcomes.describe(X, y, once)


def mean_costs(train: OutcomeTable) -> list[float] | None:
    """Return the models' mean logged costs in US dollars, else their list prices; None where neither is known."""
    means = weighted_mean(train.cost_usd, np.ones(len(train)))
    if np.isfinite(means).all():
        return [float(mean) for mean in means]
    if all(price is not None for price in train.prices):
        return [(price.input + price.output) / 2.0 for price in train.prices if price is not None]
    return None


def save_artifact(
    train: OutcomeTable, X: FloatArray, router: Any, name: str, out: Path, encoder: artifact.EncoderSpec, say: Say
) -> Path | None:
    try:
        trained = fit(train, X, name="uniroute", parameters={})
    except DataError as error:
        say(f"no artifact: {error}")
        return None
    trained = dataclasses.replace(trained, quality=router, router_name=name)
    folder = artifact.save(trained, out / "artifacts", encoder=encoder, training={"data": train.name, "router": name})
    say(f"wrote {folder}")
    return folder


def finish(
    folder: Path, router: Any, written: Path | None, progress: Mapping[str, Any], out: Path, identity: Mapping[str, Any]
) -> Finished:
    summary = {**progress, "identity": dict(identity), "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    write_atomically(out / "history.json", json_bytes(summary))
    arrays, values = router.state()
    write_atomically(out / "router.safetensors", save({key: np.ascontiguousarray(a) for key, a in arrays.items()}))
    write_atomically(out / "router.json", json_bytes({"name": identity["method"], "values": values}))
    _trainer.log_line(out.parent / "experiments.jsonl", {"run": out.name, **summary})
    return Finished(folder, router, written, progress)


def plain_parameters(router: Any, models: int) -> dict[str, Any]:
    """Return the parameters that say what is learned; how long is `TrainingSettings`'s."""
    left = {"members", "epochs", "patience", "batch", "learning_rate", "decay", "seed"}
    plain = {name: value for name, value in router.get_params().items() if name not in left}
    if plain.get("descriptors") is not None:  # what they are, not where they lie
        described = load_descriptors(plain["descriptors"], models)
        plain["descriptors"] = [hashlib.sha256(one.vector.tobytes()).hexdigest()[:16] for one in described]
    if plain.get("descriptors", 0) is None:  # checkpoints of before there were any go on
        left = {"descriptors", "spread"}
    return {name: value for name, value in plain.items() if name not in left}


def data_hash(train: OutcomeTable) -> str:
    digest = hashlib.sha256("\n".join([*train.models, *train.prompt_ids]).encode())
    digest.update(np.ascontiguousarray(train.quality).tobytes())
    return digest.hexdigest()[:16]
