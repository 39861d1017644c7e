"""Artifacts: a trained router as an immutable folder of arrays and JSON.

::

    <id>/
      manifest.json         layout version, models, routers, encoder fingerprint, hashes of every other file
      quality.safetensors   learned arrays of the quality router
      cost.safetensors      learned arrays of the cost router
      encoder/config.json   which encoder, with which settings
      index/                the training embeddings, for routers that search them and to show a decision's neighbours
      calibration/          held-out estimates beside what happened, for policies that promise something
      selfcheck.json        a few embeddings and what the routers expected for them when they were written
      evaluation.json       how it scored when it was made, where it was evaluated

Nothing is unpickled. A folder is written beside its place, synced to disk and renamed into it, and never changed
afterwards; ``current`` is a relative symbolic link that is replaced by rename.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from llmrouter import __version__
from llmrouter._files import sync
from llmrouter.encoders import Encoder, load_encoder
from llmrouter.engine import RoutingEngine, TrainedRouters, check_trained
from llmrouter.exceptions import ArtifactCorruptError, ArtifactError, FingerprintError, LLMRouterError
from llmrouter.index import VectorIndex, load_index
from llmrouter.policy import Policy, UtilityPolicy, load_calibration, save_calibration
from llmrouter.registry import resolve
from llmrouter.routers import NeighbourRouter, Router
from llmrouter.types import ModelCard

LAYOUT_VERSION = 2
_READABLE = (1, 2)
_HASHED_SINCE = 2  # the id is the hash of the manifest
CURRENT = "current"
_MANIFEST = "manifest.json"
_EVALUATION = "evaluation.json"
_SELF_CHECK = "selfcheck.json"
_CHECKED_ROWS = 16
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class EncoderSpec:
    """How to load the encoder an artifact was trained with: a registry name or hub id, and settings."""

    name: str
    settings: Mapping[str, Any]
    fingerprint: str


def default_artifact() -> Path:
    """Return the folder of the artifact that ships with the package: a router over the pocket pool."""
    return Path(__file__).parent / "assets" / "artifact"


def save(
    trained: TrainedRouters,
    parent: Path,
    *,
    encoder: EncoderSpec,
    training: Mapping[str, Any],
    evaluation: Mapping[str, Any] | None = None,
) -> Path:
    """Write an artifact into ``parent/<id>`` and return that folder.

    The id is a hash of the content, less the evaluation.

    Parameters
    ----------
    trained : TrainedRouters
        What was fitted.
    parent : Path
        The folder that holds artifacts.
    encoder : EncoderSpec
        The encoder it was fitted on.
    training : mapping
        What to remember of the training: data set, counts, seeds, settings. Must be JSON.
    evaluation : mapping, optional
        Results on held-out prompts. Must be JSON.
    """
    check_trained(trained)
    parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".new-", dir=parent))
    try:
        manifest = _write_parts(work, trained, encoder)
        if evaluation is not None:
            (work / _EVALUATION).write_text(json.dumps(evaluation, indent=1, sort_keys=True) + "\n")
        manifest["training"] = dict(training)
        manifest["files"] = _hashes(work)
        manifest["id"] = f"{trained.router_name}-{_digest(manifest)}"
        (work / _MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
        target = parent / str(manifest["id"])
        if target.exists():  # the same content was written before
            shutil.rmtree(work)
        else:
            _make_readable(work)  # by whoever serves it; temporary folders and safetensors files are private
            for path in (*work.rglob("*"), work):
                sync(path)
            work.rename(target)
            sync(parent)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return target


def check_writable(parent: Path) -> None:
    """Make the folder that is to hold artifacts, and see that it can be written.

    Raises
    ------
    ArtifactError
        If it cannot.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise ArtifactError(
            f"cannot write artifacts into {parent}: {error.strerror or error}; choose another folder, or make it "
            "writable"
        ) from error


