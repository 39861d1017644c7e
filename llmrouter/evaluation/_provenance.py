"""Where a figure comes from: versions, commit, the data's hash, and a log of looks at the test split."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import platform
import shutil
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from llmrouter.outcomes import OutcomeTable

_DISTRIBUTION = "llmrouter-service"


def git_commit() -> str | None:
    """Return the commit this code runs from, with ``-dirty`` if the tree was changed; None outside a clone.

    An installed copy that happens to lie inside some other repository is not of that repository's commit, so the
    commit counts only where git tracks this file.
    """
    git = shutil.which("git")
    if git is None:
        return None
    here = Path(__file__).resolve()

    def ask(*arguments: str) -> str | None:
        try:
            answer = subprocess.run(  # noqa: S603 - fixed arguments, no shell
                [git, "-C", str(here.parent), *arguments], capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return answer.stdout.strip() if answer.returncode == 0 else None

    if ask("ls-files", "--error-unmatch", here.name) is None:
        return None
    return ask("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def versions() -> dict[str, str | None]:
    """Return the versions a figure depends on: python, platform, numpy, llmrouter and its commit."""
    try:
        own = version(_DISTRIBUTION)
    except PackageNotFoundError:
        own = None
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "numpy": np.__version__,
        "llmrouter": own,
        "commit": git_commit(),
    }


def table_hash(table: OutcomeTable) -> str:
    """Return the SHA-256 of what an evaluation reads of a table: ids, splits, models, prices and outcomes."""
    digest = hashlib.sha256()
    header = {
        "prompt_ids": table.prompt_ids,
        "splits": table.splits,
        "models": table.models,
        "prices": [None if price is None else [price.input, price.output] for price in table.prices],
    }
    digest.update(json.dumps(header, ensure_ascii=True).encode())
    for values in (table.quality, table.cost_usd, table.input_tokens, table.output_tokens):
        digest.update(np.ascontiguousarray(values, dtype="<f8").tobytes())
    return digest.hexdigest()


def log_test_look(path: Path, entry: Mapping[str, Any]) -> None:
    """Append one JSON line to the log of looks at a test split: each further look makes its figures less blind.

    Parameters
    ----------
    path : Path
        Made, with its folder, if absent.
    entry : mapping
        What was looked at; the time (UTC) is added.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    with path.open("a", encoding="utf-8") as log:
        log.write(json.dumps({"time": now, **entry}) + "\n")
