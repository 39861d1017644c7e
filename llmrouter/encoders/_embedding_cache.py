"""Embeddings of whole tables on disk, so that evaluation and training encode a table once."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from llmrouter._files import write_atomically
from llmrouter.encoders._base import Encoder
from llmrouter.encoders._inputs import checked_texts
from llmrouter.types import FloatArray

logger = logging.getLogger(__name__)

_CHUNK = 512
_CHECKSUM_BYTES = 4


def encode_cached(encoder: Encoder, texts: Sequence[str], *, folder: str | Path | None = None) -> FloatArray:
    """Return ``encoder.encode(texts)``, from disk where the same encoder has encoded the same texts before.

    Parameters
    ----------
    encoder : Encoder
        Its fingerprint is part of the file's name.
    texts : sequence of str
        The texts of a table, in its order; their SHA-256 is the other part.
    folder : str or Path, optional
        Where the files are; None is ``embeddings`` under ``$LLMROUTER_CACHE``, else under ``~/.cache/llmrouter``.

    Returns
    -------
    array of shape (n, d), float32

    Raises
    ------
    EncoderError
        If `texts` is not a sequence of strings; the message names the position.

    Notes
    -----
    A damaged file is encoded anew, and a folder that cannot be written costs the cache and not the result; both are
    logged as warnings. A progress bar is shown on a terminal where tqdm is installed.
    """
    texts = checked_texts(texts)
    path = cache_path(encoder, texts, folder=folder)
    if path.exists():
        try:
            stored = _read(path)
        except (OSError, ValueError, EOFError) as error:
            logger.warning("%s is damaged (%s); encoding anew", path, error)
        else:
            if stored.shape == (len(texts), encoder.dimension) and stored.dtype == np.float32:
                return stored
            logger.warning("%s holds %s %s, not the expected table; encoding anew", path, stored.shape, stored.dtype)
    vectors = np.empty((len(texts), encoder.dimension), dtype=np.float32)
    for start in _chunk_starts(len(texts)):
        vectors[start : start + _CHUNK] = encoder.encode(texts[start : start + _CHUNK])
    content = io.BytesIO()
    np.save(content, vectors, allow_pickle=False)
    try:
        write_atomically(path, content.getvalue() + _checksum(content.getbuffer()))
    except OSError as error:
        logger.warning("embeddings are not kept: cannot write %s (%s)", path, error)
    return vectors


def cache_path(encoder: Encoder, texts: Sequence[str], *, folder: str | Path | None = None) -> Path:
    """Return the file that `encode_cached` uses for these texts."""
    if folder is None:
        root = os.environ.get("LLMROUTER_CACHE") or Path.home() / ".cache" / "llmrouter"
        folder = Path(root) / "embeddings"
    digest = hashlib.sha256()
    for text in texts:
        encoded = text.encode()
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    name = re.sub(r"[^A-Za-z0-9._-]", "_", encoder.fingerprint)
    return Path(folder) / f"{name}-{digest.hexdigest()[:32]}.npy"


def _read(path: Path) -> FloatArray:
    """Return the array of a file, whose last bytes are its checksum."""
    content = memoryview(path.read_bytes())
    if _checksum(content[:-_CHECKSUM_BYTES]) != content[-_CHECKSUM_BYTES:]:
        raise ValueError("its checksum does not match")
    stored: FloatArray = np.load(io.BytesIO(content[:-_CHECKSUM_BYTES]), allow_pickle=False)
    return stored


def _checksum(content: memoryview) -> bytes:
    return zlib.crc32(content).to_bytes(_CHECKSUM_BYTES, "little")


def _chunk_starts(count: int) -> Iterator[int]:
    starts = range(0, count, _CHUNK)
    try:
        from tqdm import tqdm
    except ImportError:
        yield from starts
        return
    with tqdm(total=count, desc="encoding", unit=" texts", disable=None if len(starts) > 1 else True) as bar:
        for start in starts:
            yield start
            bar.update(min(_CHUNK, count - start))
