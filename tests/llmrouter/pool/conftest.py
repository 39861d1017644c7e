"""Fixtures of the pool's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from contracts.misbehaving_upstream import MisbehavingUpstream

from llmrouter.pool import OpenAIBackend


@pytest.fixture
def upstream() -> Iterator[MisbehavingUpstream]:
    with MisbehavingUpstream() as running:
        yield running


@pytest.fixture
async def backend(upstream: MisbehavingUpstream) -> AsyncIterator[OpenAIBackend]:
    made = OpenAIBackend(
        "pool-a", model="up", base_url=upstream.base_url + "/", api_key="sk-secret", headers={"X-Team": "a"}
    )
    yield made
    await made.aclose()
