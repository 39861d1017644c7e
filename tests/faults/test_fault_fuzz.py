"""Fuzzing: parsers alone, a gateway asked anything, and a gateway whose upstream answers anything."""

from __future__ import annotations

import copy
import itertools
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from contracts.misbehaving_upstream import Exchange, MisbehavingUpstream
from crowd import echo
from fault_gateway import eventually, pool_of, start
from fuzzers import BODIES, CONFIG, ENDPOINTS, FUZZERS, as_yaml, http_requests, stream_events, whole_answers
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from live_gateway import Live
from soak_results import record
from wire import connect, read

from llmrouter.exceptions import BackendStatusError, ConfigError
from llmrouter.pool import retry_after_s
from service.settings import parse_settings

EXAMPLES = 40


def fuzz(strategy: st.SearchStrategy[Any], check: Any, examples: int, *, seeded: bool = True) -> None:
    """Check that many draws."""

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=seeded,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
    )
    @given(strategy)
    def run(drawn: Any) -> None:
        check(drawn)

    run()


@pytest.mark.parametrize("name", FUZZERS)
def test_parsers(name: str) -> None:
    strategy, check = FUZZERS[name]
    fuzz(strategy, check, EXAMPLES)


@pytest.mark.parametrize("date", ["01 Jan 99999999999999999999 00:00:00 GMT", "01 Jan 2026 99999999999999:00:00 GMT"])
def test_retry_after_that_is_out_of_range(date: str) -> None:
    error = BackendStatusError("busy", model="m", status=429, body=b"", headers={"retry-after": date})
    assert retry_after_s(error, now=0.0) is None


@pytest.mark.parametrize("section", list(CONFIG))
def test_no_secret_is_told_where_none_belongs(section: str) -> None:
    """A secret is put into every place of a configuration: errors name the place, and quote what was written there."""
    secret = "sk-secret-in-the-wrong-place"
    for path in paths_in(CONFIG[section], (section,)):
        for value in ("${KEY}", ["${KEY}"], {"a": "${KEY}"}):
            tree = copy.deepcopy(CONFIG)
            holder: Any = tree
            for key in path[:-1]:
                holder = holder[key]
            holder[path[-1]] = value
            try:
                parse_settings(as_yaml(tree), source="x.yaml", environment={"KEY": secret})
            except ConfigError as error:
                told = str(error)
            else:
                continue
            assert secret not in told, path


def paths_in(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """Yield the place of every value below `path`."""
    for key, one in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, key)
        yield from paths_in(one, (*path, key))


class Fuzzed:
    """A gateway that is asked anything, over an upstream that answers anything."""

    def __init__(self, gateway: Live, upstream: MisbehavingUpstream) -> None:
        self.gateway = gateway
        self.upstream = upstream
        self.statuses: Counter[int] = Counter()
        self._pieces: list[bytes] = []
        self._numbers = itertools.count()
        self.sound()

    def sound(self) -> None:
        """Let the upstream answer rightly."""
        self.upstream.behaviours |= {"alpha": self._sound, "beta": self._sound}

    async def _sound(self, exchange: Exchange) -> None:
        try:
            await echo(exchange)
        except (KeyError, TypeError, AttributeError, IndexError):
            await exchange.answer(b'{"choices": []}')

    async def _odd(self, exchange: Exchange) -> None:
        body = b"".join(self._pieces)
        if exchange.body.get("stream"):
            await exchange.event_stream([piece for piece in self._pieces if piece])
        else:
            await exchange.answer(body)

    def ask(self, drawn: tuple[str, str, dict[str, str], bytes]) -> None:
        """Send a request; what comes is a whole HTTP answer, and no fault of ours."""
        method, path, headers, body = drawn
        lines = [f"{method} {path} HTTP/1.1", "host: gateway", "connection: close", f"content-length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        with connect(self.gateway.url, patience_s=20) as connection:
            connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
            reply = read(connection)
        assert reply.closed
        assert len(reply.statuses) == 1, reply.data[:500]
        self.statuses[reply.statuses[0]] += 1
        assert reply.statuses[0] < 500, reply.data[:1000]

    def answer(self, drawn: tuple[str, bool, list[bytes]]) -> None:
        """Let the upstream answer anything; the client gets it, or is told that the upstream failed."""
        name, stream, self._pieces = drawn
        self.upstream.behaviours |= {"alpha": self._odd, "beta": self._odd}
        body = {**BODIES[name], "model": "alpha", "stream": stream, "user": f"u{next(self._numbers)}"}
        body.pop("llmrouter", None)
        response = self.gateway.client.post(ENDPOINTS[name].url, json=body)
        self.statuses[response.status_code] += 1
        assert b"internal_error" not in response.content, response.content
        assert b"internal error" not in response.content, response.content
        if stream and response.status_code == 200 and name != "chat":
            assert response.headers["content-type"].startswith("text/event-stream")

    def check_log(self) -> None:
        """Check that the log has come through it."""
        state = self.gateway.gateway.writer.state()
        assert eventually(lambda: self.gateway.gateway.writer.state().queued == 0), state
        assert (state.lost, state.rejected) == (0, 0)
        assert not any((outcome.error or "").startswith("internal error") for outcome in self.gateway.outcomes())
        assert self.gateway.chat("still there").status_code in (200, 502)
        assert self.gateway.gateway.in_flight == 0


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzed]:
    with MisbehavingUpstream() as upstream, ExitStack() as stack:
        abilities = {"capabilities": ["tools", "vision", "audio", "json_mode", "json_schema", "logprobs"]}
        short = {"timeouts": {"first_byte_s": 2.0, "between_chunks_s": 2.0, "total_s": 5.0}}
        pool = pool_of(upstream.base_url, "alpha", "beta", models=dict.fromkeys(("alpha", "beta"), abilities | short))
        yield Fuzzed(start(stack, tmp_path_factory.mktemp("fuzz"), pool), upstream)


odd_answers = st.one_of(
    st.tuples(st.sampled_from(list(ENDPOINTS)), st.just(value=False), whole_answers.map(lambda body: [body])),
    st.tuples(st.sampled_from(list(ENDPOINTS)), st.just(value=True), stream_events),
)


def test_anything_is_asked(fuzzed: Fuzzed) -> None:
    fuzzed.sound()
    fuzz(http_requests, fuzzed.ask, 5 * EXAMPLES)
    fuzzed.check_log()
    assert fuzzed.statuses[200]
    assert fuzzed.statuses[400]


def test_anything_is_answered(fuzzed: Fuzzed) -> None:
    fuzz(odd_answers, fuzzed.answer, 5 * EXAMPLES)
    fuzzed.check_log()


@pytest.mark.soak
def test_fuzz_for_long(fuzzed: Fuzzed) -> None:
    """Fuzz everything in turn, with new draws each time, for ten minutes (LLMROUTER_SOAK_S)."""
    seconds = float(os.environ.get("LLMROUTER_SOAK_S", "600"))
    ends = time.monotonic() + seconds
    trials = {
        **FUZZERS,
        "a gateway asked anything": (http_requests, fuzzed.ask),
        "an upstream that answers anything": (odd_answers, fuzzed.answer),
    }
    drawn: Counter[str] = Counter()
    while time.monotonic() < ends:
        for name, (strategy, check) in trials.items():
            fuzzed.sound()
            fuzz(strategy, check, 500, seeded=False)
            drawn[name] += 500
        fuzzed.check_log()
    statuses = {str(status): count for status, count in sorted(fuzzed.statuses.items())}
    record("fuzz", {"seconds": seconds, "draws": drawn, "statuses": statuses})
