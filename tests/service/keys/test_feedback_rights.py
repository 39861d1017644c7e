"""Whose answers a key may judge, in whose name, and in which forms."""

from __future__ import annotations

import time
from typing import Any

import pytest
from contracts.misbehaving_upstream import MisbehavingUpstream
from hypothesis import given, settings
from hypothesis import strategies as st
from keyed_gateway import CHAT, HELLO, Keyed, error_of

from service.errors import APIError
from service.keys.principal import ANONYMOUS, TRUSTED_FEEDBACK, Principal
from service.routes.feedback import SCALES, _parse

PATH = "/v1/feedback"


def asked(gateway: Keyed, key: str = "plain") -> str:
    """Return the id of a request of a key."""
    answer = gateway.ask("POST", CHAT, key=key, json={"model": "alpha", "messages": HELLO})
    assert answer.status_code == 200, answer.text
    return answer.headers["x-request-id"]


def judge(gateway: Keyed, key: str, **judgement: Any) -> Any:
    return gateway.ask("POST", PATH, key=key, json=judgement)


def outcome(gateway: Keyed, request_id: str) -> dict[str, Any]:
    found: dict[str, Any] = gateway.ask("GET", f"/v1/outcomes/{request_id}", key="admin").json()
    return found


def key_id(gateway: Keyed, name: str) -> str:
    keys = gateway.ask("GET", "/admin/keys", key="admin").json()["data"]
    return next(key["id"] for key in keys if key["name"] == name)


def test_a_key_judges_its_own_requests_in_its_name(gateway: Keyed) -> None:
    gateway.make("judging")
    request_id = asked(gateway, "judging")
    assert judge(gateway, "judging", request_id=request_id, thumbs="down").status_code == 202
    assert outcome(gateway, request_id)["quality_by"] == [key_id(gateway, "judging")]
    assert outcome(gateway, request_id)["quality"] == 0.0


def test_a_key_does_not_judge_the_requests_of_another(gateway: Keyed) -> None:
    gateway.make("stranger")
    request_id = asked(gateway)
    error = error_of(judge(gateway, "stranger", request_id=request_id, quality=0), 403, "not_your_request")
    assert error["param"] == "request_id"
    assert outcome(gateway, request_id)["quality"] is None


def test_nor_once_nobody_remembers_whose_it_was(gateway: Keyed) -> None:
    gateway.make("stranger")
    request_id = asked(gateway)
    gateway.live.gateway.shared.owners._known.clear()
    error_of(judge(gateway, "stranger", request_id=request_id, quality=0), 403, "not_your_request")
    assert judge(gateway, "plain", request_id=request_id, quality=1).status_code == 202


def test_a_team_judges_together(gateway: Keyed) -> None:
    for name in ("ann", "bob"):
        gateway.make(name, team="blue")
    gateway.make("eve", team="red")
    request_id = asked(gateway, "ann")
    assert judge(gateway, "bob", request_id=request_id, quality=0.5).status_code == 202
    error_of(judge(gateway, "eve", request_id=request_id, quality=0), 403, "not_your_request")
    assert outcome(gateway, request_id)["quality_by"] == [key_id(gateway, "bob")]


def test_an_administrator_judges_everybody(gateway: Keyed) -> None:
    request_id = asked(gateway)
    assert judge(gateway, "admin", request_id=request_id, quality=0.5).status_code == 202


def test_a_batch_with_one_foreign_request_stores_nothing(gateway: Keyed) -> None:
    gateway.make("stranger")
    foreign, own = asked(gateway), asked(gateway, "stranger")
    batch = [{"request_id": own, "quality": 1}, {"request_id": foreign, "quality": 0}]
    error = error_of(gateway.ask("POST", PATH, key="stranger", json={"feedback": batch}), 403, "not_your_request")
    assert error["param"] == "feedback[1].request_id"
    assert outcome(gateway, own)["quality"] is None


@pytest.mark.parametrize("source", ["verifier:numeric", "judge:big", "implicit:retry", "verifier:"])
def test_the_gateways_own_sources_are_reserved(source: str, gateway: Keyed) -> None:
    request_id = asked(gateway)
    error = error_of(judge(gateway, "plain", request_id=request_id, quality=1, source=source), 403, "reserved_source")
    assert error["param"] == "source"
    gateway.make("trusted", scopes=["inference", "feedback", TRUSTED_FEEDBACK], team="t")
    own = asked(gateway, "trusted")
    assert judge(gateway, "trusted", request_id=own, quality=1, source=source).status_code == 202
    assert judge(gateway, "admin", request_id=request_id, quality=1, source=source).status_code == 202


def test_trust_is_not_the_right_to_give_feedback(gateway: Keyed) -> None:
    gateway.make("only-trusted", scopes=["inference", TRUSTED_FEEDBACK])
    error_of(judge(gateway, "only-trusted", request_id="req_1", quality=1), 403, "insufficient_permissions")


