"""What clients do next, and what that tells of an answer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from llmrouter.outcomes import Feedback
from llmrouter.types import Outcome
from service.learning.implicit import ImplicitSignals
from service.learning.signal_settings import ImplicitSettings

QUESTION = {"role": "user", "content": "How many legs has a spider, and why is that?"}
ANSWER = {"role": "assistant", "content": "Six."}


class Client:
    """Requests of one key, and what they tell."""

    def __init__(self, **settings: Any) -> None:
        self.signals = ImplicitSignals(ImplicitSettings(**settings))
        self.count = 0

    def ask(
        self,
        *messages: dict[str, Any],
        at: float,
        key: str | None = "key",
        session: str | None = None,
        user: Any = None,
        limit: int | None = None,
        **outcome: Any,
    ) -> list[Feedback]:
        self.count += 1
        body = {"messages": list(messages), **({} if user is None else {"user": user})}
        call: Any = SimpleNamespace(
            chat=SimpleNamespace(body=body, routing=SimpleNamespace(max_output_tokens=limit)),
            request_id=f"r{self.count}",
        )
        made = {"status": "ok", "latency_s": 1.0, "finish_reason": "stop", **outcome}
        ended = Outcome(f"r{self.count}", at, "m", key_id=key, conversation_id=session, **made)
        asked = self.signals.asked(call, ended)
        retry = None if asked is None else self.signals.retried(asked, ended)
        return [*self.signals.finished(call, ended), *([] if retry is None else [retry])]


def test_the_same_chat_again_is_a_retry() -> None:
    client = Client()
    assert client.ask(QUESTION, at=100) == []
    (retry,) = client.ask(QUESTION, at=110)
    assert retry == Feedback("r1", 0.0, "implicit:retry", 0.2, 111.0)
    (again,) = client.ask(QUESTION, at=120)
    assert again.request_id == "r2"


@pytest.mark.parametrize(("at", "expected"), [(101.0, 0), (102.9, 0), (103.0, 1), (401.0, 1), (401.1, 0), (50.0, 0)])
def test_only_after_reading_and_before_forgetting(at: float, expected: int) -> None:
    client = Client(after_s=2, within_s=300)
    client.ask(QUESTION, at=100)
    assert len(client.ask(QUESTION, at=at)) == expected


def test_the_question_again_below_its_answer_is_a_retry() -> None:
    client = Client()
    client.ask(QUESTION, at=100)
    (retry,) = client.ask(QUESTION, ANSWER, QUESTION, at=110)
    assert retry.request_id == "r1"


def test_the_last_question_of_a_session_again_is_a_retry() -> None:
    client = Client()
    client.ask({"role": "system", "content": "one"}, QUESTION, at=100, session="s")
    (retry,) = client.ask({"role": "system", "content": "two"}, QUESTION, at=110, session="s")
    assert retry.request_id == "r1"
    assert client.ask({"role": "system", "content": "two"}, QUESTION, at=120, session="t") == []


def test_a_short_reply_twice_in_a_session_is_none() -> None:
    client = Client()
    yes = {"role": "user", "content": "yes"}
    client.ask(QUESTION, ANSWER, yes, at=100, session="s")
    assert client.ask(QUESTION, ANSWER, yes, ANSWER, {"role": "user", "content": "yes "}, at=110, session="s") == []


def test_another_question_is_none() -> None:
    client = Client()
    client.ask(QUESTION, at=100)
    assert client.ask({"role": "user", "content": "And an ant?"}, at=110) == []


def test_clients_are_told_apart() -> None:
    client = Client()
    client.ask(QUESTION, at=100, key="one")
    assert client.ask(QUESTION, at=110, key="two") == []
    client.ask(QUESTION, at=100, user="ann")
    assert client.ask(QUESTION, at=110, user="bob") == []
    assert len(client.ask(QUESTION, at=111, user="ann")) == 1


def test_who_cannot_be_told_apart_says_nothing() -> None:
    client = Client()
    client.ask(QUESTION, at=100, key=None)
    assert client.ask(QUESTION, at=110, key=None) == []
    client.ask(QUESTION, at=100, key=None, user="ann")
    assert len(client.ask(QUESTION, at=110, key=None, user="ann")) == 1


@pytest.mark.parametrize("earlier", [{"status": "error"}, {"status": "cancelled"}, {"status": "partial"}])
def test_a_retry_after_a_failure_is_none(earlier: dict[str, Any]) -> None:
    client = Client()
    client.ask(QUESTION, at=100, **earlier)
    assert client.ask(QUESTION, at=110) == []


def test_kept_answers_are_left_out() -> None:
    client = Client()
    client.ask(QUESTION, at=100)
    assert client.ask(QUESTION, at=110, cache="hit") == []


@pytest.mark.parametrize(
    ("limit", "reason", "status", "expected"),
    [
        (None, "length", "ok", 1),
        (4096, "length", "ok", 1),
        (1024, "length", "ok", 1),
        (1023, "length", "ok", 0),
        (None, "stop", "ok", 0),
        (None, None, "ok", 0),
        (None, "length", "partial", 0),
    ],
)
def test_truncation(limit: int | None, reason: str | None, status: str, expected: int) -> None:
    found = Client(retry=False).ask(QUESTION, at=1, limit=limit, finish_reason=reason, status=status)
    assert [feedback.source for feedback in found] == ["implicit:truncated"] * expected
    assert all((feedback.quality, feedback.weight) == (0.3, 0.2) for feedback in found)


def test_errors_count_only_where_that_is_asked_for() -> None:
    assert Client().ask(QUESTION, at=1, status="error") == []
    (found,) = Client(errors=True, weight=0.1).ask(QUESTION, at=1, status="error")
    assert (found.source, found.quality, found.weight) == ("implicit:error", 0.0, 0.1)


def test_each_guess_can_be_switched_off() -> None:
    client = Client(retry=False, truncated=False)
    client.ask(QUESTION, at=100)
    assert client.ask(QUESTION, at=110, finish_reason="length") == []


@pytest.mark.parametrize("odd", [None, [{"type": "text", "text": "a"}], "\ud800", 10**400])
def test_odd_chats_say_nothing_and_break_nothing(odd: Any) -> None:
    client = Client()
    client.ask({"role": "user", "content": odd}, at=100, session="s")
    assert len(client.ask({"role": "user", "content": odd}, at=110, session="s")) <= 1
    assert client.ask(at=120) == []


def test_only_so_many_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.learning.implicit._REMEMBERED", 10)
    client = Client()
    for i in range(50):
        client.ask({"role": "user", "content": str(i)}, at=100)
    assert len(client.signals._chats) == 10
    assert client.ask({"role": "user", "content": "0"}, at=110) == []
    assert len(client.ask({"role": "user", "content": "49"}, at=110)) == 1