def promote(folder: Path) -> Path:
    """Point ``current`` beside `folder` at it, atomically, and return the link."""
    link = folder.parent / CURRENT
    temporary = folder.parent / f".{CURRENT}-{os.getpid()}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(folder.name)
    temporary.replace(link)
    sync(folder.parent)
    return link


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read and check the manifest of an artifact folder.

    Raises
    ------
    ArtifactError
        If there is none, or its layout version is not one that this version reads.
    ArtifactCorruptError
        If it is not valid JSON, or a file is missing or has another hash.
    """
    path = folder / _MANIFEST
    if not path.is_file():
        raise ArtifactError(f"{folder} is not an artifact: it has no {_MANIFEST}; train one with `llmrouter train`")
    try:
        manifest: dict[str, Any] = json.loads(path.read_bytes())
        layout, files = manifest["layout"], manifest["files"]
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactCorruptError(f"{path} is damaged ({error}); restore the folder or train again") from error
    if layout not in _READABLE:
        raise ArtifactError(f"{folder} has layout {layout}; this version reads {_READABLE}; upgrade llmrouter")
    for name, recorded in files.items():
        file = folder / name
        if not file.is_file():
            raise ArtifactCorruptError(f"{file} is missing; restore the folder or train again")
        if _sha256(file) != recorded:
            raise ArtifactCorruptError(f"{file} does not match its recorded hash; restore the folder or train again")
    content = {key: value for key, value in manifest.items() if key != "id"}
    if layout >= _HASHED_SINCE and not str(manifest.get("id")).endswith(f"-{_digest(content)}"):
        raise ArtifactCorruptError(f"{path} does not match the artifact's id; restore the folder or train again")
    return manifest


def read_encoder(folder: Path) -> EncoderSpec:
    """Return which encoder an artifact was made with.

    Raises
    ------
    ArtifactCorruptError
        If its description cannot be read.
    """
    try:
        return EncoderSpec(**json.loads((folder / "encoder" / "config.json").read_bytes()))
    except (OSError, TypeError, ValueError) as error:
        raise ArtifactCorruptError(f"{folder} is damaged ({error!r}); restore the folder or train again") from error


def load(
    folder: Path, cards: Sequence[ModelCard], *, policy: Policy | None = None, encoder: Encoder | None = None
) -> RoutingEngine:
    """Load an artifact as a routing engine.

    Parameters
    ----------
    folder : Path
        The artifact, or a link to it.
    cards : sequence of ModelCard
        The pool; it may differ from the models the artifact knows.
    policy : Policy, optional
        By default the utility policy. It is bound to what the artifact knows of the training: reference cost, best
        single model, guard, held-out estimates.
    encoder : Encoder, optional
        By default the one named in the artifact is loaded.

    Raises
    ------
    ArtifactError
        Or one of its subclasses: not an artifact, damaged, made with another encoder, or its routers do not expect here
        what they expected where they were made (see `self_check`).
    """
    folder = folder.resolve()  # a link that moves meanwhile must not give parts of two artifacts
    manifest = read_manifest(folder)
    try:
        spec = EncoderSpec(**json.loads((folder / "encoder" / "config.json").read_bytes()))
        trained = _read_parts(folder, manifest)
    except (KeyError, TypeError, ValueError, SafetensorError) as error:
        raise ArtifactCorruptError(f"{folder} is damaged ({error!r}); restore the folder or train again") from error
    self_check(folder, trained)
    if encoder is None:
        encoder = load_encoder(spec.name, **spec.settings)
    if encoder.fingerprint != spec.fingerprint:
        raise FingerprintError(
            f"{folder} was trained with the encoder {spec.name!r} (fingerprint {spec.fingerprint}), "
            f"but the configured encoder has fingerprint {encoder.fingerprint}; set router.encoder to {spec.name!r} "
            "or train again with the encoder you want"
        )
    policy = UtilityPolicy() if policy is None else policy
    return RoutingEngine(cards, encoder, trained=trained, policy=policy, artifact_id=manifest["id"])


def self_check(folder: Path, trained: TrainedRouters) -> int:
    """Compare what the routers expect for the artifact's samples with what they expected when it was written.

    Hashes say that the files are whole; this says that the code which reads them computes the same: to 1e-6 of the
    largest value. An artifact without samples passes.

    Parameters
    ----------
    folder : Path
        The artifact.
    trained : TrainedRouters
        As loaded from it.

    Returns
    -------
    int
        How many samples were compared.

    Raises
    ------
    ArtifactCorruptError
        If they differ, or the samples cannot be read.
    """
    path = folder / _SELF_CHECK
    if not path.is_file():
        return 0
    try:
        recorded = json.loads(path.read_bytes())
        X = np.asarray(recorded["embeddings"], dtype=np.float32)
        for label, router in (("quality", trained.quality), ("cost", trained.cost)):
            expected = np.array(recorded[label], dtype=np.float64)
            found = np.asarray(router.predict(X), dtype=np.float64)
            largest = np.nanmax(np.abs(expected)) if np.isfinite(expected).any() else 0.0
            scale = float(largest) or 1.0
            wrong = ~np.isclose(found, expected, rtol=0.0, atol=_TOLERANCE * scale, equal_nan=True)
            if wrong.any():
                row, column = (int(place[0]) for place in np.nonzero(wrong))
                raise ArtifactCorruptError(
                    f"{folder} fails its self-check: for sample {row} the {label} router expects "
                    f"{found[row, column]:.9g} of {trained.models[column]!r}, and expected {expected[row, column]:.9g} "
                    f"when it was written; this version reads it otherwise: train again with it"
                )
    except (KeyError, TypeError, ValueError, LLMRouterError) as error:
        if isinstance(error, ArtifactCorruptError):
            raise
        raise ArtifactCorruptError(f"{path} is damaged ({error!r}); restore the folder or train again") from error
    return len(X)


def _self_check_of(trained: TrainedRouters) -> dict[str, Any] | None:
    """Return samples for `self_check`, spread over what the artifact holds of embeddings anyway; None without any."""
    if trained.calibration is None or not len(trained.calibration):
        return None
    every = trained.calibration.embeddings
    rows = np.linspace(0, len(every) - 1, min(_CHECKED_ROWS, len(every))).astype(int)
    X = np.asarray(every[rows], dtype=np.float32)
    return {
        "embeddings": X.tolist(),
        "quality": np.asarray(trained.quality.predict(X), dtype=np.float64).tolist(),
        "cost": np.asarray(trained.cost.predict(X), dtype=np.float64).tolist(),
    }


def _write_parts(work: Path, trained: TrainedRouters, encoder: EncoderSpec) -> dict[str, Any]:
    index = _index_of(trained.quality)
    routers = {}
    pairs = {"quality": (trained.router_name, trained.quality), "cost": (trained.cost_router_name, trained.cost)}
    for label, (name, router) in pairs.items():
        own = _index_of(router)
        if own is not None and own is not index:
            raise ArtifactError(f"the {label} router has an index of its own; fit both on one shared index")
        arrays, values = router.state()
        # safetensors writes an array's memory as it lies, so a transposed one would come back scrambled
        contiguous = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
        save_file(contiguous, work / f"{label}.safetensors")
        routers[label] = {"name": name, "values": values, "indexed": own is not None}
    index = trained.index if index is None else index
    if index is not None:
        (work / "index").mkdir()
        index.save(work / "index")
        (work / "index" / "prompt_ids.json").write_text(json.dumps(trained.prompt_ids) + "\n")
    if trained.calibration is not None:
        save_calibration(trained.calibration, work / "calibration")
    checked = _self_check_of(trained)
    if checked is not None:
        (work / _SELF_CHECK).write_text(json.dumps(checked) + "\n")
    (work / "encoder").mkdir()
    config = {"name": encoder.name, "settings": dict(encoder.settings), "fingerprint": encoder.fingerprint}
    (work / "encoder" / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    return {
        "layout": LAYOUT_VERSION,
        "llmrouter": __version__,
        "models": list(trained.models),
        "routers": routers,
        "encoder": encoder.fingerprint,
        "cost_unit": trained.cost_unit,
        "reference_cost_usd": trained.reference_cost_usd,
        "best_single": trained.best_single,
        "token_ratio": dict(trained.token_ratio),
        "mean_quality": dict(trained.mean_quality),
        "mean_output_tokens": dict(trained.mean_output_tokens),
        "mean_cost_usd": dict(trained.mean_cost_usd),
        "guard": trained.guard,
    }


def _read_parts(folder: Path, manifest: Mapping[str, Any]) -> TrainedRouters:
    try:
        index = load_index(folder / "index") if (folder / "index").is_dir() else None
        prompt_ids: tuple[str, ...] = ()
        if index is not None:
            prompt_ids = tuple(json.loads((folder / "index" / "prompt_ids.json").read_bytes()))
        quality, cost = (
            _read_router(folder, manifest["routers"][label], label, index) for label in ("quality", "cost")
        )
    except ArtifactError:
        raise
    except LLMRouterError as error:
        raise ArtifactCorruptError(f"{folder}: {error}") from error
    trained = TrainedRouters(
        models=tuple(manifest["models"]),
        quality=quality,
        cost=cost,
        cost_unit=manifest["cost_unit"],
        reference_cost_usd=manifest["reference_cost_usd"],
        router_name=manifest["routers"]["quality"]["name"],
        cost_router_name=manifest["routers"]["cost"]["name"],
        best_single=manifest["best_single"],
        token_ratio=manifest["token_ratio"],
        mean_quality=manifest["mean_quality"],
        mean_output_tokens=manifest["mean_output_tokens"],
        prompt_ids=prompt_ids,
        mean_cost_usd=manifest.get("mean_cost_usd", {}),  # layout 1 had none of these
        guard=manifest.get("guard"),
        calibration=load_calibration(folder / "calibration") if (folder / "calibration").is_dir() else None,
        index=index,
        training=manifest.get("training", {}),
    )
    check_trained(trained)
    return trained


def _read_router(folder: Path, entry: Mapping[str, Any], label: str, index: VectorIndex | None) -> Router:
    arrays = load_file(folder / f"{label}.safetensors")
    implementation = resolve("router", entry["name"])
    router: Router = implementation.from_state(arrays, entry["values"], index=index if entry["indexed"] else None)
    return router


def _index_of(router: Router) -> VectorIndex | None:
    return router.index_ if isinstance(router, NeighbourRouter) else None


def _digest(manifest: Mapping[str, Any]) -> str:
    """Return the content's hash; the evaluation holds timings and is left out, so equal training gives equal ids."""
    files = {name: digest for name, digest in manifest["files"].items() if name != _EVALUATION}
    return hashlib.sha256(json.dumps({**manifest, "files": files}, sort_keys=True).encode()).hexdigest()[:12]


def _make_readable(folder: Path) -> None:
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _sha256(path) for path in files}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
