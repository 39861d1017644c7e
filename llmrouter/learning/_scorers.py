"""Who judges the answers of a model that is taken in."""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import inspect
import json
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from llmrouter.exceptions import ConfigError, DataError
from llmrouter.learning._judge import LLMJudge
from llmrouter.verifiers import VerifierProcess

PLAIN = "plain"
_OF_PLAIN = frozenset({"answer", "case", "commas"})


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt to ask.

    Attributes
    ----------
    prompt_id : str
        Of the log or table.
    text : str
        What is asked, as one message of the user.
    reference : mapping or None
        How an answer is checked, e.g. ``{"kind": "numeric", "answer": 42}``; None where nobody knows.
    """

    prompt_id: str
    text: str
    reference: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """A judgement: quality in [0, 1], and what it cost to judge."""

    quality: float
    cost_usd: float = 0.0


@runtime_checkable
class Scorer(Protocol):
    """Judges answers.

    Attributes
    ----------
    name : str
        Kept with every score: scores of another scorer are not mixed.
    """

    name: str

    async def score(self, question: Question, answer: str, /) -> Score | None:
        """Return the judgement, or None where this answer cannot be judged.

        Raises
        ------
        LLMRouterError
            If judging failed; the answer is kept and can be judged again.
        """
        ...


class ReferenceScorer:
    """Check answers against the references of their questions; a question without one is not judged.

    Parameters
    ----------
    limit_s : float
        What one verifier may take; those that take patterns or code run in a process of their own.
    """

    name = "reference"

    def __init__(self, *, limit_s: float = 10.0) -> None:
        self.limit_s = limit_s
        self._process = VerifierProcess()

    async def score(self, question: Question, answer: str, /) -> Score | None:
        """Return what the reference's verifier says.

        Raises
        ------
        LLMRouterError
            If it does not know, is not known, or takes too long.
        """
        reference = question.reference
        if reference is None:
            return None
        if reference.get("kind", PLAIN) == PLAIN:
            return Score(check_plain(reference, answer))
        verdict = await asyncio.to_thread(self._process.verify, reference, answer, limit_s=self.limit_s)
        return Score(verdict.quality)

    def close(self) -> None:
        """End the verifiers' process."""
        self._process.close()


class JudgeScorer:
    """Have a model judge, pointwise, with the reference's answer beside it where there is one.

    Parameters
    ----------
    judge : LLMJudge
        Asks the model.
    """

    def __init__(self, judge: LLMJudge) -> None:
        self.name = f"judge:{judge.name}"
        self._judge = judge

    async def score(self, question: Question, answer: str, /) -> Score | None:
        """Return the judge's score; None where it gave no verdict.

        Raises
        ------
        BackendError
            If it cannot be reached.
        """
        right = "" if question.reference is None else str(question.reference.get("answer", ""))
        found = await self._judge.score(question.text, answer, reference=right)
        return None if found.quality is None else Score(found.quality, found.cost_usd)

    async def aclose(self) -> None:
        """Close the judge's connections."""
        await self._judge.backend.aclose()


class FunctionScorer:
    """Judge by a function of yours: ``function(prompt, answer, reference) -> float``, or a coroutine function of that.

    Parameters
    ----------
    function : callable
        Returns a quality in [0, 1] or None.
    name : str
        Kept with the scores.
    """

    def __init__(self, function: Callable[..., float | Awaitable[float | None] | None], *, name: str) -> None:
        self.name = name
        self._function = function

    @classmethod
    def of(cls, spec: str) -> FunctionScorer:
        """Return the scorer for ``package.module:function``.

        Raises
        ------
        ConfigError
            If it cannot be imported or is no function.
        """
        module, _, attribute = spec.partition(":")
        try:
            function = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(
                f"cannot import {spec!r} ({error}); write package.module:function, importable from here",
                path="--scorer",
            ) from error
        if not callable(function):
            raise ConfigError(f"{spec!r} is no function", path="--scorer")
        return cls(function, name=spec)

    async def score(self, question: Question, answer: str, /) -> Score | None:
        """Return what the function says.

        Raises
        ------
        DataError
            If that is no quality in [0, 1].
        """
        found = self._function(question.text, answer, question.reference)
        quality = await found if inspect.isawaitable(found) else found
        if quality is None:
            return None
        if not isinstance(quality, int | float) or not math.isfinite(quality) or not 0 <= quality <= 1:
            raise DataError(f"the scorer {self.name} must return a number in [0, 1] or None; got {quality!r}")
        return Score(float(quality))


