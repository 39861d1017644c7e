"""Requests of every kind to a server of local models: whole, streamed, cancelled, constrained, embedded, malformed."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from urllib.parse import urlsplit

import aiohttp

WORDS = ["add", "2", "and", "7", "reverse", "stone", "sort", "9", "4", "1", "upper", "café", "🙂"]
KINDS = {
    "chat": 6,
    "streamed": 4,
    "text": 2,
    "schema": 3,
    "tools": 2,
    "embeddings": 3,
    "adjusted": 2,
    "several": 1,
    "streamed and left": 3,
    "asked and left": 2,
    "left in the body": 1,
    "no JSON": 1,
    "no HTTP": 1,
    "bad field": 1,
    "bad schema": 1,
    "too long": 1,
}
EXPECTED = {"no JSON": {400}, "bad field": {400}, "bad schema": {400}, "too long": {400}}
LEFT = {"streamed and left", "asked and left", "left in the body", "no HTTP"}


class Crowd:
    """Clients of one server.

    Attributes
    ----------
    counts : Counter
        Requests by kind.
    wrong : list of str
        Answers that should not have come.
    """

    def __init__(self, url: str, model: str, *, seed: int) -> None:
        self._url = url
        self._model = model
        self._random = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []

    async def send(self, count: int, *, at_once: int = 12) -> None:
        """Send `count` requests, so many at a time."""
        kinds = iter(self._random.choices(list(KINDS), list(KINDS.values()), k=count))
        timeout = aiohttp.ClientTimeout(total=120)
        async with aiohttp.ClientSession(timeout=timeout) as session:

            async def client() -> None:
                for kind in kinds:
                    self.counts[kind] += 1
                    await self._one(session, kind)

            await asyncio.gather(*(client() for _ in range(at_once)))

    async def _one(self, session: aiohttp.ClientSession, kind: str) -> None:
        if kind in LEFT:
            await self._leave(session, kind)
            return
        path, body = self._body(kind)
        async with session.post(self._url + path, data=body) as response:
            answer = await response.read()
        expected = EXPECTED.get(kind, {200})
        whole = kind != "streamed" or answer.endswith(b"data: [DONE]\n\n")
        if response.status not in expected or not whole or not _well_formed(kind, answer):
            self.wrong.append(f"{kind}: {response.status} {answer[:200]!r}")

    async def _leave(self, session: aiohttp.ClientSession, kind: str) -> None:
        if kind == "streamed and left":
            _, body = self._body("streamed", max_tokens=300)
            async with session.post(f"{self._url}/chat/completions", data=body) as response:
                await response.content.readany()
                response.close()
            return
        address = urlsplit(self._url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        _, body = self._body("chat", max_tokens=300)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        sent = {"asked and left": head + body, "left in the body": head + body[:20], "no HTTP": body + b"\r\n\r\n"}
        writer.write(sent[kind])
        await writer.drain()
        await asyncio.sleep(self._random.random() * 0.05)
        writer.close()
        del reader

    def _body(self, kind: str, **changes: object) -> tuple[str, bytes]:
        text = " ".join(self._random.choices(WORDS, k=self._random.randrange(1, 12)))
        sampling = {"temperature": self._random.choice([0, 1.0]), "seed": self._random.randrange(1000)}
        chat = {"model": self._model, "messages": [{"role": "user", "content": text}], "max_tokens": 5, **sampling}
        number = self._random.randrange(300)
        schema = {"type": "object", "properties": {f"v{number}": {"enum": [1, 2]}}, "required": [f"v{number}"]}
        tool = {"name": f"f{number}", "parameters": schema | {"additionalProperties": False}}
        bodies: dict[str, dict[str, object]] = {
            "chat": chat,
            "streamed": chat | {"stream": True},
            "schema": chat | _format(schema | {"additionalProperties": False}) | {"max_tokens": 40},
            "tools": chat
            | {"tools": [{"type": "function", "function": tool}], "tool_choice": "required", "max_tokens": 60},
            "adjusted": chat | {"logit_bias": {"70": 5}, "frequency_penalty": 0.5, "logprobs": True, "stop": ["e"]},
            "several": chat | {"n": 3},
            "bad field": chat | self._random.choice([{"top_p": 7}, {"max_tokens": -1}, {"what": 1}, {"tools": [3]}]),
            "bad schema": chat | _format({"properties": {f"v{number}": {"type": "int"}}}),
            "too long": chat | {"messages": [{"role": "user", "content": "word " * 3000}]},
        }
        if kind == "no JSON":
            return "/chat/completions", self._random.choice([b"", b"{", b"[]", b"\xff", b'{"model": NaN}'])
        if kind == "text":
            return "/completions", json.dumps({"model": self._model, "prompt": text, "max_tokens": 4}).encode()
        if kind == "embeddings":
            texts = [text, *self._random.choices(WORDS, k=3)]
            return "/embeddings", json.dumps({"model": self._model, "input": texts}).encode()
        return "/chat/completions", json.dumps(bodies[kind] | changes).encode()


def _format(schema: dict[str, object]) -> dict[str, object]:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    return {"response_format": wanted}


def _well_formed(kind: str, answer: bytes) -> bool:
    if kind != "schema":
        return True
    choice = json.loads(answer)["choices"][0]
    return choice["finish_reason"] == "length" or bool(json.loads(choice["message"]["content"]))
