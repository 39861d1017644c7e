"""Labelled utterances from a file: what the classifier learns from."""

from __future__ import annotations

import json
from pathlib import Path

from llmrouter.exceptions import ConfigError

_LONGEST_QUOTE = 80


def read_labelled(path: Path) -> dict[str, list[str]]:
    """Read utterances by route from JSON lines, ``{"text": "...", "route": "..."}`` each.

    Raises
    ------
    ConfigError
        If the file cannot be read, or a line is something else; the message names file, line and field.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}; write one JSON object a line") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    found: dict[str, list[str]] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            text, route = _entry(line, f"{path}, line {number}")
            found.setdefault(route, []).append(text)
    if not found:
        raise ConfigError(f'{path} holds no utterance; write lines like {{"text": "...", "route": "..."}}')
    return found


def _entry(line: str, place: str) -> tuple[str, str]:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{place} is no JSON ({error}); write {{...}} on one line") from error
    if not isinstance(entry, dict):
        raise ConfigError(f"{place} must be an object with text and route; got {line[:_LONGEST_QUOTE]}")
    for key in ("text", "route"):
        if not isinstance(entry.get(key), str) or not entry[key].strip():
            raise ConfigError(f"{place}: {key} must be a text that is not empty; got {entry.get(key)!r}")
    return entry["text"], entry["route"]
