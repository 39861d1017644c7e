"""An index in a folder: every acknowledged change survives a crash."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from llmrouter.exceptions import FingerprintError, VectorIndexError
from llmrouter.index import _generation
from llmrouter.index._catch_up import caught_up
from llmrouter.index._disk import disk_error, locked
from llmrouter.index._kinds import IndexKind
from llmrouter.index._log import ChangeLog
from llmrouter.index._segmented import SegmentedIndex
from llmrouter.index._snapshot import MANIFEST, Manifest, read_manifest
from llmrouter.index._state import State
from llmrouter.types import FloatArray, IntArray

_LOG_LIMIT_BYTES = 1 << 26


class StoredIndex(SegmentedIndex):
    """A `SegmentedIndex` whose changes are on disk when a method returns. Made by `create` and `open`.

    Notes
    -----
    Changes go to an append-only log (one record each, synchronised); when the tail is full it is written as a segment
    with a new manifest and a new log (a snapshot). Many rows at once go straight into a segment, unless it is built in
    the background. Rows and structures are mapped. One process writes; others may open the folder with
    ``read_only=True`` and see it as it was then. After `close`, searches still work and changes are refused.
    """

    _folder: Path
    _manifest: Manifest
    _log: ChangeLog | None = None
    _lock: int = -1
    _intended: State | None = None

    @classmethod
    def create(
        cls, folder: str | Path, dimension: int, kind: IndexKind | str | None = None, *, fingerprint: str = ""
    ) -> Self:
        """Make an empty index in `folder` and open it.

        Parameters
        ----------
        folder : path
            Made if it is not there.
        dimension : int
            Length d of the rows.
        kind : IndexKind or str, optional
            How sealed segments are searched, as such or as in ``hnsw:m=32``; ``flat`` by default.
        fingerprint : str
            Of the encoder that makes the rows.

        Raises
        ------
        VectorIndexError
            If there is an index already, or what is left of one, `fingerprint` is no text, or the folder cannot be
            written.
        ConfigError
            If `kind` names none, or a parameter of it is wrong.
        """
        folder = Path(folder)
        if not isinstance(fingerprint, str):
            raise VectorIndexError(f"fingerprint must be text, as Encoder.fingerprint is, not {fingerprint!r}")
        index = cls(dimension, kind)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            index._take(folder)
            if (folder / MANIFEST).exists():
                raise VectorIndexError(f"{folder} has an index already; open it, or choose another folder")
            if orphans := _generation.orphans(folder):
                raise VectorIndexError(
                    f"{folder} has files of an index ({', '.join(orphans[:3])}) and no {MANIFEST}: restore that, or "
                    "choose another folder"
                )
            log = ChangeLog.begin(folder / "log-0.bin", index.dimension, sequence=0)
            index._log = log
            index._manifest = Manifest(index.dimension, index.kind, fingerprint, 0, 0, log.path.name)
            index._manifest.write(folder)
        except BaseException as error:
            index.close()
            if isinstance(error, OSError):
                raise disk_error(folder, error) from error
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
            if manifest.kind.background:
                index._seal_if_due()
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
        with self._sealing if self._kind.background else self._writing:
            if self._manifest.sequence == self._open_log().sequence:
                return
            if self._kind.background:
                self._rebuild(all_=False)
            else:
                self._replace(self._state.sealed(self._kind, None, all_=False))

    def compact(self) -> None:
        """Rebuild all rows as one segment, or a few; see `SegmentedIndex.compact`."""
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
            _generation.verify_files(self._folder, self._manifest)

    def save(self, folder: Path, /) -> None:
        """Write a copy of the index into another folder; `VectorIndexError` as from `create`."""
        with type(self).create(folder, self.dimension, self.kind, fingerprint=self.fingerprint) as other:
            other._replace(self._state.sealed(self._kind, None, all_=True))

    @classmethod
    def load(cls, folder: Path, /) -> Self:
        """Open the index in `folder`; see `open`."""
        return cls.open(folder)

    def close(self) -> None:
        """Close the files and let another process write; searches still work.

        What is being sealed in the background is waited for; where that fails, its rows are in the log.
        """
        with suppress(Exception):  # told in the log of the program
            self._sealer.wait()
        self._release()

    def _release(self) -> None:
        with self._writing:
            if self._log is not None:
                with suppress(VectorIndexError):  # what is left over was not acknowledged
                    self._settle(self._log)
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
        self._folder = folder
        self._lock = locked(folder / _generation.LOCK)
        if self._lock < 0:
            raise VectorIndexError(
                f"{folder} is being written by another process or object; open it with read_only=True"
            )

    def _read(self, *, read_only: bool) -> None:
        self._state, self._manifest, sequence, end = _generation.read_folder(self._folder)
        if not read_only:
            self._log = ChangeLog(self._folder / self._manifest.log, self.dimension, end=end, sequence=sequence)
            _generation.clear_away(self._folder, self._manifest)

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
        """Begin a new log where the old one is long; the change is made even if there is no room for that."""
        if self._kind.background:
            self._seal_if_due()
        elif self._open_log().end > _LOG_LIMIT_BYTES:
            with suppress(VectorIndexError):
                self.snapshot()

    def _due(self) -> bool:
        if self._log is None or self._lock < 0:
            return False
        return super()._due() or self._log.end > _LOG_LIMIT_BYTES

    def _change(self, state: State, operation: str, ids: IntArray, *rows: FloatArray) -> None:
        log = self._open_log()
        self._settle(log)
        self._intended = state
        log.append(operation, ids, *rows)
        self._state = state
        log.keep()

    def _settle(self, log: ChangeLog) -> None:
        """Let the log say what the state does, where something interrupted the last change, such as Ctrl-C."""
        if log.loose:
            if self._state is self._intended:
                log.keep()
            else:
                log.drop()
        self._intended = None

    def _replace(self, state: State) -> None:
        """Write new segments, a new log and then the manifest that makes them count."""
        self._open_log()
        try:
            written, entries = _generation.write_segments(self._folder, state, self._manifest, self._kind)
            self._commit(written, entries)
        except BaseException as error:
            self._clear_up(error)
            raise

    def _rebuild(self, *, all_: bool) -> None:
        """Build segments and write them while changes go on; then write those to a new log, and the manifest."""
        with self._sealing:
            self._open_log()  # what another process may write by now is not ours to touch
            before = self._state
            try:
                sealed = before.sealed(self._kind, None, all_=all_)
                written, entries = _generation.write_segments(self._folder, sealed, self._manifest, self._kind)
                with self._writing:
                    self._commit(caught_up(written, before, self._state), entries)
            except BaseException as error:
                with self._writing:
                    self._clear_up(error)
                raise

    def _commit(self, state: State, entries: tuple[dict[str, Any], ...]) -> None:
        """Make `state`, whose segments are written, the current one, with the rows of its tail in a new log."""
        old_log = self._open_log()
        self._settle(old_log)
        # one more than the last record: the change that led here, if any, has none
        manifest, fresh = _generation.write_generation(
            self._folder, state, entries, self._manifest, old_log.sequence + 1
        )
        self._state, self._manifest, self._log = state, manifest, fresh
        old_log.close()
        _generation.clear_away(self._folder, self._manifest)

    def _clear_up(self, error: BaseException) -> None:
        """Leave folder and index as they were before a snapshot that failed, or close, where that cannot be told."""
        if self._log is None or self._lock < 0:
            return
        if _generation.took_effect(self._folder, self._manifest.generation + 1):
            self._release()  # on disk, but perhaps not for good: let an opening decide
            raise VectorIndexError(f"{self._folder}: {error}; the folder may have changed: open it again") from error
        _generation.clear_away(self._folder, self._manifest)
        if isinstance(error, OSError):
            raise disk_error(self._folder, error) from error
