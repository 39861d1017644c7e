"""The contract of verifiers, and how one is made from a specification."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from llmrouter import registry
from llmrouter.exceptions import ConfigError

_FENCE = "```"
_LANGUAGE = re.compile(r"[A-Za-z0-9_+-]{0,20}\Z")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verifier says of one answer.

    Attributes
    ----------
    quality : float
        In [0, 1].
    detail : str
        Why, in a few words; holds nothing of the answer.
    """

    quality: float
    detail: str = ""


@runtime_checkable
class Verifier(Protocol):
    """Judges an answer without a model: by comparison, by its form, or by running it.

    Registered under the kind ``verifier``. What it is made with are JSON values, so that a specification can come with
    a request; a constructor checks them and does nothing that takes time.
    """

    def verify(self, answer: str, /) -> Verdict:
        """Judge the text of an answer.

        Raises
        ------
        SignalError
            If it cannot be judged; that is no judgement.
        """
        ...


def create_verifier(spec: Mapping[str, Any]) -> Verifier:
    """Return the verifier of a specification: ``{"kind": "numeric", "answer": 42}``.

    Raises
    ------
    ConfigError
        If the kind or a parameter is unknown, missing or wrong.
    MissingExtraError
        If it needs a package that is not installed.
    """
    kind = spec.get("kind")
    if not isinstance(kind, str):
        known = ", ".join(registry.available("verifier"))
        raise ConfigError(f"kind {kind!r} of a verifier must be one of {known}", path="kind")
    if not all(isinstance(name, str) for name in spec):
        raise ConfigError(f"the parameters of the verifier {kind!r} must have texts as names")
    verifier: Verifier = registry.create("verifier", kind, **{k: v for k, v in spec.items() if k != "kind"})
    return verifier


def fenced_blocks(answer: str) -> list[tuple[str, str]]:
    """Return (language, content) of the blocks between lines of three backticks, in order; an open one is left out."""
    blocks = []
    language: str | None = None
    lines: list[str] = []
    for line in answer.splitlines(keepends=True):
        mark = line.strip()
        if language is None:
            if mark.startswith(_FENCE) and _LANGUAGE.match(mark[len(_FENCE) :].strip()):
                language, lines = mark[len(_FENCE) :].strip().lower(), []
        elif mark == _FENCE:
            blocks.append((language, "".join(lines)))
            language = None
        else:
            lines.append(line)
    return blocks


def boxed(answer: str) -> str | None:
    r"""Return what the last ``\boxed{...}`` holds, None where there is none or it is not closed."""
    start = answer.rfind(r"\boxed{")
    if start < 0:
        return None
    begin = start + len(r"\boxed{")
    depth = 1
    for place in range(begin, len(answer)):
        depth += {"{": 1, "}": -1}.get(answer[place], 0)
        if depth == 0:
            return answer[begin:place]
    return None


def whole_object(reply: str) -> dict[str, Any] | None:
    """Return the JSON object that is all of a model's reply, be it in one block of backticks; None for anything else.

    An object that had to be looked for in prose could be one that the text under judgement has placed there. One that
    has a key twice is refused: readers differ in which of the two counts.
    """
    text = reply.strip()
    blocks = fenced_blocks(text)
    if text.startswith("```") and text.endswith("```") and len(blocks) == 1:
        text = blocks[0][1].strip()
    try:
        told = json.loads(text, object_pairs_hook=_no_key_twice)
    except (ValueError, RecursionError):
        return None
    return told if isinstance(told, dict) else None


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("a key comes twice")
    return dict(pairs)
