"""Results of a benchmark of the learning loop: a JSON file with where its figures come from, and a page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.quality.run import machine
from llmrouter.evaluation._provenance import versions

_DIGITS = 6


def provenance(command: str) -> dict[str, Any]:
    """Return what figures depend on: the command, the machine in words, versions with the commit."""
    return {"command": command, "machine": machine(), "versions": versions()}


def write_result(folder: Path, name: str, document: Mapping[str, Any], page: str) -> None:
    """Write ``name.json`` and ``name.md`` into a folder; the page ends with where the figures come from."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(rounded(document), indent=1, sort_keys=True, allow_nan=False)
    (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    source = f"`{document['command']}`; {document['machine']}; commit {document['versions']['commit'] or 'unknown'}."
    (folder / f"{name}.md").write_text(f"{page.rstrip()}\n\n{source}\n", encoding="utf-8")


def rounded(value: Any) -> Any:
    """Return JSON values with six significant digits."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return value
