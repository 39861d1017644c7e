"""Whatever upstreams and clients do: one outcome a request, budgets kept, and nothing left behind."""

from __future__ import annotations

import asyncio
import os
import random
import re
import time
from collections import Counter, defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from contracts.misbehaving_upstream import USAGE, Exchange, MisbehavingUpstream, chunk, completion, event, usage_chunk
from crowd import new_session, pieces, whole
from fault_gateway import NO_BREAKER, eventually, pool_of, start, tasks_of
from live_gateway import PRICE, Live
from soak_results import record

from service.limits.subjects import Subject

NAMES = ("alpha", "beta", "gamma")
SHORT = {"timeouts": {"connect_s": 2.0, "first_byte_s": 1.0, "between_chunks_s": 1.0, "total_s": 3.0}}
COST_USD = (USAGE["prompt_tokens"] * PRICE["input"] + USAGE["completion_tokens"] * PRICE["output"]) / 1e6
TOO_LATE = re.compile("'timeout'|the upstream is too slow")
REQUESTS, AT_ONCE = 150, 16
PATIENCE_S = 20.0

# What an upstream does with a call, and how often.
DEEDS = {
    "answer": 8,
    "answer late": 3,
    "answer without usage": 1,
    "answer with odd usage": 1,
    "answer in crumbs": 1,
    "fail": 2,
    "be busy": 1,
    "refuse the length": 1,
    "refuse the content": 1,
    "blame the client": 1,
    "hang": 1,
    "reset": 1,
    "break off": 2,
    "say nothing": 1,
    "talk nonsense": 1,
    "err in the middle": 1,
}
WITH_USAGE = ("answer", "answer late", "answer in crumbs")
ODD_USAGE = (
    {"prompt_tokens": 1e300},
    {"prompt_tokens": -5, "completion_tokens": "many"},
    [],
    "none",
    {"x": {"y": [1]}},
)


def question_of(exchange: Exchange) -> str:
    """Return what the client asked; a resumed answer has the gateway's own words after it."""
    text: str = exchange.body["messages"][0]["content"]
    return text


@dataclass
class Chaos:
    """An upstream whose deeds are drawn by a seed, and what it has done.

    Attributes
    ----------
    deeds : dict of (str, str) to str
        By question and model.
    completed : list of (str, str)
        Question and model, for each answer that was sent to its end with its usage.
    """

    seed: int
    deeds: dict[tuple[str, str], str] = field(default_factory=dict)
    completed: list[tuple[str, str]] = field(default_factory=list)

    def deed_of(self, text: str, model: str) -> str:
        """Return what is done with a call; the same for each try of the same."""
        drawn = random.Random(f"{self.seed}/{text}/{model}").choices(list(DEEDS), list(DEEDS.values()))[0]
        return self.deeds.setdefault((text, model), drawn)

    async def __call__(self, exchange: Exchange) -> None:
        """Do it."""
        text, model = question_of(exchange), exchange.body["model"]
        deed = self.deed_of(text, model)
        if deed == "answer late":
            await exchange.pause(0.15)
        if deed.startswith("answer"):
            await self._answer(exchange, text, deed)
        else:
            await getattr(self, deed.replace(" ", "_"))(exchange, text)

    async def _answer(self, exchange: Exchange, text: str, deed: str) -> None:
        stream = exchange.body.get("stream")
        odd = random.Random(text).choice(ODD_USAGE)
        key = (text, exchange.body["model"])
        if not stream:
            if deed in WITH_USAGE:
                self.completed.append(key)
            changes = {"answer without usage": {"usage": None}, "answer with odd usage": {"usage": odd}}
            await exchange.answer(completion(text, **changes.get(deed, {})))
            return
        parts = pieces(text)
        if deed == "answer without usage":
            del parts[-2]
        elif deed == "answer with odd usage":
            parts[-2] = event(chunk(choices=[], usage=odd))
        elif deed == "answer in crumbs":
            raw = b"".join(parts)
            parts = [raw[i : i + 97] for i in range(0, len(raw), 97)]
        *before, last = parts
        await exchange.event_stream(before, pause=0.01, end=False)
        if deed in WITH_USAGE:
            self.completed.append(key)
        await exchange.chunks([last])

    async def fail(self, exchange: Exchange, _text: str) -> None:
        await exchange.answer(b'{"error": {"message": "down", "type": "server_error"}}', 500)

    async def be_busy(self, exchange: Exchange, _text: str) -> None:
        await exchange.answer(b'{"error": {"message": "busy", "code": "rate_limit_exceeded"}}', 429, retry_after="1")

    async def refuse_the_length(self, exchange: Exchange, _text: str) -> None:
        await exchange.answer(b'{"error": {"message": "long", "code": "context_length_exceeded"}}', 400)

    async def refuse_the_content(self, exchange: Exchange, _text: str) -> None:
        await exchange.answer(b'{"error": {"message": "no", "code": "content_filter"}}', 400)

    async def blame_the_client(self, exchange: Exchange, _text: str) -> None:
        await exchange.answer(b'{"error": {"message": "bad", "code": "invalid_value"}}', 400)

    async def hang(self, exchange: Exchange, _text: str) -> None:
        await exchange.pause(60)

    async def reset(self, exchange: Exchange, _text: str) -> None:
        exchange.reset()
        raise ConnectionError

    async def break_off(self, exchange: Exchange, text: str) -> None:
        if exchange.body.get("stream"):
            await exchange.event_stream(pieces(text)[:1], end=False)
        else:
            exchange.head(200, content_type="application/json", content_length="9999")
            exchange.writer.write(whole(text))
            await exchange.writer.drain()
        await asyncio.sleep(0.02)
        exchange.reset()
        raise ConnectionError

    async def say_nothing(self, exchange: Exchange, _text: str) -> None:
        if exchange.body.get("stream"):
            await exchange.event_stream([b": wait\n\n"])
        else:
            await exchange.answer(b"")

    async def talk_nonsense(self, exchange: Exchange, _text: str) -> None:
        if exchange.body.get("stream"):
            parts = [event(part) for part in ("{}", "[1]", '{"choices": [{"delta": 5}, null]}', "nonsense", "[DONE]")]
            await exchange.event_stream(parts)
        else:
            await exchange.answer(b'{"choices": [null, {"message": [1]}], "usage": 7}')

    async def err_in_the_middle(self, exchange: Exchange, text: str) -> None:
        if exchange.body.get("stream"):
            await exchange.event_stream([*pieces(text)[:1], event({"error": {"message": "late"}}), usage_chunk_event()])
        else:
            await exchange.answer(b'{"error": {"message": "late", "code": 529}}')


