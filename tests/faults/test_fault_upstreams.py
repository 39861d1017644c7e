"""Upstreams that refuse, hang, drip, reset and flap, many at once: each client gets a right answer or a right error."""

from __future__ import annotations

import asyncio
import json
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from contracts.misbehaving_upstream import Exchange, MisbehavingUpstream
from crowd import Answer, Question, ask_all, echo, is_right, pieces, text_of, whole
from fault_gateway import NO_BREAKER, eventually, pool_of, start, tasks_of
from live_gateway import Live

SHORT = {"timeouts": {"connect_s": 1.0, "first_byte_s": 0.4, "between_chunks_s": 0.4, "total_s": 1.5}}
FAULTS = ("refusing", "deaf", "hanging", "dripping", "resetting", "breaking", "flapping", "lying")
PATIENT = ("breaking", "flapping", "lying")
"""Those that fail by themselves: given up first because the machine is busy, they would fail otherwise."""
PER_FAULT = 8
BREAKS_MESSAGE = "broke off in the middle of its answer"


class Faulty:
    """Behaviours by the name of the model, and which questions were answered to the end by whom."""

    def __init__(self, upstream: MisbehavingUpstream) -> None:
        self.answered: list[tuple[str, str]] = []
        self._flaps = count()
        for name in ("healthy", *FAULTS):
            upstream.behaviours[name] = getattr(self, name, self.healthy)

    async def healthy(self, exchange: Exchange) -> None:
        await echo(exchange)
        self.answered.append((text_of(exchange), exchange.body["model"]))

    async def hanging(self, exchange: Exchange) -> None:
        await exchange.pause(60)

    async def dripping(self, exchange: Exchange) -> None:
        """Send a byte a second."""
        text = text_of(exchange)
        if exchange.body.get("stream"):
            exchange.head(200, content_type="text/event-stream", transfer_encoding="chunked")
            await exchange.chunks([bytes([byte]) for byte in b"".join(pieces(text))], pause=1.0)
            return
        body = whole(text)
        exchange.head(200, content_type="application/json", content_length=str(len(body)))
        for byte in body:
            exchange.writer.write(bytes([byte]))
            await exchange.pause(1.0)

    async def resetting(self, exchange: Exchange) -> None:
        exchange.reset()
        raise ConnectionError

    async def breaking(self, exchange: Exchange) -> None:
        """Reset the connection in the middle of the answer."""
        text = text_of(exchange)
        if exchange.body.get("stream"):
            await exchange.event_stream(pieces(text)[:2], end=False)
        else:
            exchange.head(200, content_type="application/json", content_length=str(len(whole(text))))
            exchange.writer.write(whole(text)[:20])
            await exchange.writer.drain()
        await asyncio.sleep(0.3)  # a reset discards what has not been read
        exchange.reset()
        raise ConnectionError

    async def flapping(self, exchange: Exchange) -> None:
        """Fail every second time."""
        if next(self._flaps) % 2:
            await self.healthy(exchange)
        else:
            await exchange.answer(b'{"error": {"message": "flap", "type": "server_error"}}', 503)

    async def lying(self, exchange: Exchange) -> None:
        """Announce more bytes than come, and close properly."""
        exchange.head(200, content_type="application/json", content_length="100000")
        exchange.writer.write(whole(text_of(exchange)))
        await exchange.writer.drain()
        raise ConnectionError


@pytest.fixture
def deaf() -> Iterator[str]:
    """Return the address of one whose system accepts connections that it never looks at."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"


@pytest.fixture
def faulty(upstream: MisbehavingUpstream) -> Faulty:
    return Faulty(upstream)


def gateway_over(
    stack: ExitStack, folder: Path, upstream: MisbehavingUpstream, deaf: str, resilience: dict[str, Any]
) -> Live:
    places = {"refusing": {"base_url": "http://127.0.0.1:9/v1"}, "deaf": {"base_url": deaf}}
    models = {name: {**({} if name in PATIENT else SHORT), **places.get(name, {})} for name in FAULTS}
    return start(stack, folder, pool_of(upstream.base_url, "healthy", *FAULTS, models=models), resilience=resilience)


def questions(rounds: int = PER_FAULT) -> list[Question]:
    """Return questions whose best model is each of the faulty ones, and then the healthy one."""
    return [
        Question(f"ask {fault} question {i} of {'streams' if stream else 'wholes'}", stream=stream)
        for i in range(rounds)
        for fault in FAULTS
        for stream in (False, True)
    ]


def fault_of(answer: Answer) -> str:
    return answer.question.text.split()[1]


def check_broken_stream(answer: Answer) -> None:
    """Check that what came is the upstream's own bytes, then an error event and no end."""
    sent = b"".join(pieces(answer.question.text)[:2])
    assert answer.status == 200
    assert answer.body.startswith(sent)
    error = json.loads(answer.body.removeprefix(sent).removeprefix(b"data: "))["error"]
    assert error["code"] == "upstream_broke_off"
    assert BREAKS_MESSAGE in error["message"]
    assert b"[DONE]" not in answer.body


def outcomes_by_id(gateway: Live, expected: int) -> dict[str, Any]:
    """Return the outcomes; a request with two would not be among `expected` in the right number."""
    assert eventually(lambda: len(gateway.outcomes()) >= expected)
    found = gateway.outcomes()
    assert len(found) == expected
    return {outcome.request_id: outcome for outcome in found}


