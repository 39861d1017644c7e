"""What killed trainings leave behind in a folder of artifacts: nobody reads it, and it is taken away in time."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

_WORK, _LINK = ".new-*", ".current-*"
# No artifact takes that long to be written, so what is older is nobody's.
OLD_S = 6 * 3600.0


def remove_leftovers(out: Path, *, older_than_s: float = OLD_S) -> int:
    """Remove half-written artifacts and unused links of trainings that were killed.

    A training writes into a hidden folder, and a move of ``current`` begins with a hidden link; both are renamed when
    they are whole. What cannot be removed stays.

    Parameters
    ----------
    out : Path
        The folder that holds artifacts.
    older_than_s : float
        Younger ones may belong to a training under way; seconds since they were last changed.

    Returns
    -------
    int
        How many were removed.
    """
    removed = 0
    for path in (*out.glob(_WORK), *out.glob(_LINK)):
        try:
            if time.time() - path.lstat().st_mtime < older_than_s:
                continue
            if path.is_symlink():
                path.unlink()
            else:
                shutil.rmtree(path)
        except OSError:  # another trainer was faster, or it belongs to somebody else
            continue
        removed += 1
    return removed
