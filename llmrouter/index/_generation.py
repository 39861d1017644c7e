"""The files of an index in a folder: read, written, checked and cleared away."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmrouter._files import sync
from llmrouter.exceptions import ArtifactCorruptError
from llmrouter.index._kinds import IndexKind
from llmrouter.index._log import EMPTY_LOG_BYTES, ChangeLog, read_log
from llmrouter.index._segment import Segment
from llmrouter.index._snapshot import (
    MANIFEST,
    Manifest,
    checked_content,
    read_manifest,
    read_segment,
    read_state,
    write_dead,
    write_segment,
)
from llmrouter.index._state import State

LOCK = "lock"
FRESH = f"{MANIFEST}.new"
_OURS = re.compile(
    r"segment-\d+-\d+\.(rows|faiss|safetensors)|log-\d+\.bin|removed-\d+\.safetensors|" + re.escape(FRESH)
)
_ATTEMPTS = 5


def read_folder(folder: Path) -> tuple[State, Manifest, int, int]:
    """Return the state, the manifest, the number of the last change, and how many bytes of the log are whole.

    A writer may replace manifest, segments and log meanwhile where the caller holds no lock.

    Raises
    ------
    ArtifactCorruptError
        If a file is missing or damaged; the message names it.
    """
    for attempt in range(_ATTEMPTS):
        manifest = read_manifest(folder)
        try:
            state = read_state(folder, manifest)
            changes, end = read_log(folder / manifest.log, manifest.dimension, sequence=manifest.sequence)
            break
        except (FileNotFoundError, ArtifactCorruptError) as error:
            unchanged = read_manifest(folder).generation == manifest.generation
            if unchanged or attempt == _ATTEMPTS - 1:
                if isinstance(error, FileNotFoundError):
                    raise ArtifactCorruptError(f"cannot read {error.filename}: {error.strerror}") from error
                raise
    for change in changes:
        state = state.without(change.ids) if change.operation != "add" else state
        if change.rows:
            state = state.with_added(change.ids, *change.rows)
    return state, manifest, manifest.sequence + len(changes), end


def write_segments(
    folder: Path, state: State, manifest: Manifest, kind: IndexKind
) -> tuple[State, tuple[dict[str, Any], ...]]:
    """Return `state` with its new segments mapped from the files they were written to, and the entries of all."""
    generation = manifest.generation + 1
    known = {entry["name"]: entry for entry in manifest.segments}
    segments: list[Segment] = []
    entries = []
    for number, segment in enumerate(state.segments):
        if segment.name not in known:
            entry = write_segment(folder, f"segment-{generation}-{number}", segment)
            segment = read_segment(folder, entry, kind, manifest.dimension)
            known[segment.name] = entry
        segments.append(segment)
        entries.append(known[segment.name])
    return replace(state, segments=tuple(segments)), tuple(entries)


def write_generation(
    folder: Path, state: State, entries: tuple[dict[str, Any], ...], old: Manifest, sequence: int
) -> tuple[Manifest, ChangeLog]:
    """Write which rows are dead, a new log with the rows of the tail, and the manifest that makes them count."""
    generation = old.generation + 1
    dead = write_dead(folder, f"removed-{generation}.safetensors", state)
    log = ChangeLog.begin(folder / f"log-{generation}.bin", old.dimension, sequence=sequence)
    try:
        tail, living = state.tail, state.tail.living()
        if len(living):
            log.append("add", tail.ids[living], tail.times[living], tail.rows[living])
            log.keep()
        sync(folder)
        manifest = replace(
            old, generation=generation, sequence=sequence, log=log.path.name, segments=entries, dead=dead
        )
        manifest.write(folder)
    except BaseException:
        log.close()
        raise
    return manifest, log


def took_effect(folder: Path, generation: int) -> bool:
    """Return whether the manifest is that of `generation`, or cannot be told from it."""
    try:
        return read_manifest(folder).generation == generation
    except ArtifactCorruptError:
        return True


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Read every file that `manifest` names and check it.

    Raises
    ------
    ArtifactCorruptError
        At the first damaged file; the message names it.
    """
    read_manifest(folder)
    recorded = {name: facts for entry in manifest.segments for name, facts in entry["files"].items()}
    if manifest.dead:
        recorded[manifest.dead["name"]] = manifest.dead
    for name, facts in recorded.items():
        try:
            checked_content(folder / name, facts)
        except OSError as error:
            raise ArtifactCorruptError(f"cannot read {folder / name}: {error.strerror or error}") from error
    read_log(folder / manifest.log, manifest.dimension, sequence=manifest.sequence)


def clear_away(folder: Path, manifest: Manifest) -> None:
    """Remove files of ours that `manifest` does not name: of earlier snapshots, and of attempts that failed."""
    kept = manifest.files()
    for name in _ours(folder):
        if name not in kept:
            with suppress(OSError):
                (folder / name).unlink()


def orphans(folder: Path) -> list[str]:
    """Return the names of files in a folder without a manifest that may hold rows.

    An attempt to make an index that failed leaves an empty log, no more.
    """
    left = (name for name in _ours(folder) if name != FRESH)
    return [name for name in left if (folder / name).stat().st_size > EMPTY_LOG_BYTES]


def _ours(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if _OURS.fullmatch(path.name))
