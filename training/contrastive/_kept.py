"""What a long comparison has measured so far, so that one that was broken off goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

Measured = TypeVar("Measured")


class Kept:
    """Measurements by what was measured, appended to a file of JSON lines.

    Parameters
    ----------
    path : Path, optional
        Made when something is measured; one that is there must be of the same data and code, which is not checked.
        Without it nothing is kept.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._found: dict[str, Any] = {}
        if path is not None and path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                entry = json.loads(line)
                self._found[_key(entry["what"])] = entry["measured"]

    def measured(self, what: Mapping[str, Any], measure: Callable[[], Measured]) -> Measured:
        """Return what was measured of `what` before, or measure it now: something that JSON can hold."""
        key = _key(what)
        if key not in self._found:
            self._found[key] = measure()
            if self._path is not None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"what": dict(what), "measured": self._found[key]}) + "\n")
        found: Measured = self._found[key]
        return found


def _key(what: Mapping[str, Any]) -> str:
    return json.dumps(what, sort_keys=True)
