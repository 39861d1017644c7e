"""Drop the blocks of CUDA packages from a lock written by `requirements/compile`."""

import re
import sys
from pathlib import Path

CUDA = re.compile(r"^(nvidia-|cuda-)")


def main(path: Path) -> None:
    """Rewrite the lock at `path` without them."""
    kept, keeping = [], True
    for line in path.read_text().splitlines():
        if line and not line.startswith((" ", "#")):
            keeping = not CUDA.match(line)
        if keeping:
            kept.append(line)
    path.write_text("\n".join(kept) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
