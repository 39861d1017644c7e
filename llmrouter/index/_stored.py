"""An index in a folder: every acknowledged change survives a crash."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from llmrouter.exceptions import ArtifactCorruptError, FingerprintError, VectorIndexError
from llmrouter.index._disk import disk_error, sync_folder
from llmrouter.index._kinds import IndexKind
from llmrouter.index._log import ChangeLog, read_log
from llmrouter.index._segment import Segment
from llmrouter.index._segmented import SegmentedIndex
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
from llmrouter.types import FloatArray, IntArray

_LOCK = "lock"
_LOG_LIMIT_BYTES = 1 << 26
_ATTEMPTS = 5


class StoredIndex(SegmentedIndex):
    """A `SegmentedIndex` whose changes are on disk when a method returns. Made by `create` and `open`.

    Notes
    -----
    Changes go to an append-only log (one record each, synchronised); when the tail is full it is written as a segment
    with a new manifest and a new log (a snapshot). Many rows added at once go straight into a segment. Rows and
    structures are mapped, not read. One process writes; others may open the folder with ``read_only=True`` and see it
    as it was then. After `close`, searches still work and changes are refused.
    """

    _folder: Path
    _manifest: Manifest
    _log: ChangeLog | None = None
    _lock: int = -1

    @classmethod
    def create(
        cls, folder: str | Path, dimension: int, kind: IndexKind | None = None, *, fingerprint: str = ""
    ) -> Self:
        """Make an empty index in `folder` and open it.

        Parameters
        ----------
        folder : path
            Made if it is not there.
        dimension : int
            Length d of the rows.
        kind : IndexKind, optional
            How sealed segments are searched; ``flat`` by default.
        fingerprint : str
            Of the encoder that makes the rows.

        Raises
        ------
        VectorIndexError
            If there is an index already, or the folder cannot be written.
        """
        folder = Path(folder)
        index = cls(dimension, kind)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            index._take(folder)
            if (folder / MANIFEST).exists():
                raise VectorIndexError(f"{folder} has an index already; open it, or choose another folder")
            log = ChangeLog.begin(folder / "log-0.bin", index.dimension, sequence=0)
            index._log = log
            index._manifest = Manifest(index.dimension, index.kind, fingerprint, 0, 0, log.path.name)
            index._manifest.write(folder)
        except OSError as error:
            index.close()
            raise disk_error(folder, error) from error
        except BaseException:
            index.close()
            raise
        return index

    @classmethod
    def open(cls, folder: str | Path, *, fingerprint: str | None = None, read_only: bool = False) -> Self:
        """Open the index in `folder`.

        Parameters
        ----------
        folder : path
            Where `create` made it.
        fingerprint : str, optional
            Of the encoder at hand; the index must be of the same.
        read_only : bool
            Only search; needs no right to write, and no lock.

        Raises
        ------
        ArtifactCorruptError
            If a file is missing or damaged; the message names it.
        FingerprintError
            If the index belongs to another encoder.
        VectorIndexError
            If another process writes the index, or the folder cannot be written.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        index = cls(manifest.dimension, manifest.kind)
        index._folder = folder
        if fingerprint is not None and manifest.fingerprint != fingerprint:
            raise FingerprintError(
                f"{folder} was filled by the encoder {manifest.fingerprint or '(not recorded)'!r}, not by "
                f"{fingerprint!r}: open it with that encoder, or fill a new index"
            )
        try:
            if not read_only:
                index._take(folder)
            index._read(read_only=read_only)
        except OSError as error:
            index.close()
            raise VectorIndexError(
                f"cannot open {error.filename or folder} for writing: {error.strerror or error}; make it writable, or "
                "open the index with read_only=True"
            ) from error
        except BaseException:
            index.close()
            raise
        return index

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the encoder the rows come from; empty where it was not told."""
        return self._manifest.fingerprint

    @property
    def folder(self) -> Path:
        """Where the index is."""
        return self._folder

    def snapshot(self) -> None:
        """Write the rows of the log as a segment and begin a new log, so that opening has nothing to replay."""
        with self._writing:
            if self._manifest.sequence != self._open_log().sequence:
                self._replace(self._state.sealed(self._kind, None, all_=False))

    def compact(self) -> None:
        """Rebuild all rows as one segment, without what was removed; searches go on meanwhile.

        Of more than four million rows, as several, so that the memory this takes has a bound.
        """
        with self._writing:
            self._open_log()
            super().compact()

    def verify(self) -> None:
        """Read every file and check it.

        Raises
        ------
        ArtifactCorruptError
            At the first damaged file; the message names it.
        """
        with self._writing:
            manifest = self._manifest
            read_manifest(self._folder)
            for entry in manifest.segments:
                for name, recorded in entry["files"].items():
                    _checked(self._folder / name, recorded)
            if manifest.dead:
                _checked(self._folder / manifest.dead["name"], manifest.dead)
            read_log(self._folder / manifest.log, self.dimension, sequence=manifest.sequence)

    def save(self, folder: Path, /) -> None:
        """Write a copy of the index into another folder.

        Raises
        ------
        VectorIndexError
            If there is an index already, or the folder cannot be written.
        """
        with type(self).create(folder, self.dimension, self.kind, fingerprint=self.fingerprint) as other:
            other._replace(self._state.sealed(self._kind, None, all_=True))

    @classmethod
    def load(cls, folder: Path, /) -> Self:
        """Open the index in `folder`; see `open`."""
        return cls.open(folder)

    def close(self) -> None:
        """Close the files and let another process write; searches still work."""
        with self._writing:
            if self._log is not None:
                self._log.close()
            if self._lock >= 0:
                os.close(self._lock)
                self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _empty_copy(self) -> SegmentedIndex:
        return SegmentedIndex(self.dimension, self.kind)

    def _take(self, folder: Path) -> None:
        """Become the one writer of `folder`."""
        import fcntl  # not on Windows, where indexes in memory still work

        self._folder = folder
        self._lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise VectorIndexError(
                f"{folder} is being written by another process or object; open it with read_only=True"
            ) from error

    def _read(self, *, read_only: bool) -> None:
        """Read manifest, segments and log; a writer may replace them meanwhile where we hold no lock."""
        for attempt in range(_ATTEMPTS):
            manifest = read_manifest(self._folder)
            try:
                state = read_state(self._folder, manifest)
                path = self._folder / manifest.log
                changes, end = read_log(path, manifest.dimension, sequence=manifest.sequence)
                break
            except (FileNotFoundError, ArtifactCorruptError) as error:
                unchanged = read_manifest(self._folder).generation == manifest.generation
                if unchanged or attempt == _ATTEMPTS - 1:
                    if isinstance(error, FileNotFoundError):
                        raise ArtifactCorruptError(f"cannot read {error.filename}: {error.strerror}") from error
                    raise
        for change in changes:
            state = state.without(change.ids) if change.operation != "add" else state
            if change.rows:
                state = state.with_added(change.ids, *change.rows)
        self._state, self._manifest = state, manifest
        if not read_only:
            self._log = ChangeLog(path, manifest.dimension, end=end, sequence=manifest.sequence + len(changes))
            self._clean()

    def _open_log(self) -> ChangeLog:
        if self._log is None or self._lock < 0:
            raise VectorIndexError(f"{self._folder} is open for searching only; open it for writing")
        return self._log

    def _put(self, state: State, rows: tuple[IntArray, FloatArray, FloatArray], operation: str) -> None:
        self._open_log()
        super()._put(state, rows, operation)
        self._bound_the_log()

    def remove(self, ids: IntArray, /) -> None:
        """Remove rows by id.

        Raises
        ------
        VectorIndexError
            If an id is not there or repeats, or the change cannot be written; the index is unchanged then.
        """
        with self._writing:
            self._open_log()
            super().remove(ids)
            self._bound_the_log()

    def _bound_the_log(self) -> None:
        """Begin a new log where the old one is long; the change is acknowledged even if there is no room for that."""
        if self._open_log().end > _LOG_LIMIT_BYTES:
            with suppress(VectorIndexError):
                self.snapshot()

    def _record(self, operation: str, ids: IntArray, *rows: FloatArray) -> None:
        self._open_log().append(operation, ids, *rows)

    def _replace(self, state: State) -> None:
        """Write new segments, a new log and then the manifest that makes them count."""
        old_log, old = self._open_log(), self._manifest
        generation = old.generation + 1
        fresh: ChangeLog | None = None
        try:
            state, entries = self._written(state, generation)
            dead = write_dead(self._folder, f"removed-{generation}.safetensors", state)
            sequence = old_log.sequence + 1  # the change that led here, if any, has no record
            fresh = ChangeLog.begin(self._folder / f"log-{generation}.bin", self.dimension, sequence=sequence)
            sync_folder(self._folder)
            manifest = Manifest(
                self.dimension, self._kind, old.fingerprint, generation, sequence, fresh.path.name, entries, dead
            )
            manifest.write(self._folder)
        except BaseException as error:
            if fresh is not None:
                fresh.close()
            if self._took_effect(generation):
                self.close()  # on disk, but perhaps not for good: let an opening decide
                raise VectorIndexError(
                    f"{self._folder}: {error}; the folder may have changed: open it again"
                ) from error
            self._clean()
            if isinstance(error, OSError):
                raise disk_error(self._folder, error) from error
            raise
        self._state, self._manifest, self._log = state, manifest, fresh
        old_log.close()
        self._clean()

    def _written(self, state: State, generation: int) -> tuple[State, tuple[dict[str, Any], ...]]:
        """Return `state` with its new segments mapped from the files they were written to, and all entries."""
        known = {entry["name"]: entry for entry in self._manifest.segments}
        segments: list[Segment] = []
        entries = []
        for number, segment in enumerate(state.segments):
            if segment.name not in known:
                entry = write_segment(self._folder, f"segment-{generation}-{number}", segment)
                segment = read_segment(self._folder, entry, self._kind, self.dimension)
                known[segment.name] = entry
            segments.append(segment)
            entries.append(known[segment.name])
        return replace(state, segments=tuple(segments)), tuple(entries)

    def _took_effect(self, generation: int) -> bool:
        """Return whether the manifest is that of `generation`, or cannot be told from it."""
        try:
            return read_manifest(self._folder).generation == generation
        except ArtifactCorruptError:
            return True

    def _clean(self) -> None:
        """Remove files that the manifest does not name: of earlier snapshots, and of attempts that failed."""
        kept = self._manifest.files() | {_LOCK}
        for pattern in ("segment-*", "log-*.bin", "removed-*.safetensors", f"{MANIFEST}.new"):
            for path in self._folder.glob(pattern):
                if path.name not in kept:
                    with suppress(OSError):
                        path.unlink()


def _checked(path: Path, recorded: dict[str, Any]) -> None:
    try:
        checked_content(path, recorded)
    except OSError as error:
        raise ArtifactCorruptError(f"cannot read {path}: {error.strerror or error}") from error
