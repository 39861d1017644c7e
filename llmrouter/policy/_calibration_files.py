"""A calibration on disk: one safetensors file and the task labels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from llmrouter.exceptions import ArtifactCorruptError, DataError
from llmrouter.policy._facts import Calibration

_ARRAYS = ("expected_quality", "expected_std", "expected_cost_usd", "quality", "cost_usd")
_FILE, _LABELS = "calibration.safetensors", "labels.json"


def save_calibration(calibration: Calibration, folder: Path) -> None:
    """Write a calibration into `folder`, which is made; embeddings are kept in half precision."""
    folder.mkdir(parents=True)
    arrays = {name: np.ascontiguousarray(getattr(calibration, name), dtype=np.float64) for name in _ARRAYS}
    arrays["embeddings"] = np.ascontiguousarray(calibration.embeddings, dtype=np.float16)
    save_file(arrays, folder / _FILE)
    labels = {"models": list(calibration.models), "tasks": list(calibration.tasks)}
    (folder / _LABELS).write_text(json.dumps(labels, ensure_ascii=False) + "\n", encoding="utf-8")


def load_calibration(folder: Path) -> Calibration:
    """Read what `save_calibration` wrote.

    Raises
    ------
    ArtifactCorruptError
        If a file is missing or damaged; the message names the folder.
    """
    try:
        arrays = load_file(folder / _FILE)
        labels = json.loads((folder / _LABELS).read_bytes())
        return Calibration(
            models=tuple(labels["models"]),
            tasks=tuple(labels["tasks"]),
            embeddings=arrays["embeddings"].astype(np.float32),
            **{name: arrays[name] for name in _ARRAYS},
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError, DataError) as error:
        raise ArtifactCorruptError(f"{folder} is damaged ({error!r}); restore the artifact or train again") from error
