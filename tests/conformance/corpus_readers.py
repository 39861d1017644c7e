"""What official clients make of the bytes that the gateway sent: answers and streams, checked against their types."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import anthropic
import httpx
import openai
from anthropic.types import Message, RawMessageStreamEvent
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from llmrouter.pool import EventSplitter

_MESSAGE_EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
_RESPONSE_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


@dataclass
class Heard:
    """What a client understood.

    Attributes
    ----------
    text : str
        Text and refusals.
    calls : list of [str, object]
        Functions called, and with what.
    ends : str
        ``well``, or ``error``.
    tokens : tuple of int
        (input, output) as the client was told; (0, 0) where it was not.
    """

    text: str = ""
    calls: list[list[Any]] = field(default_factory=list)
    ends: str = "well"
    tokens: tuple[int, int] = (0, 0)


class Replayer:
    """The official clients, over a transport that replays one answer of the gateway."""

    def __init__(self) -> None:
        self._answer: httpx.Response | None = None
        transport = httpx.MockTransport(self._replay)
        self._openai = openai.OpenAI(
            base_url="http://gateway/v1", api_key="any", max_retries=0, http_client=httpx.Client(transport=transport)
        )
        self._anthropic = anthropic.Anthropic(
            base_url="http://gateway", api_key="any", max_retries=0, http_client=httpx.Client(transport=transport)
        )

    def _replay(self, _request: httpx.Request) -> httpx.Response:
        assert self._answer is not None
        headers = {"content-type": self._answer.headers["content-type"], "x-request-id": "req_1"}
        return httpx.Response(self._answer.status_code, headers=headers, content=self._answer.content)

    # Streams

    def chat_stream(self, answer: httpx.Response) -> Heard:
        """Read a stream of chat completions."""
        self._answer = answer
        heard = Heard()
        try:
            for chunk in self._openai.chat.completions.create(model="m", messages=[], stream=True):
                assert isinstance(chunk, ChatCompletionChunk)
                for choice in chunk.choices or ():
                    if choice.index == 0 and isinstance(choice.delta.content, str):
                        heard.text += choice.delta.content
        except openai.APIError:
            heard.ends = "error"
        return heard

    def completions_stream(self, answer: httpx.Response) -> Heard:
        """Read a stream of legacy completions."""
        self._answer = answer
        heard = Heard()
        try:
            for chunk in self._openai.completions.create(model="m", prompt="", stream=True):
                assert isinstance(chunk, Completion)
                assert chunk.object == "text_completion"
                heard.text += "".join(choice.text for choice in chunk.choices if choice.index == 0)
        except openai.APIError:
            heard.ends = "error"
        return heard

    def messages_stream(self, answer: httpx.Response) -> Heard:
        """Read a stream of a message, after checking that its events come in the order that the API has."""
        ends = check_message_events(answer.content)
        self._answer = answer
        heard = Heard(ends=ends)
        try:
            with self._anthropic.messages.stream(model="m", max_tokens=5, messages=[]) as stream:
                for event in stream:
                    if event.type == "text":
                        heard.text += event.text
                message = stream.get_final_message()
        except anthropic.APIError:
            assert ends == "error"
            return heard
        assert ends == "well"
        return _of_message(message)

    def responses_stream(self, answer: httpx.Response) -> Heard:
        """Read a stream of a response, after checking that its events come in the order that the API has."""
        ends = check_response_events(answer.content)
        self._answer = answer
        heard = Heard(ends=ends)
        try:
            with self._openai.responses.stream(model="m", input="") as stream:
                for event in stream:
                    if event.type in ("response.output_text.delta", "response.refusal.delta"):
                        heard.text += event.delta
                    if event.type == "response.failed":
                        return heard
                    if event.type in ("response.completed", "response.incomplete"):
                        whole = _of_response(event.response)
                        assert whole.text == heard.text, "the whole says what the pieces said"
                        return whole
        except openai.APIError:
            pass
        assert ends == "error"
        return heard

    # Whole answers

    def chat(self, answer: httpx.Response) -> Heard:
        """Read a chat completion."""
        self._answer = answer
        made = self._openai.chat.completions.create(model="m", messages=[])
        assert isinstance(made, ChatCompletion)
        message = made.choices[0].message
        text = message.content if isinstance(message.content, str) else ""
        calls = [[call.function.name, json.loads(call.function.arguments)] for call in message.tool_calls or ()]  # type: ignore[union-attr]
        return Heard(text or message.refusal or "", calls)

    def completions(self, answer: httpx.Response) -> Heard:
        """Read a legacy completion."""
        self._answer = answer
        made = self._openai.completions.create(model="m", prompt="")
        assert isinstance(made, Completion)
        assert made.object == "text_completion"
        assert made.choices[0].finish_reason in ("stop", "length", "content_filter")
        return Heard(made.choices[0].text)

    def messages(self, answer: httpx.Response) -> Heard:
        """Read a message."""
        self._answer = answer
        made = self._anthropic.messages.create(model="m", max_tokens=5, messages=[])
        return _of_message(Message.model_validate(made.to_dict()))

    def responses(self, answer: httpx.Response) -> Heard:
        """Read a response."""
        self._answer = answer
        made = self._openai.responses.create(model="m", input="")
        return _of_response(Response.model_validate(made.to_dict()))


def events_of(content: bytes) -> list[tuple[str | None, Any]]:
    """Return (name, data) of each event of a stream; comments are left out."""
    splitter = EventSplitter()
    events = splitter.feed(content)
    rest = splitter.flush()
    assert rest is None, "the stream ends with a whole event"
    named = []
    for event in events:
        names = [line[7:].decode() for line in event.raw.split(b"\n") if line.startswith(b"event: ")]
        if event.data is not None:
            named.append((names[0] if names else None, json.loads(event.data)))
    return named


def check_message_events(content: bytes) -> str:
    """Check the events of a streamed message; return how it ends."""
    events = events_of(content)
    for name, payload in events:
        assert name == payload["type"]
    assert events[0][0] == "message_start"
    open_block: int | None = None
    blocks = 0
    for position, (name, payload) in enumerate(events):
        if name == "error":
            assert position == len(events) - 1, "nothing follows an error"
            assert set(payload) >= {"type", "error", "request_id"}
            assert payload["error"]["message"]
            return "error"
        if name == "ping":
            continue
        _MESSAGE_EVENT.validate_python(payload)
        if name == "message_start":
            assert position == 0
        elif name == "content_block_start":
            assert open_block is None
            assert payload["index"] == blocks
            open_block, blocks = blocks, blocks + 1
        elif name == "content_block_delta":
            assert payload["index"] == open_block
        elif name == "content_block_stop":
            assert payload["index"] == open_block
            open_block = None
        else:
            assert open_block is None
    assert [name for name, _ in events[-2:]] == ["message_delta", "message_stop"]
    return "well"


def check_response_events(content: bytes) -> str:
    """Check the events of a streamed response; return how it ends."""
    events = events_of(content)
    assert [payload["sequence_number"] for _, payload in events] == list(range(len(events)))
    for name, payload in events:
        assert name == payload["type"]
        _RESPONSE_EVENT.validate_python(payload)
    assert [name for name, _ in events[:2]] == ["response.created", "response.in_progress"]
    items = [payload["item"]["id"] for name, payload in events if name == "response.output_item.added"]
    closed = [payload["item"] for name, payload in events if name == "response.output_item.done"]
    assert [item["id"] for item in closed] == items
    name, last = events[-1]
    assert last["response"]["output"] == closed
    assert name in ("response.completed", "response.incomplete", "response.failed")
    return "error" if name == "response.failed" else "well"


def _of_message(message: Message) -> Heard:
    text = "".join(block.text for block in message.content if block.type == "text")
    calls = [[block.name, block.input] for block in message.content if block.type == "tool_use"]
    usage = message.usage
    read = usage.input_tokens + (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)
    return Heard(text, calls, tokens=(read, usage.output_tokens))


def _of_response(response: Response) -> Heard:
    heard = Heard()
    for item in response.output:
        if item.type == "message":
            for part in item.content:
                heard.text += part.text if part.type == "output_text" else part.refusal
        elif item.type == "function_call":
            heard.calls.append([item.name, json.loads(item.arguments or "{}")])
    if response.usage is not None:
        heard.tokens = (response.usage.input_tokens, response.usage.output_tokens)
    return heard
