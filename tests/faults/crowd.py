"""Many clients at once, each with a question of its own, and what they got."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from contracts.misbehaving_upstream import Exchange, completion, ordinary_stream

CHAT = "/v1/chat/completions"
PATIENCE_S = 30.0


@dataclass(frozen=True)
class Question:
    """What a client asks.

    Attributes
    ----------
    text : str
        The prompt; no two are the same, so that outcomes and calls of upstreams are told apart by it.
    stream : bool
        Whether the answer is streamed.
    model : str
        As in the body.
    leave_after_s : float or None
        The client hangs up after that many seconds.
    headers : dict of str to str
        Of the request.
    """

    text: str
    stream: bool = False
    model: str = "auto"
    leave_after_s: float | None = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def body(self) -> dict[str, Any]:
        """What is sent."""
        body: dict[str, Any] = {"model": self.model, "messages": [{"role": "user", "content": self.text}]}
        if self.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return body


@dataclass
class Answer:
    """What a client got.

    Attributes
    ----------
    question : Question
        What was asked.
    status : int
        HTTP status; 0 where no answer began.
    body : bytes
        As far as it came.
    headers : dict of str to str
        Names in lower case.
    trouble : str
        Name of the exception that ended it early; "" for a whole answer.
    seconds : float
        Until it ended.
    """

    question: Question
    status: int = 0
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    trouble: str = ""
    seconds: float = 0.0

    @property
    def request_id(self) -> str:
        """As the gateway named it."""
        return self.headers["x-request-id"]


async def ask(session: aiohttp.ClientSession, url: str, question: Question) -> Answer:
    """Ask one question, and return whatever comes of it."""
    answer = Answer(question)
    began = time.perf_counter()
    try:
        async with asyncio.timeout(question.leave_after_s or PATIENCE_S):
            async with session.post(url + CHAT, json=question.body, headers=question.headers) as response:
                answer.status = response.status
                answer.headers = {name.lower(): value for name, value in response.headers.items()}
                async for piece in response.content.iter_any():
                    answer.body += piece
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        answer.trouble = type(error).__name__
    answer.seconds = time.perf_counter() - began
    return answer


async def ask_all(url: str, questions: Iterable[Question], *, at_once: int = 32, reuse: bool = True) -> list[Answer]:
    """Ask all questions, `at_once` at a time."""
    waiting = list(questions)[::-1]
    answers: list[Answer] = []

    async def client(session: aiohttp.ClientSession) -> None:
        while waiting:
            answers.append(await ask(session, url, waiting.pop()))

    async with new_session(reuse=reuse) as session:
        await asyncio.gather(*(client(session) for _ in range(at_once)))
    return answers


def new_session(*, reuse: bool = True) -> aiohttp.ClientSession:
    """Return a session without limits, over loopback whatever the environment says of proxies."""
    connector = aiohttp.TCPConnector(limit=0, force_close=not reuse)
    return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None), trust_env=False)


async def keep_asking(
    url: str, question: Callable[[int], Question], *, at_once: int, until: asyncio.Event, reuse: bool = True
) -> list[Answer]:
    """Ask question after question from `at_once` clients until the event is set; each begun one is waited for."""
    answers: list[Answer] = []
    number = 0

    async def client(session: aiohttp.ClientSession) -> None:
        nonlocal number
        while not until.is_set():
            number += 1
            answer = await ask(session, url, question(number))
            answers.append(answer)
            if answer.trouble:
                await asyncio.sleep(0.01)

    async with new_session(reuse=reuse) as session:
        await asyncio.gather(*(client(session) for _ in range(at_once)))
    return answers


# Upstreams that answer each question with the question itself, so that a swapped answer is seen


def text_of(exchange: Exchange) -> str:
    """Return the question that an upstream was asked."""
    text: str = exchange.body["messages"][-1]["content"]
    return text


def whole(text: str) -> bytes:
    """Return the right answer to a question."""
    return completion(text)


def pieces(text: str) -> list[bytes]:
    """Return the events of the right stream for a question."""
    return ordinary_stream(*(f"{word} " for word in text.split()))


def is_right(answer: Answer) -> bool:
    """Return whether a client got the whole right answer, byte by byte."""
    text = answer.question.text
    wanted = b"".join(pieces(text)) if answer.question.stream else whole(text)
    return answer.status == 200 and not answer.trouble and answer.body == wanted


async def echo(exchange: Exchange) -> None:
    """Answer as an upstream should."""
    if exchange.body.get("stream"):
        await exchange.event_stream(pieces(text_of(exchange)))
    else:
        await exchange.answer(whole(text_of(exchange)))


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that this share of `values` does not exceed."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]
