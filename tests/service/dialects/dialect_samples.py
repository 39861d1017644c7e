"""Chat completions as upstreams send them, and official clients whose requests go through a dialect."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import anthropic
import httpx
import openai
from hypothesis import strategies as st

from service.dialects import Dialect, StreamTranslator
from service.errors import APIError

REQUEST_ID = "req_0123456789abcdef"
DONE = b"[DONE]"
USAGE = {
    "prompt_tokens": 20,
    "completion_tokens": 7,
    "total_tokens": 27,
    "prompt_tokens_details": {"cached_tokens": 12},
    "completion_tokens_details": {"reasoning_tokens": 3},
}
USAGE_PLACES = {
    "top": {"usage": USAGE},
    "x_groq": {"x_groq": {"id": "req_1", "usage": USAGE}},
    "choice": {
        "choices": [{"index": 0, "delta": {}, "message": {"content": "a"}, "finish_reason": "stop", "usage": USAGE}]
    },
}
"""Where upstreams put the usage of an answer, or of the last chunk of one."""
BESIDE = {
    "prompt_tokens": 12,
    "completion_tokens": 5,
    "total_tokens": 1017,
    "completion_tokens_details": {"reasoning_tokens": 1000},
}
"""Usage of an upstream that counts reasoning beside the completion."""
TOOL_CALLS = [
    {"id": "call_a", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}},
    {"id": "call_b", "type": "function", "function": {"name": "clock", "arguments": '{"zone": "CET", "n": [1, 2]}'}},
]


def chat_answer(
    content: Any = "Hello", *, finish_reason: str = "stop", usage: Any = USAGE, **message: Any
) -> dict[str, Any]:
    """Return a whole chat completion; further keywords go into its message."""
    said = {"role": "assistant", "content": content, "refusal": None, **message}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "upstream-model",
        "choices": [{"index": 0, "message": said, "logprobs": None, "finish_reason": finish_reason}],
        "usage": usage,
    }


def chunk(delta: Mapping[str, Any] | None, *, finish_reason: str | None = None, **rest: Any) -> dict[str, Any]:
    """Return a chunk; without a delta it has no choices."""
    choices = [] if delta is None else [{"index": 0, "delta": dict(delta), "finish_reason": finish_reason}]
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "upstream-model"}
    return {**head, "choices": choices, **rest}


def text_chunks(*pieces: str, finish_reason: str = "stop", usage: Any = USAGE) -> list[dict[str, Any]]:
    """Return the chunks of a text."""
    return [
        chunk({"role": "assistant", "content": ""}),
        *(chunk({"content": piece}) for piece in pieces),
        chunk({}, finish_reason=finish_reason),
        chunk(None, usage=usage),
    ]


def call_chunk(index: int | None, arguments: str = "", *, call_id: str | None = None, name: str | None = None) -> Any:
    """Return a chunk with a piece of one tool call."""
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    call = {"index": index, "id": call_id, "type": "function", "function": function}
    return chunk({"tool_calls": [{key: value for key, value in call.items() if value is not None}]})


def run(translator: StreamTranslator, chunks: Sequence[Mapping[str, Any] | bytes], *, done: bool = True) -> bytes:
    """Return the bytes that a translator makes of chunks."""
    out = [translator.feed(one if isinstance(one, bytes) else json.dumps(one).encode()) for one in chunks]
    return b"".join([*out, translator.feed(DONE) if done else b"", translator.finish()])


def events_of(stream: bytes) -> list[dict[str, Any]]:
    """Return the data of all events, checked to be named by their type where they have a name."""
    events = []
    for raw in stream.decode().removesuffix("\n\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in raw.split("\n"))
        if fields["data"] == "[DONE]":
            continue
        events.append(json.loads(fields["data"]))
        if "event" in fields:
            assert events[-1]["type"] == fields["event"]
    return events


Reply = Callable[[dict[str, Any]], Any]


class Upstream:
    """A gateway of one dialect and one upstream, in the place of the network.

    `reply` gets the chat body and returns a whole answer, or chunks (dicts, bytes or an exception to fail with).
    """

    def __init__(self, dialect: Dialect, reply: Reply, *, piece: int = 7) -> None:
        self.dialect = dialect
        self.reply = reply
        self.piece = piece
        self.asked: dict[str, Any] = {}
        self.chat: dict[str, Any] = {}

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked = json.loads(request.content)
        try:
            self.chat = self.dialect.to_chat(self.asked)
            reply = self.reply(self.chat)
        except APIError as error:
            body = self.dialect.error(error.status, error.body["error"], request_id=REQUEST_ID)
            return httpx.Response(error.status, json=body)
        if isinstance(reply, dict):
            return httpx.Response(200, json=self.dialect.answer(reply, self.asked, request_id=REQUEST_ID))
        stream = b"".join(self._stream(reply))
        pieces = (stream[i : i + self.piece] for i in range(0, len(stream), self.piece))
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, content=pieces)

    def _stream(self, reply: Sequence[Any]) -> Iterator[bytes]:
        translator = self.dialect.stream(self.asked, request_id=REQUEST_ID)
        for one in reply:
            if isinstance(one, APIError):
                yield translator.fail(one.body["error"])
            else:
                yield translator.feed(json.dumps(one).encode())
        yield translator.feed(DONE)
        yield translator.finish()

    def openai(self) -> openai.OpenAI:
        """Return OpenAI's client in front of it."""
        client = httpx.Client(transport=httpx.MockTransport(self))
        return openai.OpenAI(api_key="key", base_url="http://gateway/v1", http_client=client, max_retries=0)

    def anthropic(self) -> anthropic.Anthropic:
        """Return Anthropic's client in front of it."""
        client = httpx.Client(transport=httpx.MockTransport(self))
        return anthropic.Anthropic(api_key="key", base_url="http://gateway", http_client=client, max_retries=0)


_texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
_arguments = st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=4), st.integers() | _texts, max_size=3)
_arguments = _arguments.filter(
    lambda given: all(not isinstance(one, int) or abs(one) < 2**53 for one in given.values())
)


@st.composite
def chunked_answers(draw: st.DrawFn) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Draw a message and the chunks of it: text cut anywhere, then tool calls cut anywhere and interleaved."""
    reasoning, text = draw(st.none() | _texts), draw(st.just("") | _texts)
    calls = [
        {"id": f"call_{i}", "type": "function", "function": {"name": f"tool_{i}", "arguments": json.dumps(given)}}
        for i, given in enumerate(draw(st.lists(_arguments, max_size=3)))
    ]
    chunks = [chunk({"role": "assistant"})]
    chunks += [chunk({"reasoning_content": piece}) for piece in _pieces(draw, reasoning or "")]
    chunks += [chunk({"content": piece}) for piece in _pieces(draw, text)]
    queues = []
    for i, call in enumerate(calls):
        head = call_chunk(i, call_id=call["id"], name=call["function"]["name"])
        queues.append([head, *(call_chunk(i, piece) for piece in _pieces(draw, call["function"]["arguments"]))])
    begun = 0  # calls begin in order, whatever comes between their pieces
    while any(queues):
        ready = [i for i, queue in enumerate(queues) if queue and i <= begun]
        chosen = draw(st.sampled_from(ready))
        begun = max(begun, chosen + 1)
        chunks.append(queues[chosen].pop(0))
    finish_reason = "tool_calls" if calls else "stop"
    chunks += [chunk({}, finish_reason=finish_reason), chunk(None, usage=USAGE)]
    message = {"reasoning_content": reasoning, **({"tool_calls": calls} if calls else {})}
    return chat_answer(text, finish_reason=finish_reason, **message), chunks


def _pieces(draw: st.DrawFn, text: str) -> list[str]:
    cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=4)) | {0, len(text)})
    return [text[a:b] for a, b in itertools.pairwise(cuts)]
