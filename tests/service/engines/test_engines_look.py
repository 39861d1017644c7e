"""What is found out about an address."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from engines.fake_engine import LLAMA_CPP, OK, OLLAMA, SGLANG, TGI, VLLM, Answer, engine, models

from llmrouter.pool import HTTPSessions
from service.engines.look import Found, ServedModel, look


async def looked(paths: Mapping[str, Answer], **options: Any) -> Found:
    sessions = HTTPSessions()
    with engine(paths) as (url, _):
        try:
            return await look(url, sessions, **options)
        finally:
            await sessions.aclose()


@pytest.mark.parametrize(
    ("paths", "name", "version", "served"),
    [
        (VLLM, "vLLM", "0.11.0", ServedModel("Qwen/Qwen3-8B", 32768)),
        (SGLANG, "SGLang", "", ServedModel("qwen", 4096)),
        (LLAMA_CPP, "llama.cpp", "", ServedModel("m.gguf")),
        (OLLAMA, "Ollama", "0.13.3", ServedModel("llama3.2:latest")),
        (TGI, "TGI", "3.0.1", ServedModel("org/m")),
        (
            {"/v1/models": models("a", owner="llmrouter", max_model_len=64), "/readyz": OK},
            "llmrouter",
            "",
            ServedModel("a", 64),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_engines_are_known_by_how_they_list_their_models(
    paths: Mapping[str, Answer], name: str, version: str, served: ServedModel
) -> None:
    found = await looked(paths)
    assert found.kind is not None
    assert (found.trouble, found.kind.name, found.version, found.models) == ("", name, version, (served,))
    assert not found.reports_load


async def test_our_own_engine_reports_its_load() -> None:
    ours = {"/v1/models": models("a", owner="llmrouter"), "/readyz": OK, "/v1/load": (200, {"data": []})}
    assert (await looked(ours)).reports_load


async def test_an_engine_that_is_loading_is_not_ready() -> None:
    loading = {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}
    found = await looked({**LLAMA_CPP, "/health": (503, loading)})
    assert found.trouble == "llama.cpp is not ready: /health answered 503 (Loading model)"
    assert (await looked({"/v1/models": (503, loading)})).trouble == "answered 503 (Loading model)"


@pytest.mark.parametrize("status", [401, 403])
async def test_a_wrong_key_is_said_to_be_one(status: int) -> None:
    assert (await looked({"/v1/models": (status, None)})).trouble == f"answered {status}: check api_key"


@pytest.mark.parametrize(
    "answer",
    [(404, None), (200, b"<html>"), (200, {"data": "none"}), (200, ["a"])],
    ids=["404", "html", "text", "list"],
)
async def test_an_address_may_list_no_models(answer: Answer) -> None:
    found = await looked({"/v1/models": answer})
    assert (found.trouble, found.models, found.serves("a")) == ("", None, None)


async def test_nobody_there() -> None:
    sessions = HTTPSessions()
    found = await look("http://127.0.0.1:9/v1", sessions)
    await sessions.aclose()
    assert found.trouble == "no answer (ClientConnectorError)"


async def test_the_key_is_sent_below_the_base_url_only() -> None:
    sessions = HTTPSessions()
    with engine(VLLM) as (url, asked):
        await look(url + "/", sessions, headers={"authorization": "Bearer sk-1"})
    await sessions.aclose()
    assert dict(asked) == {"/v1/models": "Bearer sk-1", "/health": None, "/version": None}


def test_ollama_adds_a_tag() -> None:
    from service.engines.kinds import OLLAMA as KIND

    found = Found("u", kind=KIND, models=(ServedModel("llama3.2:latest"),))
    assert found.serves("llama3.2")
    assert not found.serves("llama3")
