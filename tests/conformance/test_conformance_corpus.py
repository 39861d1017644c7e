"""Every upstream behaviour of the corpus: relayed to the byte, translated, and accounted for exactly once."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from contracts.misbehaving_upstream import MisbehavingUpstream
from corpus_player import Recorded, load
from corpus_readers import Heard, Replayer, events_of
from live_gateway import Live

from llmrouter.types import Outcome

Start = Callable[..., Live]

STREAMS = [*load("streams"), *load("tool_streams")]
WHOLE = load("whole_answers")
ERRORS = load("errors")
NATIVE = load("native")
BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}),
    "completions": ("/v1/completions", {"prompt": "Hi"}),
    "responses": ("/v1/responses", {"input": "Hi"}),
    "messages": ("/v1/messages", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9}),
}
DIALECTS = ("completions", "messages", "responses")


def named(*corpora: list[Recorded]) -> pytest.MarkDecorator:
    exchanges = [one for corpus in corpora for one in corpus]
    return pytest.mark.parametrize("recorded", exchanges, ids=[one.name for one in exchanges])


class Played:
    """A gateway in front of one exchange of the corpus, and what it put into its log."""

    def __init__(self, live: Live, upstream: MisbehavingUpstream, monkeypatch: pytest.MonkeyPatch) -> None:
        self.live = live
        self.upstream = upstream
        self.put: list[Outcome] = []
        writer = live.gateway.writer
        really = writer.put

        def put(outcome: Outcome) -> None:
            self.put.append(outcome)
            really(outcome)

        monkeypatch.setattr(writer, "put", put)

    def ask(self, recorded: Recorded, endpoint: str, *, stream: bool, **more: Any) -> httpx.Response:
        """Ask for an answer, which will be as recorded."""
        self.upstream.behaviours["alpha"] = recorded.play
        path, body = BODIES[endpoint]
        return self.live.client.post(path, json={"model": "auto", **body, "stream": stream, **more})

    def check_account(self, recorded: Recorded) -> None:
        """Check that what happened is recorded, and once."""
        ends = time.monotonic() + 5
        while self.live.gateway.in_flight and time.monotonic() < ends:
            time.sleep(0.001)
        (outcome,) = self.put
        expect = recorded.expect
        assert outcome.status == expect.outcome
        assert (outcome.input_tokens, outcome.output_tokens) == expect.tokens
        assert outcome.cost_usd == (None if expect.cost_usd is None else pytest.approx(expect.cost_usd))
        assert outcome.served_by == (None if expect.outcome == "error" else "alpha")
        assert (outcome.error is None) == (expect.outcome == "ok")


@pytest.fixture
def played(live: Start, upstream: MisbehavingUpstream, monkeypatch: pytest.MonkeyPatch) -> Played:
    return Played(live("alpha"), upstream, monkeypatch)


@pytest.fixture
def native(live: Start, upstream: MisbehavingUpstream, monkeypatch: pytest.MonkeyPatch) -> Played:
    serves = {"endpoints": ["chat", "responses", "completions"]}
    return Played(live("alpha", models={"alpha": serves}), upstream, monkeypatch)


@pytest.fixture(scope="module")
def clients() -> Replayer:
    return Replayer()


# Relayed as it is


@named(STREAMS)
def test_a_stream_is_relayed_to_the_byte(recorded: Recorded, played: Played, clients: Replayer) -> None:
    answer = played.ask(recorded, "chat", stream=True)
    check_relayed(answer, recorded, recorded.shown)
    played.check_account(recorded)
    if recorded.expect.status == 200 and not recorded.expect.chokes:
        heard = clients.chat_stream(answer)
        assert heard.ends == recorded.expect.ends


@named([one for one in STREAMS if one.has_hidden])
def test_usage_that_was_asked_for_is_relayed_too(recorded: Recorded, played: Played) -> None:
    answer = played.ask(recorded, "chat", stream=True, stream_options={"include_usage": True})
    check_relayed(answer, recorded, recorded.sent)
    played.check_account(recorded)


@named(WHOLE)
def test_a_whole_answer_is_relayed_to_the_byte(recorded: Recorded, played: Played) -> None:
    answer = played.ask(recorded, "chat", stream=False)
    check_relayed(answer, recorded, recorded.sent)
    assert "content-encoding" not in answer.headers
    played.check_account(recorded)


@named(ERRORS)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_an_error_is_relayed_to_the_byte(recorded: Recorded, stream: bool, played: Played) -> None:
    answer = played.ask(recorded, "chat", stream=stream)
    check_relayed(answer, recorded, recorded.sent)
    played.check_account(recorded)


@named(NATIVE)
def test_an_endpoint_that_the_upstream_serves_itself_is_relayed_to_the_byte(recorded: Recorded, native: Played) -> None:
    answer = native.ask(recorded, recorded.endpoint, stream=recorded.stream)
    check_relayed(answer, recorded, recorded.shown)
    assert native.upstream.exchanges[0].path == BODIES[recorded.endpoint][0]
    native.check_account(recorded)


def check_relayed(answer: httpx.Response, recorded: Recorded, same: bytes) -> None:
    """Check status, body and headers of an answer in the upstream's own dialect."""
    expect = recorded.expect
    assert answer.status_code == expect.status, answer.text[:500]
    assert answer.headers["x-request-id"].startswith("req_")
    for name, value in expect.headers.items():
        assert answer.headers.get(name) == value, name
    if expect.status == 200:
        assert answer.headers["content-type"].startswith("text/event-stream" if recorded.stream else "application/json")
    if expect.body == "same":
        assert answer.content == same
    elif expect.body == "same then error":
        assert answer.content.startswith(same)
        check_error_event(answer.content.removeprefix(same), expect.code)
        assert b"[DONE]" not in answer.content
    elif expect.body == "error":
        assert list(answer.json()) == ["error"]
        assert answer.json()["error"]["code"] == expect.code
    elif expect.body == "data":
        assert answer.content == same.removeprefix(b"data: ").rstrip(b"\n")
        assert answer.json()["error"]["code"] == expect.code
    else:
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert (error["type"], error["code"]) == ("upstream_error", expect.code)
        assert error["message"].startswith("alpha: ")


