"""A retry is seen whichever replica it arrives at, where they share a Redis; and by its own while that is away."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from contracts.misbehaving_upstream import MisbehavingUpstream
from contracts.redis_server import RedisServer
from live_gateway import start_gateway, well_behaved

from llmrouter.outcomes import Feedback
from llmrouter.types import Outcome
from service.learning.implicit import ImplicitSignals
from service.learning.signal_settings import ImplicitSettings
from service.redis_link import RedisLink

QUESTION = {"role": "user", "content": "How many legs has a spider, and why is that?"}
OTHER = {"role": "user", "content": "How many legs has an ant, and why is that?"}
ANSWER = {"role": "assistant", "content": "Six."}
SYSTEM = {"role": "system", "content": "Be brief."}


class Replica:
    """A process that sees some of the requests."""

    def __init__(self, link: RedisLink) -> None:
        self.signals = ImplicitSignals(ImplicitSettings())
        self.link = link

    async def ask(
        self, name: str, *messages: dict[str, Any], at: float, key: str = "k", session: str | None = None, **more: Any
    ) -> Feedback | None:
        chat = SimpleNamespace(body={"messages": list(messages)}, routing=SimpleNamespace(max_output_tokens=None))
        call: Any = SimpleNamespace(chat=chat)
        made = {"status": "ok", "latency_s": 1.0, **more}
        outcome = Outcome(name, at, "m", key_id=key, conversation_id=session, **made)
        asked = self.signals.asked(call, outcome)
        assert asked is not None
        return await self.signals.retried_anywhere(self.link, asked, outcome)


async def test_the_same_chat_at_another_replica_is_a_retry_of_the_last_answer(link: RedisLink) -> None:
    one, two = Replica(link), Replica(link)
    assert await one.ask("r1", QUESTION, at=100) is None
    assert await two.ask("r2", QUESTION, at=110) == Feedback("r1", 0.0, "implicit:retry", 0.2, 111.0)
    third = await one.ask("r3", QUESTION, at=120)
    assert third is not None
    assert third.request_id == "r2", "not the one that this replica saw itself"


async def test_below_its_answer_and_in_its_session(link: RedisLink) -> None:
    one, two = Replica(link), Replica(link)
    await one.ask("r1", QUESTION, at=100, session="s")
    below = await two.ask("r2", QUESTION, ANSWER, QUESTION, at=110, session="s")
    assert below is not None
    assert below.request_id == "r1"
    again = await one.ask("r3", SYSTEM, QUESTION, at=120, session="s")
    assert again is not None
    assert again.request_id == "r2"
    assert await two.ask("r4", SYSTEM, OTHER, at=130, session="s") is None
    assert await one.ask("r5", SYSTEM, {**QUESTION, "name": "ann"}, at=140, session="t") is None


async def test_others_too_soon_too_late_and_failures_are_none(link: RedisLink) -> None:
    one, two = Replica(link), Replica(link)
    await one.ask("r1", QUESTION, at=100)
    assert await two.ask("r2", QUESTION, at=110, key="another") is None
    assert await two.ask("r3", QUESTION, at=102.5) is None
    assert await two.ask("r4", QUESTION, at=500) is None
    await one.ask("r5", OTHER, at=600, status="error")
    assert await two.ask("r6", OTHER, at=610) is None
    await one.ask("r7", OTHER, at=620, status="error")
    assert await two.ask("r8", OTHER, at=630) is None, "the last try failed"


async def test_redis_holds_digests_for_a_while_and_no_text(link: RedisLink) -> None:
    await Replica(link).ask("r1", QUESTION, at=100, session="s")

    async def all_of_it(redis: Any) -> list[tuple[bytes, bytes, int]]:
        return [(key, await redis.get(key), await redis.pttl(key)) for key in await redis.keys("*")]

    found = await link.run(all_of_it)
    assert len(found) == 2
    for key, value, left_ms in found:
        assert b"spider" not in key + value
        assert 0 < left_ms <= 600_000


async def test_a_value_that_is_none_of_ours_is_passed_over(link: RedisLink) -> None:
    one = Replica(link)
    await one.ask("r1", QUESTION, at=100)

    async def spoil(redis: Any) -> None:
        for key in await redis.keys("*"):
            await redis.set(key, b'{"odd": 1}')

    await link.run(spoil)
    assert await one.ask("r2", QUESTION, at=110) is None


async def test_while_redis_is_away_each_replica_sees_its_own(link: RedisLink, server: RedisServer) -> None:
    one, two = Replica(link), Replica(link)
    server.kill()
    try:
        await one.ask("r1", QUESTION, at=100)
        assert await two.ask("r2", QUESTION, at=110) is None
        found = await one.ask("r3", QUESTION, at=120)
        assert found is not None
        assert found.request_id == "r1"
    finally:
        server.restart()


def test_two_gateways_judge_the_answer_that_the_other_gave(tmp_path: Path, upstream: MisbehavingUpstream) -> None:
    upstream.behaviours["alpha"] = well_behaved
    with RedisServer() as redis, ExitStack() as stack:
        sections: dict[str, Any] = {
            "redis": {"url": redis.url, "timeout_s": 1.0},
            "log": {"store": "redis://", "flush_interval_s": 0.05, "spool": str(tmp_path / "spool")},
            "learning": {"implicit": {"after_s": 0}},
        }
        one, two = (start_gateway(stack, upstream, tmp_path, "alpha", **sections) for _ in range(2))
        first = one.chat("a long story please", user="ann")
        ends = time.monotonic() + 20
        while b":asked:" not in redis.command("KEYS", "*"):
            assert time.monotonic() < ends
            time.sleep(0.02)
        two.chat("a long story please", user="ann")
        while one.outcome(first)["quality_source"] != "implicit:retry":
            assert time.monotonic() < ends
            time.sleep(0.02)
        assert one.outcome(first)["quality"] == 0.0