def usage_chunk_event() -> bytes:
    return event(usage_chunk())


ENDPOINTS: dict[str, Any] = {
    "/v1/chat/completions": lambda text: {"messages": [{"role": "user", "content": text}], "max_tokens": 5},
    "/v1/completions": lambda text: {"prompt": text, "max_tokens": 5},
    "/v1/responses": lambda text: {"input": text, "max_output_tokens": 5},
    "/v1/messages": lambda text: {"messages": [{"role": "user", "content": text}], "max_tokens": 5},
}


@dataclass
class Result:
    """What a client met: a status, whether it stayed to the end, and whether that was a fault of the gateway itself."""

    text: str
    status: int = 0
    stayed: bool = False
    ours: bool = False


async def ask(session: aiohttp.ClientSession, url: str, text: str, draw: random.Random, *, may_leave: bool) -> Result:
    """Ask one question in some shape, and perhaps leave before the answer has ended."""
    path = draw.choice(list(ENDPOINTS))
    stream = draw.random() < 0.5
    model = draw.choices(["auto", *NAMES], [6, 1, 1, 1])[0]
    body = {"model": model, "stream": stream, **ENDPOINTS[path](text)}
    leave_after_s = draw.uniform(0.0, 0.3) if may_leave and draw.random() < 0.25 else PATIENCE_S
    result = Result(text)
    try:
        async with asyncio.timeout(leave_after_s), session.post(url + path, json=body) as response:
            result.status = response.status
            result.ours = b"internal_error" in await response.read()
            result.stayed = True
    except (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError, TimeoutError):
        # A head without its end, or the client's own impatience.
        assert leave_after_s < PATIENCE_S, "only those that leave get no whole answer"
    return result


async def ask_all(url: str, seed: int, count: int, *, may_leave: bool) -> list[Result]:
    numbers = iter(range(count))
    results: list[Result] = []

    async def client(session: aiohttp.ClientSession) -> None:
        for number in numbers:
            text = f"question {number} of seed {seed}"
            results.append(await ask(session, url, text, random.Random(text), may_leave=may_leave))

    async with new_session() as session:
        await asyncio.gather(*(client(session) for _ in range(AT_ONCE)))
    return results


def gateway_for(stack: ExitStack, folder: Path, upstream: MisbehavingUpstream, chaos: Chaos, **sections: Any) -> Live:
    upstream.behaviours |= dict.fromkeys(NAMES, chaos)
    pool = pool_of(upstream.base_url, *NAMES, models=dict.fromkeys(NAMES, SHORT))
    return start(stack, folder, pool, **{"resilience": NO_BREAKER, **sections})


