"""Signals of a live gateway: verifiers of requests and of the configuration, the judge, truncation, retries."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from contracts.misbehaving_upstream import Exchange, MisbehavingUpstream, chunk, completion, event, ordinary_stream
from live_gateway import Live

from llmrouter.exceptions import ConfigError
from llmrouter.verifiers import sandbox_problem
from service.learning import signals as signals_module
from service.learning.signals import check_signals
from service.settings import Settings

Start = Callable[..., Live]

VERIFY = {"kind": "numeric", "answer": 42}
MEMORY = {"state": "memory://"}


def saying(text: str, **changes: Any) -> Any:
    async def behave(exchange: Exchange) -> None:
        if exchange.body.get("stream"):
            await exchange.event_stream(ordinary_stream(*text.split(" ")))
        else:
            await exchange.answer(completion(text, **changes))

    return behave


def eventually(gateway: Live, answer: httpx.Response, test: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Return the outcome once it is as it should be."""
    deadline = time.monotonic() + 30
    while True:
        outcome = gateway.outcome(answer)
        if test(outcome):
            return outcome
        assert time.monotonic() < deadline, outcome
        time.sleep(0.05)


def judged_by(source: str) -> Callable[[dict[str, Any]], bool]:
    return lambda outcome: source in (outcome["quality_source"] or "")


def signals(gateway: Live) -> dict[tuple[str, str], float]:
    lines = [line for line in gateway.client.get("/metrics").text.splitlines() if "signals_total{" in line]
    found = {}
    for line in lines:
        labels, _, value = line.removeprefix("llmrouter_signals_total{").partition("} ")
        kind, result = (label.split("=")[1].strip('"') for label in labels.split(","))
        found[kind, result] = float(value)
    return found


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("text", "quality"), [("it is 42", 1.0), ("it is 41", 0.0)])
def test_a_request_brings_its_verifier(
    text: str, quality: float, stream: bool, live: Start, upstream: MisbehavingUpstream
) -> None:
    upstream.behaviours["alpha"] = saying(text)
    gateway = live()
    answer = gateway.chat(stream=stream, llmrouter={"verify": VERIFY})
    assert answer.status_code == 200
    outcome = eventually(gateway, answer, judged_by("verifier:numeric"))
    assert (outcome["quality"], outcome["quality_weight"], outcome["quality_by"]) == (quality, 1.0, [""])
    assert outcome["finish_reason"] == "stop"
    assert "llmrouter" not in upstream.exchanges[-1].body


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "Hi"}),
        ("/v1/responses", {"input": "Hi"}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 50}),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_in_every_shape(
    path: str, body: dict[str, Any], stream: bool, live: Start, upstream: MisbehavingUpstream
) -> None:
    upstream.behaviours["alpha"] = saying("it is 42")
    gateway = live()
    answer = gateway.client.post(
        path, json={"model": "auto", **body, "stream": stream, "llmrouter": {"verify": VERIFY}}
    )
    assert answer.status_code == 200, answer.text
    assert eventually(gateway, answer, judged_by("verifier:numeric"))["quality"] == 1.0


@pytest.mark.parametrize(
    ("verify", "param"),
    [
        ({"kind": "magic"}, "llmrouter.verify.kind"),
        ({"kind": "unit_tests", "tests": "assert True"}, "llmrouter.verify.kind"),
        ({"kind": "numeric"}, "llmrouter.verify"),
        ({"kind": "numeric", "answer": "x"}, "llmrouter.verify.answer"),
        ({"kind": "regex", "pattern": "("}, "llmrouter.verify.pattern"),
        ({"answer": 1}, "llmrouter.verify"),
        ("numeric", "llmrouter.verify"),
        ([], "llmrouter.verify"),
    ],
)
def test_a_wrong_verifier_is_refused_before_any_model_is_asked(
    verify: Any, param: str, live: Start, upstream: MisbehavingUpstream
) -> None:
    answer = live().chat(llmrouter={"verify": verify})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert not upstream.exchanges


