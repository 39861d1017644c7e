"""Section ``cache`` of the configuration."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from service.section import Section

CacheScope = Literal["key", "team", "global"]


class SemanticSettings(Section):
    """Answers to questions that are put in other words.

    Attributes
    ----------
    enabled : bool
        Off by default: a similar question is not the same question.
    similarity : float
        Least cosine similarity of the two questions' embeddings.
    ttl_s : float or None
        Older answers are not given to similar questions; None takes that of the cache.
    max_entries : int
        Questions remembered by one process, each with its embedding; more push out the oldest.
    """

    enabled: bool = False
    similarity: Annotated[float, Field(ge=0.8, le=1)] = 0.97
    ttl_s: PositiveFloat | None = None
    max_entries: PositiveInt = 5000


class CacheSettings(Section):
    """Answers kept for the same question; without this section there are none.

    Attributes
    ----------
    store : {"memory", "redis"}
        In this process, or in the Redis that replicas share (section `redis`).
    max_entries, max_bytes : int
        Of the memory; what was used longest ago is pushed out. In Redis its own ``maxmemory`` holds.
    max_entry_bytes : int
        Longer answers are not kept.
    ttl_s : float
        Older answers are not given.
    scope : {"key", "team", "global"}
        Who shares answers: each key has its own, or its team's (a key without a team has its own), or all have the
        same.
    only_deterministic : bool
        Keep only answers to requests with ``temperature`` 0 or a ``seed``.
    coalesce : bool
        Requests that are the same wait for the answer of the first instead of asking for their own.
    coalesce_wait_s : float
        They wait at most that long.
    semantic : SemanticSettings
        Answers to similar questions.
    """

    store: Literal["memory", "redis"] = "memory"
    max_entries: PositiveInt = 10_000
    max_bytes: PositiveInt = 256 * 1024 * 1024
    max_entry_bytes: PositiveInt = 1024 * 1024
    ttl_s: PositiveFloat = 3600.0
    scope: CacheScope = "key"
    only_deterministic: bool = False
    coalesce: bool = False
    coalesce_wait_s: PositiveFloat = 30.0
    semantic: SemanticSettings = SemanticSettings()

    @model_validator(mode="after")
    def _check_bytes(self) -> CacheSettings:
        if self.max_entry_bytes > self.max_bytes:
            raise ValueError(f"max_entry_bytes ({self.max_entry_bytes}) must not exceed max_bytes ({self.max_bytes})")
        return self
