"""What models are asked and what is read of their answers: probes, and the tokens of logit footprints."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from llmrouter._files import json_bytes, read_json_object, write_atomically
from llmrouter.exceptions import ArtifactCorruptError, DataError

PROBES, TOKENS = 192, 256
"""N and K of the paper."""
_FORMAT = 1


class Tokenizer(Protocol):
    """What has to be known of a tokenizer."""

    @property
    def tokenizer(self) -> str:
        """Name of its vocabulary: equal where every id stands for the same bytes."""
        ...

    def split(self, text: str) -> list[bytes]:
        """Return the tokens of a text, each as the UTF-8 bytes that it stands for."""
        ...


@dataclass(frozen=True)
class ProbeSet:
    """The prompts that every model of a pool is described by.

    Attributes
    ----------
    prompts : tuple of str
        At least one, none twice.

    Raises
    ------
    DataError
        If there is none, one is empty, or one is there twice.
    """

    prompts: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.prompts:
            raise DataError("probes: there is none; give at least one prompt")
        for prompt, count in Counter(self.prompts).items():
            if not isinstance(prompt, str) or not prompt.strip():
                raise DataError(f"probes: {prompt!r} is no prompt; leave it out")
            if count > 1:
                raise DataError(f"probes: {prompt!r:.80} is there {count} times; give every probe once")

    @classmethod
    def drawn(cls, texts: Sequence[str], *, count: int = PROBES, seed: int = 0) -> Self:
        """Draw at most `count` different probes from texts, in an order that depends on the seed alone."""
        every = sorted({text for text in texts if text.strip()})
        order = np.random.default_rng(seed).permutation(len(every))[:count]
        return cls(tuple(every[place] for place in order.tolist()))

    @property
    def id(self) -> str:
        """Name of the probes: how many, and a hash of them in their order."""
        digest = hashlib.sha256()
        for prompt in self.prompts:
            digest.update(hashlib.sha256(prompt.encode()).digest())
        return f"probes-{len(self.prompts)}-{digest.hexdigest()[:16]}"

    def save(self, path: Path) -> None:
        """Write the probes as JSON."""
        write_atomically(path, json_bytes({"format": _FORMAT, "id": self.id, "prompts": list(self.prompts)}))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises
        ------
        ArtifactCorruptError
            If the file is missing or not whole.
        """
        found = read_json_object(path)
        prompts = found.get("prompts")
        if not isinstance(prompts, list):
            raise ArtifactCorruptError(f"{path}: prompts must be a list of strings; write the probes again")
        made = cls(tuple(prompts))
        _check_id(path, made.id, found)
        return made


@dataclass(frozen=True)
class TokenList:
    """The K tokens whose probabilities make a logit footprint.

    Tokens are kept as bytes, not as ids: the authors' program compares ids of different tokenizers, which stand for
    different tokens.

    Attributes
    ----------
    tokens : tuple of bytes
        None twice.
    tokenizer : str
        Name of the vocabulary they are from, see `Tokenizer`.
    """

    tokens: tuple[bytes, ...]
    tokenizer: str

    def __post_init__(self) -> None:
        if not self.tokens or len(set(self.tokens)) < len(self.tokens):
            raise DataError(f"tokens: {len(self.tokens)} with {len(set(self.tokens))} different; give each once")

    @classmethod
    def most_frequent(cls, texts: Sequence[str], tokenizer: Tokenizer, *, count: int = TOKENS) -> Self:
        """Return the `count` tokens that are most frequent in texts, the first to appear first among equals."""
        seen: Counter[bytes] = Counter()
        for text in texts:
            seen.update(tokenizer.split(text))
        if not seen:
            raise DataError("tokens: the texts have none; give texts that are not empty")
        return cls(tuple(token for token, _ in seen.most_common(count)), tokenizer.tokenizer)

    @property
    def id(self) -> str:
        """Name of the list: how many, and a hash of them in their order."""
        digest = hashlib.sha256()
        for token in self.tokens:
            digest.update(hashlib.sha256(token).digest())
        return f"tokens-{len(self.tokens)}-{digest.hexdigest()[:16]}"

    def save(self, path: Path) -> None:
        """Write the list as JSON, tokens as lists of byte values."""
        content = {"format": _FORMAT, "id": self.id, "tokenizer": self.tokenizer, "tokens": [*map(list, self.tokens)]}
        write_atomically(path, json_bytes(content))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises
        ------
        ArtifactCorruptError
            If the file is missing or not whole.
        """
        found = read_json_object(path)
        try:
            made = cls(tuple(bytes(token) for token in found["tokens"]), str(found["tokenizer"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactCorruptError(f"{path} is no list of tokens ({error!r}); write it again") from error
        _check_id(path, made.id, found)
        return made


def _check_id(path: Path, own: str, found: dict[str, Any]) -> None:
    if found.get("id") != own:
        raise ArtifactCorruptError(
            f"{path} was changed: its content is {own}, recorded is {found.get('id')!r}; restore it or write it again"
        )