def test_no_header_says_what_to_verify(live: Start) -> None:
    answer = live().chat(headers={"x-llmrouter-verify": "numeric"})
    assert answer.status_code == 400
    assert "unknown header" in answer.json()["error"]["message"]


def test_no_verifiers_where_they_are_switched_off(live: Start) -> None:
    answer = live(learning={"verify": {"requests": []}}).chat(llmrouter={"verify": VERIFY})
    assert answer.status_code == 400
    assert "it allows none" in answer.json()["error"]["message"]


def test_a_pattern_without_end_costs_nobody_anything(live: Start, upstream: MisbehavingUpstream) -> None:
    upstream.behaviours["alpha"] = saying("a" * 60 + "b")
    gateway = live(learning={"verify": {"limit_s": 0.3, "processes": 1}})
    before = signals(gateway).get(("verifier", "failed"), 0)
    slow = gateway.chat(llmrouter={"verify": {"kind": "regex", "pattern": "(a+)+$"}})
    good = gateway.chat(llmrouter={"verify": {"kind": "regex", "pattern": "b"}})
    assert eventually(gateway, good, judged_by("verifier:regex"))["quality"] == 1.0
    assert gateway.outcome(slow)["quality"] is None
    assert signals(gateway)["verifier", "failed"] == before + 1


@pytest.mark.skipif(bool(sandbox_problem()), reason="no sandbox here")
def test_unit_tests_where_they_are_allowed(live: Start, upstream: MisbehavingUpstream) -> None:
    upstream.behaviours["alpha"] = saying("```python\ndef f(x): return x * x\n```")
    gateway = live(learning={"verify": {"requests": ["unit_tests"]}})
    answer = gateway.chat(llmrouter={"verify": {"kind": "unit_tests", "tests": ["assert f(3) == 9"], "timeout_s": 20}})
    assert eventually(gateway, answer, judged_by("verifier:unit_tests"))["quality"] == 1.0


