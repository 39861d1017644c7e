"""Segments and manifests on disk.

``manifest.json`` names everything else with lengths and checksums, and is replaced by rename. A segment is three files
that never change: ``.safetensors`` (ids, times and the checksums of the blocks of rows), ``.rows`` (float32, mapped;
absent where rows are not kept) and ``.faiss`` (the structure; absent where all rows are scanned, on a device or not).
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from llmrouter._files import json_bytes, read_json_object
from llmrouter.exceptions import ArtifactCorruptError, ConfigError
from llmrouter.index import _structure
from llmrouter.index._disk import replace_file, write_file
from llmrouter.index._kinds import IndexKind
from llmrouter.index._ranking import BoolArray
from llmrouter.index._resident import Scan, resident
from llmrouter.index._rows import DecodedRows, MappedRows, MemoryRows, Rows, block_rows, block_sums
from llmrouter.index._segment import Segment
from llmrouter.index._state import State, Tail

MANIFEST = "manifest.json"
_LAYOUT = 1


@dataclass(frozen=True, slots=True)
class Manifest:
    """What ``manifest.json`` says.

    Attributes
    ----------
    dimension : int
        Length d of the rows.
    kind : IndexKind
        What new segments become.
    fingerprint : str
        Of the encoder the rows come from; empty where it was not told.
    generation : int
        Number of the snapshot.
    sequence : int
        Number of the last change the snapshot has.
    log : str
        File of the changes since.
    segments : tuple of dict
        As `write_segment` gave them.
    dead : dict or None
        File of the removed rows, with length and checksum.
    """

    dimension: int
    kind: IndexKind
    fingerprint: str
    generation: int
    sequence: int
    log: str
    segments: tuple[dict[str, Any], ...] = ()
    dead: dict[str, Any] | None = None

    def files(self) -> set[str]:
        """Return the names of all files the manifest refers to."""
        names = {MANIFEST, self.log}
        for entry in self.segments:
            names |= set(entry["files"])
        return names | ({self.dead["name"]} if self.dead else set())

    def write(self, folder: Path) -> None:
        """Make this the manifest of `folder`."""
        value = {
            "kind": "segments",
            "layout": _LAYOUT,
            "dimension": self.dimension,
            "index": self.kind.to_json(),
            "fingerprint": self.fingerprint,
            "generation": self.generation,
            "sequence": self.sequence,
            "log": self.log,
            "segments": list(self.segments),
            "dead": self.dead,
        }
        replace_file(folder / MANIFEST, json_bytes({**value, "crc32": _checksum(value)}))


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of `folder`.

    Raises
    ------
    ArtifactCorruptError
        If it is missing, damaged or of another layout.
    """
    path = folder / MANIFEST
    if not path.exists():
        saved = (folder / "index.json").exists()
        remedy = "read what save() wrote with load_index" if saved else "make an index there with StoredIndex.create"
        raise ArtifactCorruptError(f"there is no {path}: restore it if it is lost, or {remedy}")
    value = read_json_object(path)
    recorded = value.pop("crc32", None)
    if recorded != _checksum(value):
        raise ArtifactCorruptError(f"{path} is corrupt: its checksum does not match; restore or rebuild the index")
    if value.get("kind") != "segments" or value.get("layout") != _LAYOUT:
        raise ArtifactCorruptError(
            f"{path}: kind {value.get('kind')!r}, layout {value.get('layout')!r}; this version reads kind 'segments', "
            f"layout {_LAYOUT}"
        )
    try:
        kind = IndexKind(**value["index"])
        return Manifest(
            value["dimension"],
            kind,
            value["fingerprint"],
            value["generation"],
            value["sequence"],
            value["log"],
            tuple(value["segments"]),
            value["dead"],
        )
    except (KeyError, TypeError, ConfigError) as error:
        raise ArtifactCorruptError(f"{path}: {error}; it may be of a newer version") from error


def write_segment(folder: Path, name: str, segment: Segment) -> dict[str, Any]:
    """Write the files of a segment and return its entry for the manifest."""
    files: dict[str, dict[str, int]] = {}
    sums = np.empty(0, np.uint32)
    if not isinstance(segment.rows, DecodedRows):
        rows = segment.rows.all()
        sums = block_sums(rows)
        size = block_rows(rows.shape[1])
        parts = (rows[at : at + size].data for at in range(0, len(rows), size))
        files[f"{name}.rows"] = write_file(folder / f"{name}.rows", parts)
    structure = segment.structure if isinstance(segment.structure, _structure.Structure) else None
    if structure is not None:
        files[f"{name}.faiss"] = write_file(folder / f"{name}.faiss", [structure.dump()])
    content = save({"ids": segment.ids, "times": segment.times, "sums": sums})
    files[f"{name}.safetensors"] = write_file(folder / f"{name}.safetensors", [memoryview(content)])
    return {
        "name": name,
        "rows": len(segment.ids),
        "max_length": segment.max_length,
        "effort": structure.effort if structure else 0,
        "overfetch": structure.overfetch if structure else 1,
        "files": files,
    }


