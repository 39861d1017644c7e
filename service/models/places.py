"""Where the artifact of a pool is, where the next one goes, and where a change keeps its work."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmrouter import artifact
from llmrouter.engine import TrainedRouters
from service.settings import Settings

_REMEMBERED = ("action", "model", "how", "scored", "scored_mean", "quality", "standard_error")


def artifact_folder(settings: Settings) -> Path:
    """Return the artifact that is served."""
    return artifact.default_artifact() if settings.router.artifact is None else settings.router.artifact


def artifact_home(settings: Settings) -> tuple[Path, bool]:
    """Return where new artifacts are written, and whether the served one is a link there that a promote moves."""
    served = settings.router.artifact
    if served is not None and served.is_symlink() and served.name == artifact.CURRENT:
        return Path(os.path.realpath(served)).parent, True
    models = settings.learning.models
    return (Path("artifacts") if models is None else models.artifacts), False


def work_folder(settings: Settings) -> Path:
    """Return where paid answers and jobs are kept."""
    models = settings.learning.models
    return Path("artifacts") / ".models" if models is None else models.folder


def lock_file(settings: Settings) -> Path:
    """Return what is locked while a change is put into effect."""
    models = settings.learning.models
    if models is None:
        return work_folder(settings) / "lock"
    return models.overlay.with_name(f".{models.overlay.name}.lock")


def write_artifact(trained: TrainedRouters, base: Path, home: Path, *, base_id: str, facts: Mapping[str, Any]) -> Path:
    """Write the artifact that follows `base`: same encoder, what it remembers of the training, and the change."""
    spec = artifact.EncoderSpec(**json.loads((base / "encoder" / "config.json").read_bytes()))
    remembered = artifact.read_manifest(base).get("training", {})
    kept = {key: facts[key] for key in _REMEMBERED if key in facts}
    changes = [*remembered.get("changes", []), {**kept, "base": base_id}]
    return artifact.save(trained, home, encoder=spec, training={**remembered, "changes": changes})


def artifact_id(folder: Path) -> str:
    """Return the id of an artifact."""
    return str(artifact.read_manifest(folder)["id"])
