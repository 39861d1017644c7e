"""The scripted backend keeps the contract, so that tests with it mean something."""

from __future__ import annotations

import json

import pytest
from contracts.backend_kit import BODY, check_backend

from llmrouter import registry
from llmrouter.exceptions import BackendStatusError, BackendTimeoutError
from llmrouter.pool import ScriptedBackend, Timeouts


async def test_it_keeps_the_contract() -> None:
    await check_backend(ScriptedBackend("a", reply="Hello there"))


async def test_a_function_may_answer_or_fail() -> None:
    error = BackendStatusError("busy", status=503, body=b"")
    backend = ScriptedBackend("a", reply=lambda body: error if body.get("n") else "fine")
    response = await backend.complete(BODY, timeouts=Timeouts())
    assert json.loads(response.body)["choices"][0]["message"]["content"] == "fine"
    with pytest.raises(BackendStatusError):
        await backend.stream({**BODY, "n": 2}, timeouts=Timeouts())
    assert len(backend.bodies) == 2


async def test_it_keeps_to_the_timeouts() -> None:
    backend = ScriptedBackend("a", delay_s=5)
    with pytest.raises(BackendTimeoutError, match="total_s"):
        await backend.complete(BODY, timeouts=Timeouts(total_s=0.01))
    with pytest.raises(BackendTimeoutError, match="first_byte_s"):
        await backend.stream(BODY, timeouts=Timeouts(first_byte_s=0.01))


def test_the_registry_makes_it() -> None:
    backend = registry.create("backend", "scripted", name="a", reply="x")
    assert isinstance(backend, ScriptedBackend)