def check_error_event(event: bytes, code: Any) -> None:
    assert event.startswith(b"data: ")
    assert event.endswith(b"\n\n")
    error = json.loads(event.removeprefix(b"data: "))["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code


# Translated


@pytest.mark.parametrize("dialect", DIALECTS)
@named(STREAMS)
def test_a_stream_is_translated(recorded: Recorded, dialect: str, played: Played, clients: Replayer) -> None:
    answer = played.ask(recorded, dialect, stream=True)
    expect = recorded.expect
    played.check_account(recorded)
    if expect.status != 200:
        check_error(answer, dialect, expect.status)
        return
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    heard: Heard = getattr(clients, f"{dialect}_stream")(answer)
    assert heard.text == expect.text
    assert heard.ends == expect.ends
    if expect.ends == "well" and dialect != "completions":
        assert heard.calls == expect.calls
        assert heard.tokens == told(recorded)


@pytest.mark.parametrize("dialect", DIALECTS)
@named(WHOLE)
def test_a_whole_answer_is_translated(recorded: Recorded, dialect: str, played: Played, clients: Replayer) -> None:
    answer = played.ask(recorded, dialect, stream=False)
    expect = recorded.expect
    if expect.unreadable:
        check_error(answer, dialect, 502)
        assert [outcome.status for outcome in played.put] == ["error"]
        return
    played.check_account(recorded)
    if expect.status != 200:
        if expect.body == "ours" or dialect == "messages":
            check_error(answer, dialect, expect.status)
        else:
            assert (answer.status_code, answer.content) == (expect.status, recorded.sent)
        return
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    heard: Heard = getattr(clients, dialect)(answer)
    assert heard.text == expect.text
    if dialect != "completions":
        assert heard.calls == expect.calls
        assert heard.tokens == told(recorded)


@pytest.mark.parametrize("dialect", ["messages", "responses"])
@named(ERRORS)
def test_an_error_is_translated(recorded: Recorded, dialect: str, played: Played) -> None:
    answer = played.ask(recorded, dialect, stream=False)
    played.check_account(recorded)
    if dialect != "messages" and recorded.expect.body == "same":
        assert (answer.status_code, answer.content) == (recorded.expect.status, recorded.sent)
        return
    error = check_error(answer, dialect, recorded.expect.status)
    if recorded.expect.code is not None:
        assert error["code"] == recorded.expect.code
    for name, value in recorded.expect.headers.items():
        assert answer.headers.get(name) == value, name


def told(recorded: Recorded) -> tuple[int, int]:
    """Return the tokens that a client is told."""
    if recorded.expect.told is not None:
        return recorded.expect.told
    read, written = recorded.expect.tokens
    return read or 0, written or 0


def check_error(answer: httpx.Response, dialect: str, status: int) -> dict[str, Any]:
    """Check an error's shape in a dialect, and return its object."""
    assert answer.status_code == status
    payload = answer.json()
    if dialect == "messages":
        assert payload["type"] == "error"
        assert payload["request_id"] == answer.headers["request-id"] == answer.headers["x-request-id"]
        assert payload["error"]["type"].endswith("_error") or payload["error"]["type"] == "request_too_large"
    error: dict[str, Any] = payload["error"]
    assert isinstance(error["message"], str)
    return error


def test_the_corpus_names_nothing_twice() -> None:
    for corpus in (STREAMS, WHOLE, ERRORS, NATIVE):
        names = [one.name for one in corpus]
        assert len(set(names)) == len(names)


def test_the_readers_notice_a_stream_that_is_not_well_formed() -> None:
    with pytest.raises(AssertionError, match="whole event"):
        events_of(b"data: {}\n\ndata: {")
