"""LlamaIndex's OpenAILike through a live gateway."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from conformance_upstream import CAPABLE, CITY, sensible
from contracts.misbehaving_upstream import MisbehavingUpstream
from live_gateway import Live
from pydantic import BaseModel

pytest.importorskip("llama_index.llms.openai_like")

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike

Start = Callable[..., Live]

MODELS = pytest.mark.parametrize("model", ["auto", "alpha"])
HELLO = [ChatMessage(role="user", content="Say hello")]


class City(BaseModel):
    """A city."""

    name: str
    people: int


@pytest.fixture
def gateway(live: Start, upstream: MisbehavingUpstream) -> Live:
    upstream.behaviours["alpha"] = sensible
    return live("alpha", models={"alpha": CAPABLE})


def model_of(gateway: Live, model: str, **options: Any) -> OpenAILike:
    return OpenAILike(
        model=model,
        api_base=f"{gateway.url}/v1",
        api_key="any",
        is_chat_model=options.pop("is_chat_model", True),
        is_function_calling_model=True,
        max_retries=0,
        **options,
    )


@MODELS
def test_chat(model: str, gateway: Live) -> None:
    answer = model_of(gateway, model).chat(HELLO)
    assert answer.message.content == "Hello there"
    assert answer.additional_kwargs["completion_tokens"] == 5


@MODELS
def test_stream_chat(model: str, gateway: Live) -> None:
    pieces = list(model_of(gateway, model).stream_chat(HELLO))
    assert "".join(piece.delta or "" for piece in pieces) == "Hello there"
    assert pieces[-1].message.content == "Hello there"


@MODELS
@pytest.mark.parametrize("legacy", [False, True], ids=["chat", "completions"])
def test_complete(model: str, legacy: bool, gateway: Live, upstream: MisbehavingUpstream) -> None:
    llm = model_of(gateway, model, is_chat_model=not legacy)
    assert llm.complete("Say hello").text == "Hello there"
    pieces = list(llm.stream_complete("Say hello"))
    assert "".join(piece.delta or "" for piece in pieces) == "Hello there"
    assert {exchange.path for exchange in upstream.exchanges} == {"/v1/chat/completions"}


@MODELS
async def test_the_async_methods(model: str, gateway: Live) -> None:
    llm = model_of(gateway, model)
    assert (await llm.achat(HELLO)).message.content == "Hello there"
    stream = await llm.astream_chat(HELLO)
    assert "".join([piece.delta or "" async for piece in stream]) == "Hello there"


@MODELS
def test_tools(model: str, gateway: Live) -> None:
    def weather(city: str, unit: str) -> str:
        """Tell the weather."""
        return f"{city}: 12 {unit}"

    llm = model_of(gateway, model)
    answer = llm.predict_and_call([FunctionTool.from_defaults(weather)], "Weather in Oslo?")
    assert str(answer) == "Oslo: 12 C"


@MODELS
def test_structured_output(model: str, gateway: Live) -> None:
    answer = model_of(gateway, model).as_structured_llm(City).complete("Give a city")
    assert answer.raw == City(**CITY)
