"""Which artifact is live, which ones were, and the way back.

A folder of artifacts holds the artifacts, the link ``current``, and ``history.jsonl``: one line for each move of the
link, appended and flushed before the link is replaced, so that the way back is known whatever happens in between.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmrouter import artifact
from llmrouter.exceptions import ArtifactError

HISTORY = "history.jsonl"
_PROMOTE, _ROLLBACK = "promote", "rollback"


@dataclass(frozen=True)
class Move:
    """One move of the link: when (seconds since the epoch), to which artifact, from which ("" for none), and why."""

    time: float
    action: str
    artifact: str
    previous: str
    reason: str = ""


@dataclass(frozen=True)
class ListedArtifact:
    """An artifact of a folder; `problem` says what is wrong with it, "" where nothing is."""

    id: str
    current: bool
    made: float
    router: str
    models: int
    training: dict[str, Any]
    problem: str = ""


def current_artifact(root: Path) -> str:
    """Return the id of the artifact that ``current`` in `root` points at; "" where there is no link."""
    link = root / artifact.CURRENT
    return link.resolve().name if link.is_symlink() else ""


def promote_artifact(folder: Path, *, reason: str = "") -> Move:
    """Make an artifact current, after checking it: one atomic change, noted in the history.

    Parameters
    ----------
    folder : Path
        The artifact, in the folder whose link is moved.
    reason : str
        Kept in the history.

    Raises
    ------
    ArtifactError
        If it is no artifact, or damaged.
    """
    folder = folder.resolve()
    artifact.read_manifest(folder)
    return _move(folder, _PROMOTE, reason)


def rollback_artifact(root: Path, *, reason: str = "") -> Move:
    """Make the artifact current that was so before; a second call goes one further back.

    Raises
    ------
    ArtifactError
        If the history names none, or it is gone or damaged.
    """
    now = current_artifact(root)
    past = _stack(read_history(root), now)
    if not past:
        raise ArtifactError(
            f"{root} has no earlier artifact than {now or 'none'} in its {HISTORY}; name one: "
            "llmrouter artifacts promote ID"
        )
    folder = root / past[-1]
    artifact.read_manifest(folder)
    return _move(folder, _ROLLBACK, reason)


def read_history(root: Path) -> tuple[Move, ...]:
    """Return the moves of the link, oldest first; a line that was cut off is left out."""
    path = root / HISTORY
    if not path.is_file():
        return ()
    moves = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            fields = json.loads(line)
            moves.append(Move(**{name: fields[name] for name in ("time", "action", "artifact", "previous", "reason")}))
        except (ValueError, KeyError, TypeError):
            continue
    return tuple(moves)


def list_artifacts(root: Path) -> tuple[ListedArtifact, ...]:
    """Return the artifacts of a folder, newest first; damaged ones with their problem.

    Raises
    ------
    ArtifactError
        If `root` is not a folder.
    """
    if not root.is_dir():
        raise ArtifactError(f"{root} is not a folder of artifacts; train one with `llmrouter train --out {root}`")
    now = current_artifact(root)
    found = []
    for folder in root.iterdir():
        if folder.is_symlink() or folder.name.startswith(".") or not (folder / "manifest.json").is_file():
            continue
        made = folder.stat().st_mtime
        try:
            manifest = artifact.read_manifest(folder)
            found.append(
                ListedArtifact(
                    folder.name,
                    folder.name == now,
                    made,
                    manifest["routers"]["quality"]["name"],
                    len(manifest["models"]),
                    dict(manifest.get("training", {})),
                )
            )
        except ArtifactError as error:
            found.append(ListedArtifact(folder.name, folder.name == now, made, "", 0, {}, str(error)))
    return tuple(sorted(found, key=lambda listed: (-listed.made, listed.id)))


def _move(folder: Path, action: str, reason: str) -> Move:
    root = folder.parent
    move = Move(time.time(), action, folder.name, current_artifact(root), reason)
    line = json.dumps(asdict(move), sort_keys=True) + "\n"
    handle = os.open(root / HISTORY, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(handle).st_size
        if size and os.pread(handle, 1, size - 1) != b"\n":  # a line that was cut off must not swallow this one
            line = "\n" + line
        os.write(handle, line.encode())  # one write: lines of two processes do not mix
        os.fsync(handle)
    finally:
        os.close(handle)
    artifact.promote(folder)
    return move


def _stack(moves: tuple[Move, ...], now: str) -> list[str]:
    """Return what a rollback would go to, the next one last: promotions push what they replaced, rollbacks pop."""
    past: list[str] = []
    for move in moves:
        if move.action == _ROLLBACK:
            if past:
                past.pop()
        elif move.previous and move.previous != move.artifact:
            past.append(move.previous)
    return [name for name in past if name != now]