async def check_quiet(gateway: Live, idle: list[str]) -> None:
    """Check that nothing is left of the requests."""
    subject = Subject("gateway", "gateway", gateway.gateway.settings.limits.gateway)
    assert await asyncio.to_thread(eventually, lambda: gateway.gateway.in_flight == 0)
    admission = gateway.gateway.admission.state()
    assert (admission.in_flight, admission.queued) == (0, 0)
    assert await asyncio.to_thread(eventually, lambda: tasks_of(gateway) == idle), tasks_of(gateway)
    if subject.limited:
        (usage,) = await gateway.gateway.limiter.usage([subject])
        assert usage["in_flight"] == 0
        assert not usage["reserved_usd"]
    ports = {int(gateway.url.rsplit(":", 1)[1])}
    half_closed = [
        connection
        for connection in psutil.Process().net_connections("tcp")
        if connection.status == psutil.CONN_CLOSE_WAIT and connection.laddr.port in ports
    ]
    assert half_closed == []


def by_text(gateway: Live) -> dict[str, Any]:
    """Return the outcomes by their questions; none has two."""
    outcomes = gateway.outcomes()
    counted = Counter(outcome.prompt for outcome in outcomes)
    assert set(counted.values()) <= {1}, counted.most_common(1)
    return {outcome.prompt: outcome for outcome in outcomes}


def too_late(outcomes: dict[str, Any]) -> set[str]:
    """Return the questions with an answer that was given up: on a busy machine another model's counts then, or none.

    Its upstream may have said all of it, which nobody has read and nobody can bill.
    """
    return {text for text, outcome in outcomes.items() if TOO_LATE.search(f"{outcome.error} {outcome.attempts}")}


def check_outcomes(
    results: list[Result], outcomes: dict[str, Any], chaos: Chaos, upstream: MisbehavingUpstream
) -> None:
    """Check what was recorded against what clients and upstreams saw."""
    asked = defaultdict(set)
    for exchange in upstream.exchanges:
        asked[question_of(exchange)].add(exchange.body["model"])
    completed = dict(chaos.completed)
    assert len(completed) == len(chaos.completed), "two models answered one question to the end"
    # A question that reached an upstream was decided, and one that was decided is recorded.
    assert set(asked) <= set(outcomes)
    for result in results:
        outcome = outcomes.get(result.text)
        if result.status >= 500 or result.status in (400, 429):
            assert outcome is None or outcome.status == "error", (result, outcome)
        elif result.stayed:
            assert outcome is not None
            assert outcome.status in ("ok", "partial"), (result, outcome)
        elif outcome is not None:
            assert outcome.status in ("ok", "cancelled", "partial", "error"), (result, outcome)
    for text, outcome in outcomes.items():
        assert set(outcome.fallbacks) <= asked[text]
        if outcome.status == "ok":
            assert outcome.served_by in asked[text]
            if text in completed:
                assert completed[text] == outcome.served_by
                assert outcome.cost_usd == pytest.approx(COST_USD)
        elif outcome.status == "error":
            assert outcome.served_by is None
            assert text not in completed or len(asked[text]) > 1
    answered = {text for text, outcome in outcomes.items() if outcome.status == "ok"}
    with_usage = {text for text in answered if chaos.deeds[text, outcomes[text].served_by] in WITH_USAGE}
    stayed = {result.text for result in results if result.stayed}
    assert with_usage <= set(completed)
    assert set(completed) & stayed <= answered | too_late(outcomes), (
        "what an upstream completed for a client that stayed is recorded so"
    )


async def run(
    seed: int,
    stack: ExitStack,
    folder: Path,
    upstream: MisbehavingUpstream,
    *,
    count: int = REQUESTS,
    may_leave: bool = True,
    **sections: Any,
) -> tuple[Live, list[Result], dict[str, Any], Chaos]:
    chaos = Chaos(seed)
    gateway = await asyncio.to_thread(gateway_for, stack, folder, upstream, chaos, **sections)
    idle = await asyncio.to_thread(tasks_of, gateway)
    results = await ask_all(gateway.url, seed, count, may_leave=may_leave)
    assert len(results) == count
    assert not any(result.ours for result in results)
    await check_quiet(gateway, idle)
    return gateway, results, await asyncio.to_thread(by_text, gateway), chaos


@pytest.mark.parametrize("seed", range(2))
async def test_chaos(seed: int, stack: ExitStack, tmp_path: Path, upstream: MisbehavingUpstream) -> None:
    _, results, outcomes, chaos = await run(seed, stack, tmp_path, upstream)
    check_outcomes(results, outcomes, chaos, upstream)
    assert len({chaos.deeds[key] for key in chaos.deeds}) == len(DEEDS), "every deed was done"
    assert {outcome.status for outcome in outcomes.values()} == {"ok", "error", "partial", "cancelled"}