def test_a_new_key_and_a_guest_are_not_trusted() -> None:
    assert not Principal("k", "new").may(TRUSTED_FEEDBACK)
    assert not ANONYMOUS.may(TRUSTED_FEEDBACK)
    assert Principal("k", "boss", scopes=frozenset({"admin"})).may(TRUSTED_FEEDBACK)


def test_a_verifier_of_a_request_speaks_for_its_key(gateway: Keyed, upstream: MisbehavingUpstream) -> None:
    gateway.make("verifying")
    body = {"model": "alpha", "messages": HELLO, "llmrouter": {"verify": {"kind": "regex", "pattern": "."}}}
    request_id = gateway.ask("POST", CHAT, key="verifying", json=body).headers["x-request-id"]
    deadline = time.monotonic() + 30
    while outcome(gateway, request_id)["quality"] is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert outcome(gateway, request_id)["quality_by"] == [key_id(gateway, "verifying")]


def test_a_batch_is_answered_item_by_item(gateway: Keyed) -> None:
    request_id = asked(gateway)
    batch = [{"request_id": request_id, "rating": 4}, {"request_id": "req_unknown", "label": "good"}]
    answer = gateway.ask("POST", PATH, json={"feedback": batch})
    assert answer.status_code == 202
    assert answer.json()["results"] == [
        {"request_id": request_id, "status": "stored"},
        {"request_id": "req_unknown", "status": "pending"},
    ]
    assert outcome(gateway, request_id)["quality"] == 0.75


def test_a_thousand_at_once(gateway: Keyed) -> None:
    batch = [{"request_id": f"req_{i}", "score": 0.5} for i in range(1000)]
    answer = gateway.ask("POST", PATH, json={"feedback": batch})
    assert answer.status_code == 202
    assert len(answer.json()["results"]) == 1000
    error_of(gateway.ask("POST", PATH, json={"feedback": [*batch, batch[0]]}), 400, "invalid_value")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"feedback": []}, "feedback"),
        ({"feedback": {"request_id": "r", "quality": 1}}, "feedback"),
        ({"feedback": [5]}, "feedback[0]"),
        ({"feedback": [{"request_id": "r", "quality": 1}, {"request_id": "r", "quality": 2}]}, "feedback[1].quality"),
        ({"feedback": [{"request_id": "r", "quality": 1, "x": 1}]}, "feedback[0].x"),
        ({"feedback": [{"request_id": "r", "quality": 1}], "request_id": "r"}, "request_id"),
    ],
)
def test_wrong_batches(body: dict[str, Any], param: str, gateway: Keyed) -> None:
    error = error_of(gateway.ask("POST", PATH, json=body), 400, "invalid_value")
    assert error["param"] == param


# Forms, without a gateway


def parsed(**body: Any) -> float:
    return _parse({"request_id": "r", **body}, ANONYMOUS, 1.0).quality


@pytest.mark.parametrize(
    ("body", "quality"),
    [
        ({"quality": 0.3}, 0.3),
        ({"score": 1}, 1.0),
        ({"label": "incorrect"}, 0.0),
        ({"thumbs": "up"}, 1.0),
        ({"thumbs": False}, 0.0),
        ({"rating": 1}, 0.0),
        ({"rating": 5}, 1.0),
        ({"rating": 3}, 0.5),
        ({"rating": 3.5, "scale": 10}, pytest.approx(2.5 / 9)),
        ({"rating": 2, "scale": 2}, 1.0),
        ({"rating": 100, "scale": 100}, 1.0),
        ({"quality": 0.3, "label": None, "scale": None}, 0.3),
    ],
)
def test_forms(body: dict[str, Any], quality: float) -> None:
    assert parsed(**body) == quality


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "quality"),
        ({"quality": 1, "thumbs": True}, "quality"),
        ({"score": -0.1}, "score"),
        ({"score": 10**400}, "score"),
        ({"score": float("nan")}, "score"),
        ({"thumbs": 1}, "thumbs"),
        ({"thumbs": "sideways"}, "thumbs"),
        ({"rating": 0}, "rating"),
        ({"rating": 6}, "rating"),
        ({"rating": True}, "rating"),
        ({"rating": 2, "scale": 1}, "scale"),
        ({"rating": 2, "scale": 5.0}, "scale"),
        ({"rating": 2, "scale": True}, "scale"),
        ({"quality": 1, "scale": 5}, "scale"),
        ({"quality": 1, "weight": 10.5}, "weight"),
        ({"quality": 1, "weight": float("nan")}, "weight"),
        ({"quality": 1, "source": "x" * 257}, "source"),
    ],
)
def test_wrong_forms(body: dict[str, Any], param: str) -> None:
    with pytest.raises(APIError) as caught:
        parsed(**body)
    assert caught.value.body["error"]["param"] == param


@settings(deadline=None)
@given(st.sampled_from(SCALES), st.floats(0, 1))
def test_ratings_keep_their_order_and_their_ends(best: int, share: float) -> None:
    rating = 1 + share * (best - 1)
    quality = parsed(rating=min(rating, best), scale=best)
    assert 0 <= quality <= 1
    assert quality == pytest.approx(share, abs=1e-9)