async def test_all_faults_at_once_beside_a_healthy_model(
    stack: ExitStack, tmp_path: Path, upstream: MisbehavingUpstream, faulty: Faulty, deaf: str
) -> None:
    gateway = gateway_over(stack, tmp_path, upstream, deaf, NO_BREAKER)
    idle = await asyncio.to_thread(tasks_of, gateway)
    asked = questions()
    answers = await ask_all(gateway.url, asked, at_once=48)

    assert len(answers) == len(asked)
    # On a busy machine a stream may be reset before its first token is read: then it falls back, too.
    broken = [
        answer
        for answer in answers
        if fault_of(answer) == "breaking" and answer.question.stream and answer.headers["x-llmrouter-fallbacks"] == "0"
    ]
    assert broken
    for answer in answers:
        if answer in broken:
            check_broken_stream(answer)
        else:
            assert is_right(answer), answer
            fell_back = answer.headers["x-llmrouter-fallbacks"] == "1"
            assert fell_back or fault_of(answer) == "flapping"
            assert answer.headers["x-llmrouter-model"] == ("healthy" if fell_back else "flapping")

    outcomes = await asyncio.to_thread(outcomes_by_id, gateway, len(asked))
    assert set(outcomes) == {answer.request_id for answer in answers}
    for answer in answers:
        outcome = outcomes[answer.request_id]
        assert outcome.prompt == answer.question.text
        assert outcome.status == ("partial" if answer in broken else "ok")
        assert outcome.served_by == answer.headers["x-llmrouter-model"]
        assert len(outcome.fallbacks) == int(answer.headers["x-llmrouter-fallbacks"])
        assert (outcome.cost_usd is None) == (answer in broken)

    # Nobody was asked for an answer that another had given already.
    per_question = Counter(text for text, _ in faulty.answered)
    assert set(per_question.values()) == {1}
    assert set(per_question) == {answer.question.text for answer in answers if answer not in broken}
    served = {answer.question.text: answer.headers["x-llmrouter-model"] for answer in answers if answer not in broken}
    assert dict(faulty.answered) == served

    assert gateway.gateway.in_flight == 0
    assert gateway.gateway.admission.state().in_flight == 0
    assert await asyncio.to_thread(eventually, lambda: tasks_of(gateway) == idle)


async def test_models_that_fail_are_left_alone_and_nobody_waits_for_them(
    stack: ExitStack, tmp_path: Path, upstream: MisbehavingUpstream, faulty: Faulty, deaf: str
) -> None:
    gateway = gateway_over(stack, tmp_path, upstream, deaf, {"retry_budget": {"ratio": 10.0}})
    first = await ask_all(gateway.url, questions(4), at_once=48)
    calls_before = len(upstream.exchanges)
    # All that fail before their first byte cool down now; the breaking stream and the flapping one may not.
    quiet = [
        Question(f"again {fault} {i}", stream=i % 2 == 0)
        for i in range(12)
        for fault in ("refusing", "deaf", "hanging", "dripping", "resetting")
    ]
    second = await ask_all(gateway.url, quiet, at_once=16)
    assert all(is_right(answer) for answer in second)
    assert {answer.headers["x-llmrouter-model"] for answer in second} == {"healthy"}
    asked = Counter(exchange.body["model"] for exchange in upstream.exchanges[calls_before:])
    assert asked["healthy"] >= len(second)
    assert sum(asked.values()) - asked["healthy"] <= len(FAULTS), "at most one trial each"
    assert all(answer.status == 200 for answer in first)


async def test_everything_fails_and_everybody_is_told_so(
    stack: ExitStack, tmp_path: Path, upstream: MisbehavingUpstream, faulty: Faulty, deaf: str
) -> None:
    names = ("refusing", "deaf", "hanging", "resetting")
    places = {"refusing": {"base_url": "http://127.0.0.1:9/v1"}, "deaf": {"base_url": deaf}}
    models = {name: {**SHORT, **places.get(name, {})} for name in names}
    gateway = start(stack, tmp_path, pool_of(upstream.base_url, *names, models=models), resilience=NO_BREAKER)
    asked = [Question(f"number {i}", stream=i % 2 == 0) for i in range(40)]
    answers = await ask_all(gateway.url, asked, at_once=40)
    for answer in answers:
        assert answer.status in (502, 504), answer
        error = json.loads(answer.body)["error"]
        assert error["type"] == "upstream_error"
        assert {attempt["model"] for attempt in error["attempts"]} == set(names)
        assert answer.seconds < 10
    outcomes = await asyncio.to_thread(outcomes_by_id, gateway, len(asked))
    assert set(outcomes) == {answer.request_id for answer in answers}
    assert {(outcome.status, outcome.served_by) for outcome in outcomes.values()} == {("error", None)}
    assert faulty.answered == []


async def test_many_kept_connections_that_died_at_once(
    stack: ExitStack, tmp_path: Path, upstream: MisbehavingUpstream
) -> None:
    """An upstream that has gone and come again costs nobody an answer."""
    used: set[asyncio.StreamWriter] = set()
    answered: list[str] = []

    async def once_a_connection(exchange: Exchange) -> None:
        if exchange.writer in used:
            exchange.reset()
            raise ConnectionError
        used.add(exchange.writer)
        await asyncio.sleep(0.1)  # so that each of them needs a connection of its own
        await echo(exchange)
        answered.append(text_of(exchange))

    upstream.behaviours["healthy"] = once_a_connection
    gateway = start(stack, tmp_path, pool_of(upstream.base_url, "healthy"), resilience=NO_BREAKER)
    first = await ask_all(gateway.url, [Question(f"first {i}", stream=i % 2 == 0) for i in range(16)], at_once=16)
    assert all(is_right(answer) for answer in first)
    second = await ask_all(gateway.url, [Question(f"second {i}", stream=i % 2 == 0) for i in range(16)], at_once=4)
    assert all(is_right(answer) for answer in second)
    assert Counter(answered) == Counter(answer.question.text for answer in (*first, *second))