async def test_upstreams_and_log_agree_to_the_last_answer(
    stack: ExitStack, tmp_path: Path, upstream: MisbehavingUpstream
) -> None:
    """Where no client leaves, what upstreams completed and what the log calls ok is the same."""
    _, results, outcomes, chaos = await run(7, stack, tmp_path, upstream, may_leave=False)
    check_outcomes(results, outcomes, chaos, upstream)
    recorded = {
        (text, outcome.served_by)
        for text, outcome in outcomes.items()
        if outcome.status == "ok" and chaos.deeds[text, outcome.served_by] in WITH_USAGE
    }
    assert recorded == set(chaos.completed)
    assert len(outcomes) == len(results)


async def test_chaos_within_limits(stack: ExitStack, tmp_path: Path, upstream: MisbehavingUpstream) -> None:
    """A budget for a third of the requests, and few at once: neither is exceeded."""
    budget = REQUESTS / 3 * COST_USD
    limits = {"state": "memory://", "gateway": {"budget_usd": budget, "concurrency": 12}}
    gateway, results, outcomes, chaos = await run(3, stack, tmp_path, upstream, limits=limits)
    check_outcomes(results, outcomes, chaos, upstream)
    subject = Subject("gateway", "gateway", gateway.gateway.settings.limits.gateway)
    (usage,) = await gateway.gateway.limiter.usage([subject])
    known = sum((outcome.cost_usd or 0.0) + (outcome.overhead_cost_usd or 0.0) for outcome in outcomes.values())
    assert known <= usage["spent_usd"] + 1e-9, "what was used is charged"
    assert usage["spent_usd"] <= budget + AT_ONCE * COST_USD
    assert 429 in {result.status for result in results}
    assert len(chaos.completed) > 10


async def test_more_than_fits(stack: ExitStack, tmp_path: Path, upstream: MisbehavingUpstream) -> None:
    """A gateway that is full refuses the rest with the time to come again; who waits may leave, and takes no place."""
    admission = {"max_in_flight": 3, "max_queue": 4, "queue_timeout_s": 0.3}
    limits = {"state": "memory://", "admission": admission}
    gateway, results, outcomes, chaos = await run(5, stack, tmp_path, upstream, limits=limits)
    refused = {result.text for result in results if result.status == 503}
    assert len(refused) > 5
    assert not refused & {question_of(exchange) for exchange in upstream.exchanges}
    assert not refused & set(outcomes)
    check_outcomes([result for result in results if result.status != 503], outcomes, chaos, upstream)
    state = gateway.gateway.admission.state()
    assert state.refused >= len(refused), "some of the refused may have left before they heard so"


async def test_chaos_with_hedging_and_resuming(stack: ExitStack, tmp_path: Path, upstream: MisbehavingUpstream) -> None:
    """Two may be asked for one answer then; it is recorded once, and what the other cost is told apart."""
    hedge = {"enabled": True, "after": "p50", "min_wait_s": 0.01, "max_share": 1.0}
    resilience = {**NO_BREAKER, "hedge": hedge, "fallback_after_first_token": True}
    # Many, since a model is hedged only after twenty of its answers, which are few on a busy machine.
    gateway, results, outcomes, chaos = await run(11, stack, tmp_path, upstream, count=500, resilience=resilience)
    assert {question_of(exchange) for exchange in upstream.exchanges} <= set(outcomes)
    for result in results:
        if result.stayed and result.status == 200:
            assert outcomes[result.text].status in ("ok", "partial")
    assert gateway.gateway.resilience.state()["hedges"] > 0
    twice = [text for text, n in Counter(text for text, _ in chaos.completed).items() if n > 1]
    read = set(twice) - too_late(outcomes)
    assert all(outcomes[text].overhead_cost_usd for text in read), "the second answer is on the bill"


@pytest.mark.soak
async def test_chaos_for_long(stack: ExitStack, tmp_path: Path, upstream: MisbehavingUpstream) -> None:
    seconds = float(os.environ.get("LLMROUTER_SOAK_S", "600"))
    ends = time.monotonic() + seconds
    seed, statuses = 1000, Counter[str]()
    process = psutil.Process()
    files = 0
    while time.monotonic() < ends:
        seed += 1
        with ExitStack() as inner:
            folder = tmp_path / str(seed)
            folder.mkdir()
            upstream.renew()
            _, results, outcomes, chaos = await run(seed, inner, folder, upstream, count=400)
            check_outcomes(results, outcomes, chaos, upstream)
            statuses.update(outcome.status for outcome in outcomes.values())
            await asyncio.to_thread(inner.close)
        files = files or process.num_fds()
        assert process.num_fds() <= files + 20
    record("chaos", {"rounds": seed - 1000, "requests": 400 * (seed - 1000), "seconds": seconds, "outcomes": statuses})
