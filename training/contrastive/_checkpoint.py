"""Checkpoints of a training run: one safetensors file, replaced whole, so that a kill leaves the old or the new one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from llmrouter._files import write_atomically
from llmrouter.exceptions import ArtifactCorruptError, FingerprintError

NAME = "checkpoint.safetensors"
_REMEDY = "train with the same encoder, data and settings, or give another --out"


@dataclass(frozen=True)
class Checkpoint:
    """Where a run stands after an epoch.

    Attributes
    ----------
    tensors : mapping
        ``now.*`` and ``best.*`` weights, ``first.*`` and ``second.*`` moments of Adam.
    progress : mapping
        Epochs done, steps done, the best held-out loss and its epoch, epochs without a better one, the history.
    """

    tensors: Mapping[str, Any]
    progress: Mapping[str, Any]


def write(folder: Path, checkpoint: Checkpoint, identity: Mapping[str, Any]) -> None:
    """Write the checkpoint of a run with this identity: encoder, data and settings."""
    header = {"progress": json.dumps(dict(checkpoint.progress)), "identity": json.dumps(dict(identity), sort_keys=True)}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    write_atomically(folder / NAME, save(tensors, header))


def read(folder: Path, identity: Mapping[str, Any]) -> Checkpoint | None:
    """Return the checkpoint of `folder`; None where there is none.

    Raises
    ------
    ArtifactCorruptError
        If the file cannot be read.
    FingerprintError
        If it belongs to another encoder, other data or other settings; the message names what differs.
    """
    path = folder / NAME
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        kept, progress = json.loads(header["identity"]), json.loads(header["progress"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ArtifactCorruptError(f"{path} is no checkpoint of this trainer ({error}); delete it") from error
    wanted = json.loads(json.dumps(dict(identity)))
    for name in [
        *wanted,
        *(kept.keys() - wanted.keys()),
    ]:  # in the caller's order: the encoder is named before the data
        if kept.get(name) != wanted.get(name):
            raise FingerprintError(f"{path}: {name} was {kept.get(name)!r}, now it is {wanted.get(name)!r}; {_REMEDY}")
    return Checkpoint(tensors, progress)