def check_plain(reference: Mapping[str, Any], answer: str) -> float:
    """Return 1.0 where an answer is the reference's, else 0.0; blanks and a final full stop do not count.

    ``{"answer": "Paris"}`` ignores case; ``case: true`` makes it count, and ``commas: true`` takes commas for blanks.

    Raises
    ------
    DataError
        If the reference has no answer or an unknown key.
    """
    settings = {key: value for key, value in reference.items() if key != "kind"}
    if "answer" not in settings or not _OF_PLAIN.issuperset(settings):
        raise DataError(
            f"a plain reference has answer and perhaps {', '.join(sorted(_OF_PLAIN - {'answer'}))}; got "
            f"{', '.join(sorted(settings)) or 'nothing'} (other kinds of check need their kind)"
        )
    case, commas = bool(settings.get("case")), bool(settings.get("commas"))
    right = str(settings["answer"])
    return float(_plain(answer, case=case, commas=commas) == _plain(right, case=case, commas=commas))


def _plain(text: str, *, case: bool, commas: bool) -> str:
    text = " ".join((text.replace(",", " ") if commas else text).split()).removesuffix(".").rstrip()
    return text if case else text.casefold()


@dataclass(frozen=True)
class References:
    """How answers are checked, by prompt id or by the prompt's text.

    Attributes
    ----------
    by_id, by_text : mapping
        Key (a text's SHA-256) -> reference.
    """

    by_id: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    by_text: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def of(self, prompt_id: str, text: str) -> Mapping[str, Any] | None:
        """Return the reference of a prompt, None where there is none."""
        return self.by_id.get(prompt_id) or self.by_text.get(text_hash(text))

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.by_id) + len(self.by_text)


def text_hash(text: str) -> str:
    """Return the SHA-256 of a text, in hex."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def references_of(rows: list[Any], *, source: str) -> References:
    """Return references from objects with ``prompt_id`` or ``prompt``, and ``answer`` (or ``reference``), ``kind``.

    Raises
    ------
    DataError
        If one is not of that form.
    """
    by_id: dict[str, Mapping[str, Any]] = {}
    by_text: dict[str, Mapping[str, Any]] = {}
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise DataError(
                f"{source}[{number}] must be an object with prompt_id or prompt, and answer; got {row!r:.80}"
            )
        rest = {key: value for key, value in row.items() if key not in ("prompt_id", "prompt")}
        text, prompt_id = row.get("prompt"), row.get("prompt_id")
        if not rest or not (isinstance(text, str) or isinstance(prompt_id, str)):
            raise DataError(f"{source}[{number}] needs prompt_id or prompt (text), and how to check: answer, kind, ...")
        if isinstance(prompt_id, str):
            by_id[prompt_id] = rest
        if isinstance(text, str):
            by_text[text_hash(text)] = rest
    return References(by_id, by_text)


def read_references(path: Path) -> References:
    """Read references from a JSONL file; see `references_of`.

    Raises
    ------
    DataError
        If it cannot be read, or a line is wrong.
    """
    return references_of(read_lines(path), source=str(path))


def read_lines(path: Path) -> list[Any]:
    """Return the values of a JSONL file.

    Raises
    ------
    DataError
        If it cannot be read, or a line is not JSON.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise DataError(f"{path}, line {number}, is not JSON: {error}") from error
    return rows