def test_configured_verifiers_judge_everybody(live: Start, upstream: MisbehavingUpstream) -> None:
    upstream.behaviours["alpha"] = saying('{"a": 1}')
    verifiers = [
        {"kind": "regex", "name": "no-apology", "parameters": {"pattern": "sorry", "expect": False}, "weight": 0.3},
        {"kind": "json_schema"},
        {"kind": "regex", "name": "never", "parameters": {"pattern": "x"}, "share": 0},
        {"kind": "regex", "name": "others", "parameters": {"pattern": "x"}, "teams": ["others"]},
    ]
    gateway = live(learning={"verifiers": verifiers})
    plain = gateway.chat()
    assert eventually(gateway, plain, judged_by("no-apology"))["quality_source"] == "verifier:no-apology"
    schema = {"type": "object", "required": ["b"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    formed = gateway.client.post(
        "/v1/chat/completions",
        json={"model": "alpha", "messages": [{"role": "user", "content": "Hi"}], "response_format": wanted},
    )
    outcome = eventually(gateway, formed, judged_by("verifier:json_schema, verifier:no-apology"))
    assert outcome["quality"] == pytest.approx(0.3 / 1.3)


def judge_saying(reply: str) -> Any:
    async def behave(exchange: Exchange) -> None:
        assert "strict and impartial judge" in exchange.body["messages"][0]["content"]
        await exchange.answer(completion(reply))

    return behave


def test_the_judge_judges_others(live: Start, upstream: MisbehavingUpstream) -> None:
    upstream.behaviours["judge"] = judge_saying('{"score": 4, "reason": "half right"}')
    gateway = live("alpha", "judge", limits=MEMORY, learning={"judge": {"model": "judge", "share": 1}})
    answer = gateway.chat("What is 2+2, exactly?", model="alpha")
    outcome = eventually(gateway, answer, judged_by("judge:judge"))
    assert outcome["quality"] == pytest.approx(3 / 9)
    assert outcome["quality_weight"] == 0.5
    assert outcome["overhead_cost_usd"] > 0
    asked = upstream.exchanges[-1].body["messages"][1]["content"]
    assert "user: What is 2+2, exactly?" in asked
    assert "Hello there" in asked
    cost = [line for line in gateway.client.get("/metrics").text.splitlines() if 'cost_usd_total{kind="judge"' in line]
    assert float(cost[0].split()[-1]) >= outcome["overhead_cost_usd"] - 1e-12


def test_the_judge_does_not_judge_itself(live: Start, upstream: MisbehavingUpstream) -> None:
    upstream.behaviours["judge"] = saying("Hello")
    gateway = live("alpha", "judge", limits=MEMORY, learning={"judge": {"model": "judge", "share": 1}})
    gateway.chat("not to be judged", model="judge")
    time.sleep(0.3)
    assert len(upstream.exchanges) == 1


def test_a_budget_stops_the_judge(live: Start, upstream: MisbehavingUpstream) -> None:
    upstream.behaviours["judge"] = judge_saying('{"score": 4}')
    gateway = live(
        "alpha", "judge", limits=MEMORY, learning={"judge": {"model": "judge", "share": 1, "usd_per_day": 0.0}}
    )
    gateway.chat("too dear to be judged", model="alpha")
    deadline = time.monotonic() + 10
    while signals(gateway).get(("judge", "budget"), 0) < 1:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert all("impartial" not in str(asked.body) for asked in upstream.exchanges)


def test_a_reply_that_is_no_verdict_is_counted_and_not_stored(live: Start, upstream: MisbehavingUpstream) -> None:
    upstream.behaviours["judge"] = judge_saying("A clear ten out of ten!")
    gateway = live("alpha", "judge", limits=MEMORY, learning={"judge": {"model": "judge", "share": 1, "weight": 0.4}})
    answer = gateway.chat("flatter the judge", model="alpha")
    deadline = time.monotonic() + 10
    while signals(gateway).get(("judge", "unclear"), 0) < 1:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert gateway.outcome(answer)["quality"] is None


def test_pairwise_compares_with_another_model(live: Start, upstream: MisbehavingUpstream) -> None:
    async def prefers_beta(exchange: Exchange) -> None:
        first = exchange.body["messages"][1]["content"].split("<answer B")[0]
        await exchange.answer(completion('{"winner": "%s"}' % ("A" if "from beta" in first else "B")))

    upstream.behaviours["alpha"] = saying("from alpha")
    upstream.behaviours["beta"] = saying("from beta")
    upstream.behaviours["judge"] = prefers_beta
    settings = {"model": "judge", "share": 1, "mode": "pairwise", "against": "beta"}
    gateway = live("alpha", "beta", "judge", limits=MEMORY, learning={"judge": settings})
    answer = gateway.chat("who is better?", model="alpha")
    assert eventually(gateway, answer, judged_by("judge:judge"))["quality"] == 0.0


def waited(gateway: Live, kind: str, result: str, before: float = 0.0) -> None:
    """Wait until a signal was counted once more."""
    deadline = time.monotonic() + 10
    while signals(gateway).get((kind, result), 0) <= before:
        assert time.monotonic() < deadline, signals(gateway)
        time.sleep(0.05)


def calls_of(upstream: MisbehavingUpstream, model: str) -> int:
    return sum(exchange.body["model"] == model for exchange in upstream.exchanges)


@pytest.mark.parametrize(
    ("models", "calls"),
    [
        ({"beta": {"rpm": 1}}, {"beta": 1, "judge": 2}),  # the second answer to compare with is not asked for
        ({"judge": {"rpm": 3}}, {"beta": 2, "judge": 3}),  # the second answer is judged in one order only
    ],
)
def test_calls_of_a_pairwise_judgement_count_for_the_models_limits(
    models: dict[str, Any], calls: dict[str, int], live: Start, upstream: MisbehavingUpstream
) -> None:
    upstream.behaviours |= {"alpha": saying("from alpha"), "beta": saying("from beta")}
    upstream.behaviours["judge"] = judge_saying('{"winner": "tie"}')
    settings = {"model": "judge", "share": 1, "mode": "pairwise", "against": "beta"}
    gateway = live("alpha", "beta", "judge", limits={**MEMORY, "models": models}, learning={"judge": settings})
    first = gateway.chat("who is better?", model="alpha")
    assert eventually(gateway, first, judged_by("judge:judge"))["quality"] == 0.5
    before = signals(gateway).get(("judge", "refused"), 0.0)
    second = gateway.chat("and who is better now?", model="alpha")
    waited(gateway, "judge", "refused", before)
    assert {name: calls_of(upstream, name) for name in calls} == calls
    assert gateway.outcome(second)["quality"] is None
    (limited,) = models
    refused = gateway.chat("a client is refused as well", model=limited)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")


def test_calls_of_a_judge_that_gives_scores_count_too_and_are_settled(
    live: Start, upstream: MisbehavingUpstream
) -> None:
    upstream.behaviours["judge"] = judge_saying('{"score": 4}')
    limits = {**MEMORY, "models": {"judge": {"concurrency": 1, "budget_usd": 1.0}}}
    gateway = live("alpha", "judge", limits=limits, learning={"judge": {"model": "judge", "share": 1}})
    cost = 0.0
    for i in range(3):
        answer = gateway.chat(f"question {i}", model="alpha")
        cost += eventually(gateway, answer, judged_by("judge:judge"))["overhead_cost_usd"]
    subjects = gateway.gateway.shared.subjects.of_model("judge")
    (used,) = asyncio.run(gateway.gateway.limiter.usage(subjects))
    assert used["in_flight"] == 0
    assert used["spent_usd"] == pytest.approx(cost)


def test_what_a_judgement_paid_before_it_failed_is_paid(live: Start, upstream: MisbehavingUpstream) -> None:
    async def fails(exchange: Exchange) -> None:
        await exchange.answer(b"no", status=500)

    upstream.behaviours |= {"alpha": saying("from alpha"), "beta": saying("from beta"), "judge": fails}
    settings = {"model": "judge", "share": 1, "mode": "pairwise", "against": "beta", "usd_per_day": 5.0}
    gateway = live(
        "alpha", "beta", "judge", limits={**MEMORY, "models": {"judge": {"rpm": 9}}}, learning={"judge": settings}
    )
    before = signals(gateway).get(("judge", "failed"), 0.0)
    gateway.chat("who is better?", model="alpha")
    waited(gateway, "judge", "failed", before)
    judge = gateway.gateway.shared.signals._judge
    assert judge is not None
    (used,) = asyncio.run(gateway.gateway.limiter.usage(judge._subjects))
    assert used["spent_usd"] > 0


def test_truncation_and_retries(live: Start, upstream: MisbehavingUpstream) -> None:
    upstream.behaviours["alpha"] = saying(
        "Hello", choices=[{"index": 0, "message": {"role": "assistant", "content": "He"}, "finish_reason": "length"}]
    )
    gateway = live(learning={"implicit": {"after_s": 0}})
    cut = gateway.chat("a long story please", user="ann")
    assert eventually(gateway, cut, judged_by("implicit:truncated"))["quality"] == pytest.approx(0.3)
    gateway.chat("a long story please", user="ann")
    outcome = eventually(gateway, cut, judged_by("implicit:retry"))
    assert outcome["quality"] == pytest.approx(0.15)
    gateway.client.post("/v1/feedback", json={"request_id": outcome["request_id"], "thumbs": "up"})
    assert gateway.outcome(cut)["quality"] == 1.0


def test_a_truncated_stream(live: Start, upstream: MisbehavingUpstream) -> None:
    async def cut(exchange: Exchange) -> None:
        last = chunk(choices=[{"index": 0, "delta": {}, "finish_reason": "length"}])
        await exchange.event_stream([event(chunk("He")), event(last), event("[DONE]")])

    upstream.behaviours["alpha"] = cut
    gateway = live(learning={"implicit": {"after_s": 0}})
    answer = gateway.chat("another long story", stream=True)
    assert eventually(gateway, answer, judged_by("implicit:truncated"))["finish_reason"] == "length"


def test_nothing_is_guessed_unless_asked(live: Start, upstream: MisbehavingUpstream) -> None:
    gateway = live()
    answers = [gateway.chat("the same thing twice", user="ann") for _ in range(2)]
    time.sleep(0.2)
    assert [gateway.outcome(answer)["quality"] for answer in answers] == [None, None]


def test_a_full_queue_drops_and_says_so(live: Start, upstream: MisbehavingUpstream) -> None:
    upstream.behaviours["alpha"] = saying("a" * 60 + "b")
    gateway = live(learning={"verify": {"limit_s": 1.0, "processes": 1, "max_queue": 1}})
    before = signals(gateway).get(("verifier", "dropped"), 0)
    verify = {"kind": "regex", "pattern": "(a+)+$"}
    assert all(gateway.chat(llmrouter={"verify": verify}).status_code == 200 for _ in range(8))
    assert signals(gateway)["verifier", "dropped"] > before


# The configuration


def settings_of(learning: dict[str, Any], **sections: Any) -> Settings:
    pool = [{"name": n, "base_url": "http://127.0.0.1:9", "price": {"input": 1, "output": 1}} for n in ("a", "b")]
    return Settings.model_validate({"pool": pool, "learning": learning, **sections})


@pytest.mark.parametrize(
    ("learning", "path"),
    [
        ({"judge": {"model": "c"}}, "learning.judge.model"),
        ({"judge": {"model": "a", "mode": "pairwise"}}, "learning.judge.against"),
        ({"judge": {"model": "a", "mode": "pairwise", "against": "c"}}, "learning.judge.against"),
        ({"verifiers": [{"kind": "magic"}]}, "learning.verifiers[0].parameters"),
        ({"verifiers": [{"kind": "exact"}]}, "learning.verifiers[0].parameters"),
        (
            {"verifiers": [{"kind": "regex", "parameters": {"pattern": p}} for p in "ab"]},
            "learning.verifiers[1].name",
        ),
    ],
)
def test_a_wrong_configuration_is_named(learning: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_signals(settings_of(learning))
    assert caught.value.path == path


def test_a_budget_needs_one_counter() -> None:
    learning = {"judge": {"model": "a"}}
    with pytest.raises(ConfigError, match="2 workers would each spend"):
        check_signals(settings_of(learning, server={"workers": 2}))
    check_signals(settings_of(learning, server={"workers": 2}, redis={"url": "redis://127.0.0.1:6379/0"}))


def test_unit_tests_need_a_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmrouter.verifiers.sandbox_problem", lambda: "there is none here")
    for learning in (
        {"verify": {"requests": ["unit_tests"]}},
        {"verifiers": [{"kind": "unit_tests", "parameters": {"tests": "assert True"}}]},
    ):
        with pytest.raises(ConfigError, match="there is none here"):
            check_signals(settings_of(learning))


async def test_a_queue_is_bounded_in_jobs_and_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals_module, "_MOST_BYTES", 100)
    free, done = asyncio.Event(), []

    async def work(job: int) -> None:
        await free.wait()
        if job == 0:
            raise ValueError("a fault must not end the worker")
        done.append(job)

    queue = signals_module._Queue(work, workers=1, longest=3)
    assert queue.put(0, size=60)
    assert not queue.put(1, size=50)
    assert queue.put(2, size=40)
    await asyncio.sleep(0)  # the first is under way
    assert [queue.put(job) for job in (3, 4, 5)] == [True, True, False]
    free.set()
    await queue.aclose()
    assert done == [2, 3, 4]
    assert not queue.put(6)
