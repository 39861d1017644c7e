"""Where the long trials put what they have found."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

OUT_VARIABLE = "LLMROUTER_SOAK_OUT"
"""Environment variable with the JSON file that gets the results; without it they are printed only."""


def record(name: str, found: Any) -> None:
    """Print what a trial has found, and put it beside what others have."""
    print("\n" + json.dumps({name: found}, indent=1))
    place = os.environ.get(OUT_VARIABLE)
    if not place:
        return
    path = Path(place)
    results = json.loads(path.read_text()) if path.exists() else {}
    results[name] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "found": found,
    }
    path.write_text(json.dumps(results, indent=1) + "\n")


def _commit() -> str:
    here = Path(__file__).parent
    words = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(words, cwd=here, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
