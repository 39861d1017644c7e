"""LangChain's ChatOpenAI and OpenAIEmbeddings through a live gateway."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal

import pytest
from conformance_upstream import CAPABLE, CITY, VECTOR, sensible
from contracts.misbehaving_upstream import Exchange, MisbehavingUpstream
from live_gateway import Live
from pydantic import BaseModel, SecretStr

pytest.importorskip("langchain_openai")

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

Start = Callable[..., Live]

MODELS = pytest.mark.parametrize("model", ["auto", "alpha"])
RESPONSES = pytest.mark.parametrize("responses", [False, True], ids=["chat", "responses"])


class City(BaseModel):
    """A city."""

    name: str
    people: int


@tool
def weather(city: str, unit: Literal["C", "F"]) -> str:
    """Tell the weather."""
    return f"{city}: 12 {unit}"


@pytest.fixture
def gateway(live: Start, upstream: MisbehavingUpstream) -> Live:
    upstream.behaviours["alpha"] = sensible
    return live("alpha", models={"alpha": {**CAPABLE, "endpoints": ["chat", "embeddings"]}})


def chat(gateway: Live, model: str, **options: Any) -> ChatOpenAI:
    return ChatOpenAI(
        model=model,
        base_url=f"{gateway.url}/v1",
        api_key=SecretStr("any"),
        max_retries=0,
        timeout=30,
        **options,
    )


@MODELS
@RESPONSES
def test_invoke(model: str, responses: bool, gateway: Live) -> None:
    message = chat(gateway, model, use_responses_api=responses).invoke([SystemMessage("Be brief"), HumanMessage("Hi")])
    assert message.text == "Hello there"
    assert message.usage_metadata is not None
    assert message.usage_metadata["input_tokens"] == 12
    assert message.usage_metadata["output_tokens"] == 5
    assert message.response_metadata["model_name"] == "up-1"


@MODELS
@RESPONSES
def test_stream(model: str, responses: bool, gateway: Live) -> None:
    chunks = list(chat(gateway, model, use_responses_api=responses, stream_usage=True).stream("Hi"))
    whole = chunks[0]
    for one in chunks[1:]:
        whole += one
    assert whole.text == "Hello there"
    assert len(chunks) > 2
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["total_tokens"] == 17


async def test_the_async_methods(gateway: Live) -> None:
    for model in ("auto", "alpha"):  # in one event loop: LangChain shares its connections among clients
        asked = chat(gateway, model)
        assert (await asked.ainvoke("Hi")).text == "Hello there"
        assert "".join([one.text async for one in asked.astream("Hi")]) == "Hello there"
        assert [message.text for message in await asked.abatch(["a", "b", "c"])] == ["Hello there"] * 3


@MODELS
@RESPONSES
@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
def test_structured_output(model: str, responses: bool, method: Any, gateway: Live) -> None:
    structured = chat(gateway, model, use_responses_api=responses).with_structured_output(City, method=method)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # pydantic's, about the client's own generic types
        assert structured.invoke("Give JSON") == City(**CITY)


@MODELS
@RESPONSES
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
def test_tools(model: str, responses: bool, streamed: bool, gateway: Live, upstream: MisbehavingUpstream) -> None:
    bound = chat(gateway, model, use_responses_api=responses).bind_tools([weather])
    history: list[Any] = [HumanMessage("Weather in Oslo?")]
    answer: Any
    if streamed:
        chunks = list(bound.stream(history))
        whole: Any = chunks[0]
        for one in chunks[1:]:
            whole += one
        answer = AIMessage(content=whole.content, tool_calls=whole.tool_calls)
    else:
        answer = bound.invoke(history)
    (call,) = answer.tool_calls
    assert (call["name"], call["args"]) == ("weather", {"city": "Oslo", "unit": "C"})
    result = weather.invoke(call)
    assert isinstance(result, ToolMessage)
    last = bound.invoke([*history, answer, result])
    assert last.text == "It is Oslo: 12 C."
    assert upstream.exchanges[-1].body["messages"][-1]["tool_call_id"] == call["id"]


def test_embeddings(gateway: Live, upstream: MisbehavingUpstream) -> None:
    embeddings = OpenAIEmbeddings(
        model="alpha",
        base_url=f"{gateway.url}/v1",
        api_key=SecretStr("any"),
        check_embedding_ctx_length=False,
    )
    assert embeddings.embed_query("Hi") == list(VECTOR)
    assert embeddings.embed_documents(["a", "b"]) == [list(VECTOR)] * 2
    assert upstream.exchanges[-1].body["input"] == ["a", "b"]


def test_errors_keep_their_words(gateway: Live, upstream: MisbehavingUpstream) -> None:
    async def overflow(exchange: Exchange) -> None:
        error = (
            b'{"error": {"message": "too long", "type": "invalid_request_error", "code": "context_length_exceeded"}}'
        )
        await exchange.answer(error, 400)

    upstream.behaviours["alpha"] = overflow
    from langchain_core.exceptions import ContextOverflowError

    with pytest.raises(ContextOverflowError):
        chat(gateway, "alpha").invoke("Hi")
