"""The weights of a finished run: written whole, read without torch, refused where they do not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from llmrouter._files import json_bytes, read_json_object, sha256_of, write_atomically
from llmrouter.artifact import EncoderSpec
from llmrouter.exceptions import ArtifactCorruptError, ArtifactError, DataError, FingerprintError
from llmrouter.routers import LLMBanditRouter

_WEIGHTS = "bandit.safetensors"
_CONFIG = "bandit.json"


def write_bandit(
    out: Path, router: LLMBanditRouter, *, encoder: EncoderSpec, settings: Mapping[str, Any], models: Sequence[str]
) -> None:
    """Write a router with its policy into `out`, with what it was trained on."""
    arrays, values = router.state()
    write_atomically(out / _WEIGHTS, save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))
    config = {
        "kind": "llm-bandit", "layout": 1, "encoder": encoder.name, "encoder_fingerprint": encoder.fingerprint,
        "models": list(models), "values": values, "settings": dict(settings),
        "files": {_WEIGHTS: sha256_of(out / _WEIGHTS)},
    }  # fmt: skip
    write_atomically(out / _CONFIG, json_bytes(config))  # last: a folder that was broken off has none


def load_bandit(folder: Path, *, encoder_fingerprint: str, estimates: str | None = None) -> LLMBanditRouter:
    """Return the router of a finished run. Needs no torch.

    Parameters
    ----------
    folder : Path
        As `train_bandit` wrote it.
    encoder_fingerprint : str
        Of the encoder that makes the embeddings.
    estimates : str, optional
        Of the router, in place of ``policy``.

    Raises
    ------
    ArtifactError
        If there is no finished run, or it is another method's.
    ArtifactCorruptError
        If the weights are not those that were written, or of wrong shapes.
    FingerprintError
        If it was trained on another encoder.
    """
    if not (folder / _CONFIG).is_file():
        raise ArtifactError(f"{folder} holds no finished run; train one with python -m training.bandit train")
    config = read_json_object(folder / _CONFIG)
    if config.get("kind") != "llm-bandit":
        raise ArtifactError(f"{folder / _CONFIG}: kind is {config.get('kind')!r}, a run of this has 'llm-bandit'")
    if config["encoder_fingerprint"] != encoder_fingerprint:
        raise FingerprintError(
            f"{folder} was trained on the encoder {config['encoder']} ({config['encoder_fingerprint']}); this one is "
            f"{encoder_fingerprint}: load that encoder, or train again on this one with python -m training.bandit"
        )
    path = folder / _WEIGHTS
    if not path.is_file() or sha256_of(path) != config["files"][_WEIGHTS]:
        raise ArtifactCorruptError(f"{path} is missing or not the file that was written; restore it or train again")
    values = config["values"]
    if estimates is not None:
        values = {**values, "parameters": {**values["parameters"], "estimates": estimates}}
    try:
        return LLMBanditRouter.from_state(load_file(path), values)
    except (SafetensorError, KeyError, DataError) as error:
        raise ArtifactCorruptError(f"cannot read {path}: {error}; restore it or train again") from error
