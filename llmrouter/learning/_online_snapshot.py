"""What an online learner knows, on disk: a restart goes on from there instead of reading the log again."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save

from llmrouter._files import write_atomically
from llmrouter.exceptions import ArtifactCorruptError
from llmrouter.learning._online import OnlineLearner
from llmrouter.learning._online_window import Row
from llmrouter.types import Outcome

_LAYOUT = 1
_KEPT = (
    "request_id",
    "time",
    "model",
    "served_by",
    "key_id",
    "team",
    "conversation_id",
    "status",
    "policy",
    "output_tokens",
    "cost_usd",
    "quality",
    "quality_source",
    "quality_weight",
    "quality_time",
    "quality_by",
)
_HEADER = "llmrouter.online"


def save_online(learner: OnlineLearner, path: Path, *, log: str = "", more: dict[str, Any] | None = None) -> None:
    """Write a learner's window and cursor; no prompt text is in it, embeddings are.

    Parameters
    ----------
    learner : OnlineLearner
        Encodes first what still waits for it.
    path : Path
        Replaced as a whole.
    log : str
        Names the log that the cursor belongs to.
    more : dict, optional
        Kept beside it (JSON) and returned by `load_online`.

    Raises
    ------
    OSError
        If it cannot be written; what was there stays.
    """
    learner.encode()
    rows = list(learner.window)
    vectors = np.zeros((len(rows), learner.base.encoder.dimension), dtype=np.float32)
    for number, row in enumerate(rows):
        if row.vector is not None:
            vectors[number] = row.vector
    header = {
        "layout": _LAYOUT,
        "key": learner.key,
        "log": log,
        "cursor": learner.cursor,
        "events": learner.events,
        "learned": learner.learned,
        "passed_over": dict(learner.passed_over),
        "outcomes": [{name: getattr(row.outcome, name) for name in _KEPT} for row in rows],
        "more": {} if more is None else more,
    }
    arrays = {
        "vectors": vectors,
        "expected": np.array([row.expected for row in rows], dtype=np.float64),
    }
    write_atomically(path, save(arrays, metadata={_HEADER: json.dumps(header)}))


def load_online(learner: OnlineLearner, path: Path, *, log: str = "") -> dict[str, Any] | None:
    """Take back what `save_online` wrote, and return its `more`.

    Returns
    -------
    dict or None
        None, and nothing taken back, if there is no such file, or it is of another artifact, pool, log or parameters:
        then the log has to be read again.

    Raises
    ------
    ArtifactCorruptError
        If the file is damaged; nothing is taken back then.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ArtifactCorruptError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        with safe_open(path, framework="np") as file:
            header = json.loads(file.metadata()[_HEADER])
        arrays = load(content)
        if header["layout"] != _LAYOUT or (header["key"], header["log"]) != (learner.key, log):
            return None
        outcomes = [Outcome(**{**entry, "quality_by": tuple(entry["quality_by"])}) for entry in header["outcomes"]]
        rows = [
            Row(outcome, vector, expected, learner.features.of(vector[None])[0], complete=True)
            if np.isfinite(expected)
            else Row(outcome, complete=True)  # its prompt could not be encoded
            for outcome, vector, expected in zip(outcomes, arrays["vectors"], arrays["expected"].tolist(), strict=True)
        ]
        cursor, events, learned = str(header["cursor"]), int(header["events"]), int(header["learned"])
        passed_over, more = Counter(header["passed_over"]), dict(header["more"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ArtifactCorruptError(f"{path} is damaged ({error!r}); delete it, the log is read again") from error
    learner.forget()
    for row in rows:
        learner.window.put(row)
    learner.cursor, learner.events, learner.learned = cursor, events, learned
    learner.passed_over = passed_over
    return more
