"""What ``llmrouter demo`` does: pocket pool and gateway, a few questions with known answers, a table."""

from __future__ import annotations

import http.client
import json
import os
from dataclasses import dataclass
from urllib.parse import urlsplit

from service.threads import pin_threads


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt with its one right answer."""

    prompt: str
    answer: str


QUESTIONS = (
    Question("What is 7 + 5?", "12"),
    Question("How much is 64 minus 8?", "56"),
    Question("Sort these numbers: 31, 7, 22", "7 22 31"),
    Question("Which is larger, 48 or 84?", "84"),
    Question("Is 37 even or odd?", "odd"),
    Question("Write banana in upper case", "BANANA"),
    Question("Spell the word cat", "c-a-t"),
    Question("Write the word dog backwards", "god"),
    Question("What is the capital of France?", "Paris"),
    Question("What is the opposite of hot?", "cold"),
)

DEAREST = "pocket-max"
"""The model that everything would be sent to without a router."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back."""

    text: str
    model: str
    cost_usd: float


def run_demo() -> int:
    """Ask the questions through ``model="auto"`` and of the dearest model, print a table, and return the exit status.

    The status is 0 if every question was answered; wrong answers are shown, and do not fail the demonstration.

    Raises
    ------
    LLMRouterError
        If the pool or the gateway does not start.
    """
    pin_threads()
    from service.app import create_app
    from service.launch import say
    from service.pocket import PORT_VARIABLE, PocketPool, free_port
    from service.server import GatewayThread
    from service.settings import load_settings

    port = free_port()
    settings = load_settings(environment={**os.environ, PORT_VARIABLE: str(port)})
    # Nothing of a demonstration is to stay behind in the working directory.
    settings = settings.model_copy(update={"log": settings.log.model_copy(update={"store": "memory://"})})
    with PocketPool(port, progress=say), GatewayThread(create_app(settings)) as gateway:
        replies = [
            (question, _ask(gateway.url, "auto", question), _ask(gateway.url, DEAREST, question))
            for question in QUESTIONS
        ]
    _print_table(replies)
    return 0


def is_right(question: Question, text: str) -> bool:
    """Return whether `text` is the right answer; blanks, commas between numbers and a final full stop do not count."""
    return _normalised(text) == _normalised(question.answer)


def _normalised(text: str) -> str:
    return " ".join(text.replace(",", " ").split()).removesuffix(".").rstrip()


def _ask(url: str, model: str, question: Question) -> Reply:
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=60.0)
    try:
        body = {"model": model, "messages": [{"role": "user", "content": question.prompt}], "temperature": 0}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
        response = connection.getresponse()
        payload = json.loads(response.read())
    finally:
        connection.close()
    if response.status != http.client.OK:
        from llmrouter.exceptions import LLMRouterError

        raise LLMRouterError(f"the gateway answered {response.status}: {payload['error']['message']}")
    return Reply(
        text=payload["choices"][0]["message"]["content"],
        model=response.headers["x-llmrouter-model"],
        cost_usd=float(response.headers["x-llmrouter-cost"]),
    )


def _print_table(replies: list[tuple[Question, Reply, Reply]]) -> None:
    rows = [("prompt", "answer", "", "model", "cost (USD)", f"{DEAREST} (USD)")]
    for question, reply, dearest in replies:
        mark = "right" if is_right(question, reply.text) else f"wrong ({question.answer})"
        rows.append(
            (question.prompt, reply.text, mark, reply.model, f"{reply.cost_usd:.2e}", f"{dearest.cost_usd:.2e}")
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    right = sum(is_right(question, reply.text) for question, reply, _ in replies)
    right_dearest = sum(is_right(question, dearest.text) for question, _, dearest in replies)
    cost = sum(reply.cost_usd for _, reply, _ in replies)
    cost_dearest = sum(dearest.cost_usd for _, _, dearest in replies)
    models = {reply.model for _, reply, _ in replies}
    print()
    print(f"auto ({len(models)} models): {right} of {len(replies)} right for {cost:.2e} USD")
    print(f"{DEAREST} alone: {right_dearest} of {len(replies)} right for {cost_dearest:.2e} USD")
    if cost_dearest > 0:
        print(f"auto cost {cost / cost_dearest:.0%} of that")
