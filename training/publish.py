"""Train the artifact that ships with the package: ``python -m training.publish``.

A kNN router over the outcomes of the pocket pool, with the static encoder; replaces ``llmrouter/assets/artifact``.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from llmrouter.artifact import default_artifact
from llmrouter.evaluation import format_result
from llmrouter.outcomes import load_table
from training.train import train


def main() -> None:
    """Train on the shipped outcomes and replace the shipped artifact."""
    target = default_artifact()
    with tempfile.TemporaryDirectory() as folder:
        trained = train(load_table(target.parent / "pocket" / "outcomes"), Path(folder), promote=False)
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(trained.folder, target)
    if trained.evaluation is not None:
        print(format_result(trained.evaluation))


if __name__ == "__main__":
    main()
