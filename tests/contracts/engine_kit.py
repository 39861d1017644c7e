"""What the gateway needs of an engine behind a base URL, whichever it is.

Run by `test_engine_contract.py`. Each check asks through the library's own backend where that is how the gateway asks.
"""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import dataclass
from typing import Any

import httpx

from llmrouter.exceptions import BackendStatusError
from llmrouter.pool import (
    COMPLETIONS,
    DONE,
    EMBEDDINGS,
    HTTPSessions,
    OpenAIBackend,
    Timeouts,
    read_load,
    usage_from_body,
)
from service.engines.look import Found, look

TIMEOUTS = Timeouts(total_s=120.0)
TOOL = {
    "type": "function",
    "function": {
        "name": "note",
        "description": "Take a note.",
        "parameters": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"yes": {"type": "boolean"}},
    "required": ["yes"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class EngineUnderTest:
    """Where it is, what it is asked for, and what it says it can do.

    `offers` are some of: completions, embeddings, json_schema, logprobs, tools.
    """

    base_url: str
    model: str
    api_key: str | None = None
    offers: frozenset[str] = frozenset()

    def backend(self, *, model: str | None = None) -> OpenAIBackend:
        return OpenAIBackend("engine", model=model or self.model, base_url=self.base_url, api_key=self.api_key)

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.api_key is None else {"authorization": f"Bearer {self.api_key}"}


def chat(content: str = "What is 2 plus 3?", **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 16, **more}


async def complete(engine: EngineUnderTest, body: dict[str, Any], **options: Any) -> dict[str, Any]:
    backend = engine.backend()
    try:
        answer = await backend.complete(body, timeouts=TIMEOUTS, **options)
        document: dict[str, Any] = json.loads(answer.body)
        return document
    finally:
        await backend.aclose()


async def refused(
    engine: EngineUnderTest, body: dict[str, Any], *, model: str | None = None
) -> BackendStatusError | None:
    """Return how a request is refused; None where it is answered."""
    backend = engine.backend(model=model)
    try:
        await backend.complete(body, timeouts=TIMEOUTS)
    except BackendStatusError as error:
        return error
    finally:
        await backend.aclose()
    return None


async def looked_at(engine: EngineUnderTest) -> Found:
    """Return what is found at its address."""
    sessions = HTTPSessions()
    try:
        return await look(engine.base_url, sessions, headers=engine.headers)
    finally:
        await sessions.aclose()


async def check_it_lists_its_model(engine: EngineUnderTest) -> None:
    found = await looked_at(engine)
    assert found.trouble == ""
    assert found.models
    any_name = found.kind is not None and found.kind.any_name
    assert any_name or found.serves(engine.model), f"{engine.model} is not among {found.models}"


async def check_an_answer_is_counted(engine: EngineUnderTest) -> None:
    answer = await complete(engine, chat())
    (choice,) = answer["choices"]
    assert isinstance(choice["message"]["content"], str)
    assert choice["finish_reason"] in ("stop", "length")
    usage = usage_from_body(json.dumps(answer).encode())
    assert (usage.input_tokens or 0) > 0
    assert 0 < (usage.output_tokens or 0) <= 16


async def check_the_limit_on_tokens_holds(engine: EngineUnderTest) -> None:
    answer = await complete(engine, chat("Count from one to one hundred.", max_tokens=2))
    assert answer["usage"]["completion_tokens"] <= 2
    if answer["usage"]["completion_tokens"] == 2:
        assert answer["choices"][0]["finish_reason"] in ("length", "stop")


async def check_a_stream_ends_and_is_counted(engine: EngineUnderTest) -> None:
    backend = engine.backend()
    body = chat(stream=True, stream_options={"include_usage": True})
    try:
        stream = await backend.stream(body, timeouts=TIMEOUTS)  # raises where it breaks off
        events = [event async for batch in stream for event in batch]
        await stream.aclose()
    finally:
        await backend.aclose()
    assert events[-1].data == DONE
    chunks = [json.loads(event.data) for event in events[:-1] if event.data]
    deltas = [choice["delta"] for chunk in chunks for choice in chunk.get("choices", ())]
    assert any(delta.get("content") for delta in deltas), "no text came"
    finishes = [c.get("finish_reason") for chunk in chunks for c in chunk.get("choices", ()) if c.get("finish_reason")]
    assert finishes in (["stop"], ["length"])
    usage = next(chunk["usage"] for chunk in reversed(chunks) if chunk.get("usage"))
    assert usage["prompt_tokens"] > 0
    assert usage["completion_tokens"] > 0


async def check_hanging_up_harms_nobody(engine: EngineUnderTest) -> None:
    backend = engine.backend()
    try:
        for _ in range(3):
            stream = await backend.stream(chat("Tell a long story.", max_tokens=64, stream=True), timeouts=TIMEOUTS)
            await stream.aclose()
    finally:
        await backend.aclose()
    await check_an_answer_is_counted(engine)


async def check_many_are_answered_at_once(engine: EngineUnderTest) -> None:
    answers = await asyncio.gather(*(complete(engine, chat(f"What is {i} plus {i}?")) for i in range(8)))
    assert all(isinstance(answer["choices"][0]["message"]["content"], str) for answer in answers)
    assert len({answer["id"] for answer in answers}) == 8


async def check_wrong_requests_are_refused(engine: EngineUnderTest) -> None:
    wrong: list[Any] = [{"messages": []}, {"messages": "hello"}, chat(max_tokens="many"), chat(temperature="hot")]
    async with httpx.AsyncClient(headers=engine.headers, timeout=60, trust_env=False) as client:
        for body in wrong:
            answer = await client.post(f"{engine.base_url}/chat/completions", json={"model": engine.model, **body})
            # An empty list of messages is a chat to some templates.
            assert 400 <= answer.status_code < 500 or body == {"messages": []}, (body, answer.status_code, answer.text)
        answer = await client.post(f"{engine.base_url}/chat/completions", content=b"{not json")
        assert 400 <= answer.status_code < 500
    await check_an_answer_is_counted(engine)


async def check_an_unknown_model_is_refused_or_ignored(engine: EngineUnderTest) -> None:
    refusal = await refused(engine, chat(), model="no-such-model")
    if refusal is not None:
        assert 400 <= (refusal.status or 0) < 500, refusal
        json.loads(refusal.body)


async def check_a_prompt_beyond_the_window_is_refused(engine: EngineUnderTest, window: int) -> None:
    refusal = await refused(engine, chat("2 plus 3 " * window))
    assert refusal is not None, "it was answered: what did not fit was left out without a word"
    assert 400 <= (refusal.status or 0) < 500, refusal
    await check_an_answer_is_counted(engine)


async def check_logprobs(engine: EngineUnderTest) -> None:
    answer = await complete(engine, chat(logprobs=True, top_logprobs=2))
    tokens = answer["choices"][0]["logprobs"]["content"]
    assert tokens
    for token in tokens:
        assert token["logprob"] <= 0
        assert len(token["top_logprobs"]) <= 2


async def check_completions(engine: EngineUnderTest) -> None:
    answer = await complete(engine, {"prompt": "2 plus 3 is", "max_tokens": 4}, endpoint=COMPLETIONS)
    assert isinstance(answer["choices"][0]["text"], str)
    assert answer["usage"]["prompt_tokens"] > 0


async def check_json_schema(engine: EngineUnderTest) -> None:
    asked = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}
    answer = await complete(engine, chat("Is 2 even? Answer in JSON.", response_format=asked, max_tokens=128))
    assert isinstance(json.loads(answer["choices"][0]["message"]["content"])["yes"], bool)


async def check_tools(engine: EngineUnderTest) -> None:
    body = chat("Take the note: buy milk.", tools=[TOOL], tool_choice="required", max_tokens=128)
    answer = await complete(engine, body)
    call = answer["choices"][0]["message"]["tool_calls"][0]
    assert call["function"]["name"] == "note"
    assert isinstance(json.loads(call["function"]["arguments"])["text"], str)


async def check_embeddings(engine: EngineUnderTest) -> None:
    answer = await complete(engine, {"input": ["one", "two and three"]}, endpoint=EMBEDDINGS)
    vectors = [entry["embedding"] for entry in answer["data"]]
    assert len(vectors) == 2
    assert len(vectors[0]) == len(vectors[1]) > 0
    assert all(math.isfinite(value) for vector in vectors for value in vector)


async def check_its_load_can_be_read(engine: EngineUnderTest, *, is_priced: bool) -> None:
    """Of engines that report one: after an answer, price (where the machine has one) and speed are known."""
    await asyncio.gather(*(complete(engine, chat()) for _ in range(4)))
    async with httpx.AsyncClient(headers=engine.headers, timeout=60, trust_env=False) as client:
        reading = read_load((await client.get(f"{engine.base_url}/load")).json(), engine.model)
    assert (reading.seconds_per_output_token or 0) > 0
    if is_priced:
        assert reading.no_price == ""
        assert (reading.input_usd_per_million or 0) > 0


OPTIONAL = {
    "completions": check_completions,
    "embeddings": check_embeddings,
    "json_schema": check_json_schema,
    "logprobs": check_logprobs,
    "tools": check_tools,
}
"""By what an engine offers."""

ALWAYS = (
    check_it_lists_its_model,
    check_an_answer_is_counted,
    check_the_limit_on_tokens_holds,
    check_a_stream_ends_and_is_counted,
    check_hanging_up_harms_nobody,
    check_many_are_answered_at_once,
    check_wrong_requests_are_refused,
    check_an_unknown_model_is_refused_or_ignored,
)