def read_segment(folder: Path, entry: dict[str, Any], manifest_kind: IndexKind, dimension: int) -> Segment:
    """Return the segment that `entry` of the manifest names, with its rows mapped.

    Everything is checked but the rows, which are when they are first read (see `MappedRows`): here, where they are
    copied to a device.

    Raises
    ------
    ArtifactCorruptError
        If a file is missing, has another length or checksum; the message names it.
    FileNotFoundError
        If a file is missing.
    """
    name, count, files = entry["name"], entry["rows"], entry["files"]
    path = folder / f"{name}.safetensors"
    content = checked_content(path, files[path.name])
    try:
        arrays = load(bytes(content))
        ids, times, sums = arrays["ids"], arrays["times"], arrays["sums"]
    except (SafetensorError, KeyError) as error:
        raise ArtifactCorruptError(f"cannot read {path}: {error}; restore or rebuild the index") from error
    mapped: MappedRows | None = None
    if f"{name}.rows" in files:
        memory = _mapped(folder / f"{name}.rows", files[f"{name}.rows"])
        rows = memory.view(np.float32).reshape(count, dimension)
        mapped = MappedRows(folder / f"{name}.rows", rows, sums)
    structure: _structure.Structure | Scan | None = None
    if mapped is not None and manifest_kind.resident:
        structure = resident(manifest_kind, mapped)
    elif f"{name}.faiss" in files:
        checked_content(folder / f"{name}.faiss", files[f"{name}.faiss"])
        structure = _structure.load(
            manifest_kind,
            folder / f"{name}.faiss",
            None if mapped is None else mapped.array,
            effort=entry["effort"],
            overfetch=entry["overfetch"],
        )
    stored: Rows
    if mapped is not None:
        stored = mapped
    elif isinstance(structure, _structure.Structure):
        stored = DecodedRows(structure)
    else:
        stored = MemoryRows(np.empty((0, dimension), np.float32))
    return Segment(ids, times, stored, structure, entry["max_length"], name)


def checked_content(path: Path, recorded: dict[str, int]) -> npt.NDArray[np.uint8]:
    """Return the mapped bytes of a file after its checksum was found right.

    Raises
    ------
    ArtifactCorruptError
        If its length or checksum is another; the message names the file.
    """
    memory = _mapped(path, recorded)
    if zlib.crc32(memory.data if len(memory) else b"") != recorded["crc32"]:
        raise ArtifactCorruptError(f"{path} is corrupt: its checksum does not match; restore or rebuild the index")
    return memory


def write_dead(folder: Path, name: str, state: State) -> dict[str, Any] | None:
    """Write which rows of named segments were removed and return the entry for the manifest; None if none were."""
    masks = {
        segment.name: np.packbits(alive)
        for segment, alive in zip(state.segments, state.alive, strict=True)
        if alive is not None
    }
    if not masks:
        return None
    return {"name": name, **write_file(folder / name, [memoryview(save(masks))])}


def read_state(folder: Path, manifest: Manifest) -> State:
    """Return the state of the snapshot, without the changes of the log."""
    segments = tuple(read_segment(folder, entry, manifest.kind, manifest.dimension) for entry in manifest.segments)
    masks: dict[str, Any] = {}
    if manifest.dead:
        masks = load(bytes(checked_content(folder / manifest.dead["name"], manifest.dead)))
    alive: tuple[BoolArray | None, ...] = tuple(
        np.unpackbits(masks[segment.name], count=len(segment.ids)).astype(np.bool_) if segment.name in masks else None
        for segment in segments
    )
    size = sum(
        len(segment.ids) if mask is None else int(mask.sum()) for segment, mask in zip(segments, alive, strict=True)
    )
    return State(segments, alive, Tail.empty(manifest.dimension), size)


def _mapped(path: Path, recorded: dict[str, int]) -> npt.NDArray[np.uint8]:
    length = path.stat().st_size
    if length != recorded["bytes"]:
        raise ArtifactCorruptError(
            f"{path} is corrupt: it has {length} bytes, recorded are {recorded['bytes']}; restore or rebuild the index"
        )
    if length == 0:
        return np.empty(0, np.uint8)
    return np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))


def _checksum(value: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(value, sort_keys=True, ensure_ascii=True).encode())
