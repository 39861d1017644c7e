"""What an administrator asks for: each wrong field has its own clear error."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from key_stores import Clock
from pydantic import ValidationError

from service.errors import APIError
from service.keys.manager import KeyManager
from service.keys.settings import AuthSettings
from service.keys.store import MemoryKeyStore
from service.keys.wanted import read_changes, read_expiry, read_new

NOW = 1_800_000_000.0

WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({}, "name", "Missing required parameter"),
    ({"name": ""}, "name", "printable"),
    ({"name": "a\nINFO forged line"}, "name", "printable"),
    ({"name": "x" * 129}, "name", "128"),
    ({"name": 5}, "name", "5"),
    ({"name": "a", "nam": "b"}, "nam", "did you mean 'name'"),
    ({"name": "a", "id": "AAAAAAAAAAAA"}, "id", "allowed: name"),
    ({"name": "a", "digest": "00"}, "digest", "unknown key"),
    ({"name": "a", "team": "a b"}, "team", "'a b'"),
    ({"name": "a", "team": "red\r\nx: y"}, "team", "letter or digit"),
    ({"name": "a", "scopes": []}, "scopes", "an empty list"),
    ({"name": "a", "scopes": "inference"}, "scopes", "a string"),
    ({"name": "a", "scopes": ["inferense"]}, "scopes", "did you mean 'inference'"),
    ({"name": "a", "models": []}, "models", "an empty list"),
    ({"name": "a", "models": ["a b"]}, "models", "'a b'"),
    ({"name": "a", "models": [1]}, "models", "a list"),
    ({"name": "a", "limits": []}, "limits", "an array"),
    ({"name": "a", "limits": {"rpn": 1}}, "limits.rpn", "did you mean 'rpm'"),
    ({"name": "a", "limits": {"rpm": 0}}, "limits.rpm", "1 or more"),
    ({"name": "a", "limits": {"rpm": True}}, "limits.rpm", "True"),
    ({"name": "a", "limits": {"rpm": 1.5}}, "limits.rpm", "whole number"),
    ({"name": "a", "limits": {"budget_usd": -1}}, "limits.budget_usd", "-1"),
    ({"name": "a", "limits": {"budget_usd": float("inf")}}, "limits.budget_usd", "inf"),
    ({"name": "a", "limits": {"budget_period": "year"}}, "limits.budget_period", "day, week, month, total"),
    ({"name": "a", "metadata": {"k": 1}}, "metadata.k", "text"),
    ({"name": "a", "metadata": {str(i): "" for i in range(17)}}, "metadata", "16"),
    ({"name": "a", "expires": "soon"}, "expires", "'soon'"),
    ({"name": "a", "expires": "2001-01-01"}, "expires", "in the future"),
    ({"name": "a", "expires": -5}, "expires", "in the future"),
    ({"name": "a", "expires": 1e300}, "expires", "in the future"),
    ({"name": "a", "expires": True}, "expires", "True"),
]


@pytest.mark.parametrize(("body", "param", "said"), WRONG)
def test_wrong_fields(body: dict[str, Any], param: str, said: str) -> None:
    with pytest.raises(APIError) as caught:
        read_new(body, now=NOW)
    assert caught.value.body["error"]["param"] == param
    assert said in str(caught.value)
    assert caught.value.status == 400


def test_a_full_wish() -> None:
    assert read_new(
        {
            "name": " mine ",
            "team": "red",
            "scopes": ["inference", "inference", "admin"],
            "models": ["gpt-4o*", "org/model:free"],
            "limits": {"rpm": 5.0, "budget_usd": 2.5, "budget_period": "month", "tpm": None},
            "metadata": {"owner": "me"},
            "expires": "30d",
        },
        now=NOW,
    ) == {
        "name": "mine",
        "team": "red",
        "scopes": ("inference", "admin"),
        "models": ("gpt-4o*", "org/model:free"),
        "limits": {"rpm": 5, "budget_usd": 2.5, "budget_period": "month"},
        "metadata": {"owner": "me"},
        "expires": NOW + 30 * 86400,
    }
    nothing = dict.fromkeys(("team", "scopes", "models", "limits", "metadata", "expires"))
    assert read_new({"name": "mine", **nothing}, now=NOW) == {"name": "mine"}


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        ("12h", NOW + 12 * 3600),
        ("2w", NOW + 14 * 86400),
        ("2027-06-30", datetime(2027, 6, 30, tzinfo=UTC).timestamp()),
        ("2027-06-30T12:00:00+02:00", datetime(2027, 6, 30, 10, tzinfo=UTC).timestamp()),
        (NOW + 1, NOW + 1),
        (None, None),
    ],
)
def test_expiry(value: Any, moment: float | None) -> None:
    assert read_expiry(value, now=NOW) == moment


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
NAMES = st.sampled_from(["name", "team", "scopes", "models", "limits", "metadata", "expires", "else"])


@given(st.dictionaries(NAMES, JSON | st.dictionaries(st.sampled_from(["rpm", "budget_usd"]), JSON)))
def test_any_json_is_taken_or_refused_with_an_error_of_ours(body: dict[str, Any]) -> None:
    for read in (read_new, read_changes):
        refusal, fields = None, {}
        try:
            fields = read(body, now=NOW)
        except APIError as error:
            refusal = error
        assert set(fields) <= set(body)
        assert refusal is None or (refusal.status == 400 and refusal.body["error"]["param"])


async def test_changes() -> None:
    clock = Clock(NOW)
    keys = KeyManager(MemoryKeyStore(), wall_clock=clock)
    key, _ = await keys.create({"name": "mine", "team": "red", "limits": {"rpm": 5, "tpm": 9}, "metadata": {"a": "1"}})
    changed = await keys.update(key.id, {"team": None, "limits": {"rpm": None, "concurrency": 2}, "expires": "1d"})
    assert changed.team is None
    assert changed.limits == {"tpm": 9, "concurrency": 2}
    assert changed.metadata == {"a": "1"}
    assert changed.expires == NOW + 86400
    assert changed.digest == key.digest
    changed = await keys.update(key.id, {"limits": None, "metadata": {"a": None, "b": "2"}, "expires": None})
    assert (changed.limits, changed.metadata, changed.expires) == ({}, {"b": "2"}, None)
    with pytest.raises(APIError, match="name"):
        await keys.update(key.id, {"name": None})


async def test_unknown_and_revoked_keys() -> None:
    told: list[str] = []
    keys = KeyManager(MemoryKeyStore(), on_change=told.append)
    for key_id in ("AAAAAAAAAAAA", "short", "../../etc", "x" * 5000):
        with pytest.raises(APIError) as caught:
            await keys.get(key_id)
        assert caught.value.status == 404
        assert len(str(caught.value)) < 300
    key, token = await keys.create({"name": "mine"})
    assert (await keys.revoke(token)).id == key.id  # one that leaked may be given as it is
    assert (await keys.revoke(key.id)).revoked is not None
    for change in (keys.rotate(key.id), keys.update(key.id, {"team": "red"})):
        with pytest.raises(APIError) as caught:
            await change
        assert (caught.value.status, caught.value.body["error"]["code"]) == (409, "key_revoked")
    assert told == [key.id] * 3


@pytest.mark.parametrize("grace", [-1, "x", True, float("nan"), 10**9, None, "999d"])
async def test_wrong_grace(grace: Any) -> None:
    keys = KeyManager(MemoryKeyStore())
    key, _ = await keys.create({"name": "mine"})
    with pytest.raises(APIError, match="grace_s"):
        await keys.rotate(key.id, grace_s=grace)


@pytest.mark.parametrize(
    "wrong",
    [
        {"store": "postgres://x"},
        {"store": "sqlite:///"},
        {"store": "sqlite:///:memory:"},
        {"cache_s": 0},
        {"cache_s": 86400},
        {"stale_s": -1},
        {"failures_per_minute": -1},
        {"trusted_proxies": ["10.0.0.0/33"]},
        {"trusted_proxies": ["proxy"]},
        {"master_key": "x"},
    ],
)
def test_wrong_settings(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AuthSettings.model_validate(wrong)


def test_default_settings() -> None:
    assert AuthSettings() == AuthSettings(
        store="sqlite:///keys.db", required=True, cache_s=30, stale_s=3600, failures_per_minute=60, trusted_proxies=()
    )
