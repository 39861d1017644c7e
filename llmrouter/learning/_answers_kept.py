"""Answers that were paid for, kept on disk until the model they came from is taken in."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from llmrouter.exceptions import DataError


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """What a model answered on one prompt.

    Attributes
    ----------
    prompt_id, text_sha256 : str
        Which prompt.
    answer : str
        The text.
    input_tokens, output_tokens : int or None
        As the provider counted.
    cost_usd : float or None
        Of the call.
    quality : float or None
        None while nobody judged it.
    scorer : str
        Who did.
    scoring_usd : float
        What judging cost.
    """

    prompt_id: str
    text_sha256: str
    answer: str
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: float | None
    quality: float | None = None
    scorer: str = ""
    scoring_usd: float = 0.0

    def unjudged(self) -> KeptAnswer:
        """Return the answer without its score."""
        return replace(self, quality=None, scorer="", scoring_usd=0.0)


class AnswerFile:
    """A JSONL file, appended to and synced an answer at a time; the last line on a prompt holds.

    A line that was cut off by a crash is left out. The file is readable by its owner only: it holds texts of answers.

    Parameters
    ----------
    path : Path or None
        None keeps answers in memory only.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.answers: dict[str, KeptAnswer] = {}
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        except OSError as error:
            raise DataError(f"cannot read the kept answers {path}: {error.strerror or error}") from error
        for line in lines:
            kept = _parsed(line) if line.endswith(b"\n") else None
            if kept is not None:
                self.answers[kept.text_sha256] = kept
        self._torn = bool(lines) and not lines[-1].endswith(b"\n")

    def get(self, text_sha256: str) -> KeptAnswer | None:
        """Return what is kept on a prompt."""
        return self.answers.get(text_sha256)

    def put(self, kept: KeptAnswer) -> None:
        """Keep an answer; it is on disk on return.

        Raises
        ------
        DataError
            If it cannot be written.
        """
        self.answers[kept.text_sha256] = kept
        if self.path is None:
            return
        line = json.dumps(asdict(kept), ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                os.write(descriptor, b"\n" + line if self._torn else line)
                self._torn = False
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise DataError(f"cannot keep answers in {self.path}: {error.strerror or error}") from error

    def forget(self) -> None:
        """Remove the file."""
        self.answers.clear()
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def _parsed(line: bytes) -> KeptAnswer | None:
    try:
        found: Mapping[str, Any] = json.loads(line)
        return KeptAnswer(**found)
    except (ValueError, TypeError):
        return None
