"""Descriptors on disk: a folder with the vector in safetensors and what it is in JSON, both with their hashes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from llmrouter._files import check_files, json_bytes, read_json_object, sha256_of, write_atomically
from llmrouter.exceptions import ArtifactCorruptError, ArtifactError, ConfigError
from llmrouter.routers.descriptors._descriptor import Kind, ModelDescriptor

_FORMAT = 1
_ABOUT, _VECTOR = "descriptor.json", "descriptor.safetensors"


def save_descriptor(folder: Path, descriptor: ModelDescriptor) -> str:
    """Write a descriptor into `folder` and return its id, a hash of all that was written.

    Parameters
    ----------
    folder : Path
        Made if absent; a descriptor that is there is replaced.
    descriptor : ModelDescriptor
        What to write.
    """
    vector = np.ascontiguousarray(descriptor.vector, dtype=np.float64)
    write_atomically(folder / _VECTOR, save({"vector": vector}))
    about: dict[str, Any] = {
        "format": _FORMAT,
        "kind": descriptor.kind,
        "probe_set": descriptor.probe_set,
        "length": len(vector),
        "settings": dict(descriptor.settings),
        "provenance": dict(descriptor.provenance),
        "files": {_VECTOR: sha256_of(folder / _VECTOR)},
    }
    about["id"] = _digest(about)
    write_atomically(folder / _ABOUT, json_bytes(about))
    return str(about["id"])


def load_descriptor(folder: Path) -> ModelDescriptor:
    """Read what `save_descriptor` wrote.

    Raises
    ------
    ArtifactError
        If there is no descriptor, or of a format that this version does not read.
    ArtifactCorruptError
        If a file is missing, was changed, or does not hold what it says.
    """
    path = folder / _ABOUT
    if not path.is_file():
        raise ArtifactError(
            f"{folder} holds no descriptor (it has no {_ABOUT}); write one with python -m training.contrastive.describe"
        )
    about = read_json_object(path)
    if about.get("format") != _FORMAT:
        raise ArtifactError(f"{path} has format {about.get('format')!r}; this version reads {_FORMAT}")
    if about.get("id") != _digest(about):
        raise ArtifactCorruptError(f"{path} was changed since it was written; restore it or describe the model again")
    check_files(folder, about.get("files"))
    try:
        vector = load_file(folder / _VECTOR)["vector"]
    except (SafetensorError, KeyError) as error:
        raise ArtifactCorruptError(f"{folder / _VECTOR} is damaged ({error!r}); describe the model again") from error
    if about.get("kind") not in get_args(Kind) or vector.shape != (about.get("length"),):
        raise ArtifactCorruptError(
            f"{path} says {about.get('length')!r} numbers of kind {about.get('kind')!r}, the vector has the shape "
            f"{vector.shape}; describe the model again"
        )
    return ModelDescriptor(vector, about["probe_set"], about["kind"], about["settings"], about["provenance"])


def load_descriptors(named: Sequence[str] | str, models: int) -> list[ModelDescriptor]:
    """Read the descriptors of a pool.

    Parameters
    ----------
    named : sequence of str or str
        Folders, one a model in the order of a router's columns; as text ``a|b|c``.
    models : int
        How many there must be.

    Raises
    ------
    ConfigError
        If there is not one for each of the models.
    ArtifactError
        If one cannot be read.
    """
    folders = named.split("|") if isinstance(named, str) else list(named)
    if len(folders) != models or not all(isinstance(folder, str) and folder for folder in folders):
        raise ConfigError(
            f"descriptors must name {models} folders, one for each model in the order of the columns, as a|b|c; "
            f"got {named!r}"
        )
    return [load_descriptor(Path(folder)) for folder in folders]


def _digest(about: Mapping[str, Any]) -> str:
    content = {key: value for key, value in about.items() if key != "id"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
