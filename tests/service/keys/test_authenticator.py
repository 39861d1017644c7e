"""Who asks: trust in looked-up keys, revocation, a store that fails, wrong keys by the thousand."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from key_stores import Clock, WatchedStore

from service.errors import APIError
from service.keys.authenticator import Authenticator
from service.keys.manager import KeyManager
from service.keys.principal import GUEST
from service.keys.record import KeyRecord
from service.keys.settings import AuthSettings
from service.keys.token import new_id, new_token


class Setting:
    """An authenticator over a store with one key, and the clock of both."""

    def __init__(self, **settings: Any) -> None:
        self.clock = Clock()
        self.store = WatchedStore()
        self.authenticator = Authenticator(
            AuthSettings(**settings), self.store, clock=self.clock, wall_clock=self.clock
        )
        self.keys = self.authenticator.keys

    async def key(self, **wanted: Any) -> tuple[KeyRecord, str]:
        return await self.keys.create({"name": "mine", **wanted})

    async def refusal(self, token: str | None, client: str = "10.0.0.1") -> APIError:
        with pytest.raises(APIError) as caught:
            await self.authenticator.authenticate(token, client=client)
        return caught.value


def code(error: APIError) -> Any:
    return error.body["error"]["code"]


async def test_a_key_is_looked_up_once_while_it_is_trusted() -> None:
    setting = Setting(cache_s=30)
    record, token = await setting.key(team="red", models=["small"])
    assert setting.authenticator.authenticate_cached(token) is None
    principal = await setting.authenticator.authenticate(token)
    assert (principal.key_id, principal.name, principal.team, principal.models) == (
        record.id,
        "mine",
        "red",
        ("small",),
    )
    setting.clock.now += 20
    assert setting.authenticator.authenticate_cached(token) is principal
    assert await setting.authenticator.authenticate(token) is principal
    assert setting.store.lookups == [record.id]


async def test_a_key_that_is_no_longer_trusted_is_looked_up_again() -> None:
    setting = Setting(cache_s=30)
    record, token = await setting.key()
    await setting.authenticator.authenticate(token)
    setting.clock.now += 30
    assert setting.authenticator.authenticate_cached(token) is None
    await setting.authenticator.authenticate(token)
    assert setting.store.lookups == [record.id] * 2


async def test_a_key_in_use_is_looked_up_in_the_background() -> None:
    setting = Setting(cache_s=30)
    record, token = await setting.key()
    await setting.authenticator.authenticate(token)
    setting.clock.now += 25
    for _ in range(3):
        assert setting.authenticator.authenticate_cached(token) is not None
    await asyncio.sleep(0)
    assert setting.store.lookups == [record.id] * 2
    setting.clock.now += 20  # 45 s after the first look, 20 s after the second
    assert setting.authenticator.authenticate_cached(token) is not None


async def test_a_revocation_elsewhere_takes_effect_within_the_trust() -> None:
    setting = Setting(cache_s=30)
    record, token = await setting.key()
    await setting.authenticator.authenticate(token)
    await KeyManager(setting.store, wall_clock=setting.clock).revoke(record.id)  # another process: nobody tells us
    assert setting.authenticator.authenticate_cached(token) is not None
    setting.clock.now += 30
    error = await setting.refusal(token)
    assert (error.status, code(error)) == (401, "revoked_api_key")


async def test_a_revocation_here_takes_effect_at_once() -> None:
    setting = Setting()
    record, token = await setting.key()
    await setting.authenticator.authenticate(token)
    await setting.keys.revoke(record.id)
    assert setting.authenticator.authenticate_cached(token) is None
    assert code(await setting.refusal(token)) == "revoked_api_key"


async def test_a_revocation_overtakes_a_lookup_under_way() -> None:
    setting = Setting()
    record, token = await setting.key()
    revoked = False

    async def revoke_meanwhile() -> None:
        nonlocal revoked
        if not revoked:
            revoked = True
            await setting.keys.revoke(record.id)

    setting.store.before_answer = revoke_meanwhile
    assert code(await setting.refusal(token)) == "revoked_api_key"
    assert setting.authenticator.authenticate_cached(token) is None


async def test_a_change_here_is_seen_by_the_next_request() -> None:
    setting = Setting()
    record, token = await setting.key()
    await setting.authenticator.authenticate(token)
    await setting.keys.update(record.id, {"models": ["small"], "scopes": ["route"]})
    principal = await setting.authenticator.authenticate(token)
    assert principal.models == ("small",)
    assert not principal.may("inference")


async def test_expiry_is_kept_to_the_second_while_cached() -> None:
    setting = Setting(cache_s=3600)
    _, token = await setting.key(expires="60s")
    await setting.authenticator.authenticate(token)
    setting.clock.now += 59
    assert setting.authenticator.authenticate_cached(token) is not None
    setting.clock.now += 1
    assert setting.authenticator.authenticate_cached(token) is None
    error = await setting.refusal(token)
    assert (error.status, code(error)) == (401, "expired_api_key")


async def test_rotation_grace_is_kept_to_the_second_while_cached() -> None:
    setting = Setting(cache_s=3600)
    record, old = await setting.key()
    _, new = await setting.keys.rotate(record.id, grace_s="1m")
    assert await setting.authenticator.authenticate(old) is await setting.authenticator.authenticate(new)
    setting.clock.now += 59
    assert setting.authenticator.authenticate_cached(old) is not None
    setting.clock.now += 1
    assert setting.authenticator.authenticate_cached(old) is None
    assert setting.authenticator.authenticate_cached(new) is not None
    error = await setting.refusal(old)
    assert code(error) == "expired_api_key"
    assert "rotated" in str(error)


async def test_without_a_key() -> None:
    setting = Setting()
    error = await setting.refusal(None)
    assert error.status == 401
    assert error.body["error"]["type"] == "invalid_request_error"
    assert code(error) == "missing_api_key"
    assert error.headers["www-authenticate"] == "Bearer"


async def test_without_a_key_where_none_is_required() -> None:
    setting = Setting(required=False)
    assert await setting.authenticator.authenticate(None) is GUEST
    assert code(await setting.refusal("sk-wrong")) == "invalid_api_key"


@pytest.mark.parametrize("token", ["sk-1234567890abcdefghij", "x", new_token(new_id()), "llmr-" + "ä" * 56])
async def test_a_wrong_key_is_refused_and_hardly_shown(token: str) -> None:
    setting = Setting()
    await setting.key()
    error = await setting.refusal(token)
    assert (error.status, code(error)) == (401, "invalid_api_key")
    assert token not in str(error) or len(token) == 1
    assert token[-5:] not in str(error) or len(token) < 5


async def test_the_right_id_with_a_wrong_secret() -> None:
    setting = Setting()
    record, token = await setting.key()
    await setting.authenticator.authenticate(token)
    forged = new_token(record.id)
    assert setting.authenticator.authenticate_cached(forged) is None
    assert code(await setting.refusal(forged)) == "invalid_api_key"
    assert setting.store.lookups == [record.id]  # a wrong secret costs no look


@pytest.mark.parametrize("known", [True, False])
async def test_an_unknown_id_is_compared_like_a_known_one(known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = Setting()
    record, _ = await setting.key()
    compared: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr("service.keys.token.hmac.compare_digest", compare)
    await setting.refusal(new_token(record.id if known else new_id()))
    assert compared
    assert all(len(one) == len(other) == 32 for one, other in compared)


async def test_malformed_keys_never_reach_the_store() -> None:
    setting = Setting()
    for token in ("", "llmr-", "sk-" + "a" * 48, "llmr-" + "a" * 100_000, "llmr-AAAAAAAAAAAA-'; DROP TABLE keys; --"):
        await setting.refusal(token or "x")
    assert setting.store.lookups == []


async def test_unknown_ids_are_remembered_for_a_while() -> None:
    setting = Setting()
    token = new_token(new_id())
    await setting.refusal(token)
    await setting.refusal(token)
    assert len(setting.store.lookups) == 1
    setting.clock.now += 6
    await setting.refusal(token)
    assert len(setting.store.lookups) == 2


async def test_memory_stays_bounded_under_random_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.keys.authenticator._MOST_UNKNOWN", 50)
    setting = Setting(failures_per_minute=0)
    for _ in range(200):
        await setting.refusal(new_token(new_id()))
    assert len(setting.authenticator._unknown) == 50
    assert not setting.authenticator._lookups


async def test_known_keys_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.keys.authenticator._MOST_KNOWN", 3)
    setting = Setting()
    tokens = [(await setting.key())[1] for _ in range(5)]
    for token in tokens:
        await setting.authenticator.authenticate(token)
    assert len(setting.authenticator._known) == 3
    await setting.authenticator.authenticate(tokens[0])  # forgotten, not refused


async def test_many_requests_share_one_lookup() -> None:
    setting = Setting()
    record, token = await setting.key()
    setting.store.before_answer = lambda: asyncio.sleep(0.01)
    principals = await asyncio.gather(*(setting.authenticator.authenticate(token) for _ in range(50)))
    assert {principal.key_id for principal in principals} == {record.id}
    assert setting.store.lookups == [record.id]


async def test_one_request_that_is_cancelled_does_not_end_the_lookup_of_others() -> None:
    setting = Setting()
    _, token = await setting.key()
    setting.store.before_answer = lambda: asyncio.sleep(0.01)
    first = asyncio.ensure_future(setting.authenticator.authenticate(token))
    second = asyncio.ensure_future(setting.authenticator.authenticate(token))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).name == "mine"


async def test_a_crowd_of_lookups_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.keys.authenticator._MOST_LOOKUPS", 2)
    setting = Setting(failures_per_minute=0)
    setting.store.before_answer = lambda: asyncio.sleep(0.01)
    answers = await asyncio.gather(
        *(setting.authenticator.authenticate(new_token(new_id())) for _ in range(5)), return_exceptions=True
    )
    codes = [code(answer) for answer in answers if isinstance(answer, APIError)]
    assert sorted(codes) == ["invalid_api_key"] * 2 + ["key_store_unavailable"] * 3


# A store that fails


async def test_known_keys_hold_on_while_the_store_is_gone() -> None:
    setting = Setting(cache_s=30, stale_s=3600)
    _, token = await setting.key()
    await setting.authenticator.authenticate(token)
    setting.store.broken = True
    setting.clock.now += 31
    assert (await setting.authenticator.authenticate(token)).name == "mine"
    assert setting.authenticator.authenticate_cached(token) is not None  # not a failing look for every request
    assert setting.authenticator.state()["status"] == "failing"
    setting.clock.now += 3600
    error = await setting.refusal(token)
    assert (error.status, code(error)) == (503, "key_store_unavailable")
    assert error.headers["retry-after"]


async def test_the_store_comes_back() -> None:
    setting = Setting(cache_s=30)
    record, token = await setting.key()
    await setting.authenticator.authenticate(token)
    setting.store.broken = True
    setting.clock.now += 31
    await setting.authenticator.authenticate(token)
    await KeyManager(setting.store, wall_clock=setting.clock).revoke(record.id)
    setting.store.broken = False
    setting.clock.now += 2
    assert code(await setting.refusal(token)) == "revoked_api_key"
    assert setting.authenticator.state()["status"] == "ok"


async def test_a_stale_key_still_expires() -> None:
    setting = Setting(cache_s=30)
    _, token = await setting.key(expires="40s")
    await setting.authenticator.authenticate(token)
    setting.store.broken = True
    setting.clock.now += 31
    assert (await setting.authenticator.authenticate(token)).name == "mine"
    setting.clock.now += 10
    assert code(await setting.refusal(token)) == "expired_api_key"


async def test_a_failing_refresh_in_the_background_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    setting = Setting(cache_s=30)
    _, token = await setting.key()
    await setting.authenticator.authenticate(token)
    setting.store.broken = True
    setting.clock.now += 25
    assert setting.authenticator.authenticate_cached(token) is not None
    await asyncio.sleep(0)
    assert setting.authenticator.authenticate_cached(token) is not None
    setting.clock.now += 4
    assert setting.authenticator.authenticate_cached(token) is not None


async def test_an_unknown_key_while_the_store_is_gone_is_not_called_wrong() -> None:
    setting = Setting()
    setting.store.broken = True
    error = await setting.refusal(new_token(new_id()))
    assert (error.status, code(error)) == (503, "key_store_unavailable")
    assert "gone" not in str(error)


# Wrong keys by the thousand


async def test_too_many_wrong_keys_are_not_looked_up_any_more() -> None:
    setting = Setting(failures_per_minute=5)
    for _ in range(5):
        assert (await setting.refusal(new_token(new_id()))).status == 401
    error = await setting.refusal(new_token(new_id()))
    assert error.status == 429
    assert error.headers["retry-after"] == "60"
    assert error.headers["x-should-retry"] == "false"
    assert len(setting.store.lookups) == 5
    assert (await setting.refusal(new_token(new_id()), client="10.0.0.2")).status == 401
    setting.clock.now += 60
    assert (await setting.refusal(new_token(new_id()))).status == 401


async def test_known_keys_go_on_at_an_address_that_sends_wrong_ones() -> None:
    setting = Setting(failures_per_minute=5, cache_s=30)
    _, token = await setting.key()
    await setting.authenticator.authenticate(token, client="10.0.0.1")
    for _ in range(6):
        await setting.refusal(new_token(new_id()))
    assert (await setting.authenticator.authenticate(token, client="10.0.0.1")).name == "mine"
    setting.clock.now += 31  # no longer trusted, still remembered
    assert (await setting.authenticator.authenticate(token, client="10.0.0.1")).name == "mine"


async def test_a_revoked_key_does_not_count_as_a_guess() -> None:
    setting = Setting(failures_per_minute=3)
    record, token = await setting.key()
    await setting.keys.revoke(record.id)
    for _ in range(6):
        assert code(await setting.refusal(token)) == "revoked_api_key"


# Last use, logs


async def test_the_last_use_is_written_late() -> None:
    setting = Setting()
    record, token = await setting.key()
    await setting.authenticator.authenticate(token)
    assert (await setting.keys.get(record.id)).last_used is None
    await setting.authenticator.touch()
    assert (await setting.keys.get(record.id)).last_used == setting.clock.now


async def test_a_wrong_secret_is_no_use() -> None:
    setting = Setting()
    record, _ = await setting.key()
    await setting.refusal(new_token(record.id))
    await setting.authenticator.touch()
    assert (await setting.keys.get(record.id)).last_used is None


async def test_the_last_use_waits_for_a_store_that_fails() -> None:
    setting = Setting()
    record, token = await setting.key()
    await setting.authenticator.authenticate(token)
    setting.store.broken = True
    await setting.authenticator.touch()
    setting.store.broken = False
    setting.authenticator.start()
    await setting.authenticator.aclose()
    assert (await setting.keys.get(record.id)).last_used == setting.clock.now


async def test_no_log_line_and_no_repr_shows_a_token(caplog: pytest.LogCaptureFixture) -> None:
    setting = Setting()
    with caplog.at_level(logging.DEBUG):
        record, token = await setting.key()
        await setting.authenticator.authenticate(token)
        _, new = await setting.keys.rotate(record.id)
        await setting.refusal(new_token(record.id))
        await setting.keys.revoke(record.id)
        await setting.refusal(new)
        setting.store.broken = True
        await setting.refusal(new_token(new_id()))
    seen = caplog.text + repr(setting.authenticator) + repr(record) + repr(setting.authenticator.state())
    assert record.id in caplog.text
    for secret in (token, new):
        assert secret[-20:] not in seen
        assert secret[18:38] not in seen


async def test_the_key_in_a_request() -> None:
    setting = Setting(failures_per_minute=1, trusted_proxies=["127.0.0.1"])
    _, token = await setting.key()

    def scope(key: str, forwarded: str = "") -> dict[str, Any]:
        headers = [(b"x-api-key", key.encode()), (b"x-forwarded-for", forwarded.encode())]
        return {"type": "http", "headers": headers, "client": ("127.0.0.1", 5)}

    assert (await setting.authenticator.of_request(scope(token))).name == "mine"
    with pytest.raises(APIError):
        await setting.authenticator.of_request(scope(new_token(new_id()), "1.1.1.1, 2.2.2.2"))
    assert setting.authenticator.failures.wait_s("2.2.2.2") > 0
    assert setting.authenticator.failures.wait_s("127.0.0.1") == 0
    with pytest.raises(APIError) as caught:
        await setting.authenticator.of_request({"type": "http", "headers": [], "client": None})
    assert code(caught.value) == "missing_api_key"
