"""Keys as values: states, rotation, what is stored and what is shown."""

from __future__ import annotations

import dataclasses

import pytest

from service.keys.principal import ADMIN, ANONYMOUS, DEFAULT_SCOPES, GUEST, SCOPES, Principal
from service.keys.record import KeyRecord
from service.keys.token import digest_of

NOW = 1_000_000.0


def test_the_token_is_nowhere_in_the_record() -> None:
    record, token = KeyRecord.new(now=NOW, name="mine")
    secret = token.rsplit("-", 1)[-1][-20:]
    for text in (repr(record), str(record.document(NOW)), record.to_json().decode(), repr(record.principal())):
        assert secret not in text
        assert token not in text
    assert digest_of(token).hex() not in repr(record)
    assert digest_of(token).hex() not in str(record.document(NOW))
    assert not {"digest", "previous_digest"} & record.document(NOW).keys()


def test_a_stored_key_comes_back_as_it_was() -> None:
    record, _ = KeyRecord.new(
        now=NOW,
        name="näme",
        team="red",
        models=("gpt-*",),
        limits={"rpm": 3, "budget_usd": 0.5},
        metadata={"a": "b"},
        expires=NOW + 5,
    )
    record, _ = record.rotate(now=NOW + 1, grace_s=10)
    assert KeyRecord.from_json(record.to_json()) == record
    assert KeyRecord.from_json(record.to_json(), last_used=NOW).last_used == NOW


def test_what_a_newer_version_wrote_is_refused() -> None:
    record, _ = KeyRecord.new(now=NOW, name="mine")
    text = record.to_json().replace(b'{"id"', b'{"only_on_mondays":true,"id"')
    with pytest.raises(TypeError):
        KeyRecord.from_json(text)


def test_expiry_and_revocation() -> None:
    record, token = KeyRecord.new(now=NOW, name="mine", expires=NOW + 10)
    digest = digest_of(token)
    assert record.verdict(digest, NOW + 9.9) == "ok"
    assert record.verdict(digest, NOW + 10) == "expired"
    revoked = record.revoke(now=NOW + 1)
    assert revoked.verdict(digest, NOW + 2) == "revoked"
    assert revoked.revoke(now=NOW + 3).revoked == NOW + 1


def test_states_are_told_only_to_those_who_have_the_secret() -> None:
    record, _ = KeyRecord.new(now=NOW, name="mine", expires=NOW + 10)
    wrong = digest_of("something else")
    assert record.verdict(wrong, NOW + 11) == "wrong"
    assert record.revoke(now=NOW).verdict(wrong, NOW + 11) == "wrong"


def test_rotation_lets_the_old_token_hold_for_a_while() -> None:
    record, old = KeyRecord.new(now=NOW, name="mine")
    rotated, new = record.rotate(now=NOW, grace_s=60)
    assert rotated.id == record.id
    assert rotated.verdict(digest_of(new), NOW + 1000) == "ok"
    assert rotated.verdict(digest_of(old), NOW + 59) == "ok"
    assert rotated.verdict(digest_of(old), NOW + 60) == "rotated"
    again, newest = rotated.rotate(now=NOW + 1, grace_s=60)
    assert again.verdict(digest_of(old), NOW + 2) == "wrong"
    assert again.verdict(digest_of(new), NOW + 2) == "ok"
    assert again.verdict(digest_of(newest), NOW + 2) == "ok"


def test_rotation_at_once() -> None:
    record, old = KeyRecord.new(now=NOW, name="mine")
    rotated, _ = record.rotate(now=NOW, grace_s=0)
    assert rotated.verdict(digest_of(old), NOW) == "rotated"


def test_scopes() -> None:
    plain = KeyRecord.new(now=NOW, name="mine")[0].principal()
    assert [scope for scope in SCOPES if plain.may(scope)] == list(DEFAULT_SCOPES)
    assert not plain.is_admin
    admin = KeyRecord.new(now=NOW, name="boss", scopes=(ADMIN,))[0].principal()
    assert all(admin.may(scope) for scope in SCOPES)
    assert admin.is_admin
    assert not admin.may("anything else")


@pytest.mark.parametrize(
    ("models", "name", "allowed"),
    [
        (None, "anything", True),
        (("small",), "small", True),
        (("small",), "smaller", False),
        (("gpt-4o*",), "gpt-4o-mini", True),
        (("gpt-4o*",), "my-gpt-4o", False),
        (("*",), "a/b", True),
        (("a.b",), "aXb", False),
        (("a.*",), "aXb", False),
        (("a*c", "d"), "abbbc", True),
        (("a*c", "d"), "d", True),
        (("a*c|.*",), "x", False),
        (("a", "b*"), "", False),
    ],
)
def test_allowed_models(models: tuple[str, ...] | None, name: str, allowed: bool) -> None:
    assert Principal("k", "mine", models=models).allows(name) is allowed


def test_the_pool_that_a_key_sees() -> None:
    assert Principal("k", "mine", models=("b*", "gone")).allowed(["a", "b", "b2"]) == ("b", "b2")
    assert Principal("k", "mine").allowed(["a", "b"]) is None


def test_a_key_reads_its_own_outcomes_only() -> None:
    mine = Principal("k1", "mine")
    assert mine.owns("k1")
    assert not mine.owns("k2")
    assert not mine.owns(None)
    assert Principal("k3", "boss", scopes=frozenset({ADMIN})).owns("k1")
    assert ANONYMOUS.owns("k1")
    assert not ANONYMOUS.is_admin
    assert GUEST.owns(None)
    assert not GUEST.owns("k1")


def test_principals_are_values() -> None:
    assert Principal("k", "mine", models=("a",)) == Principal("k", "mine", models=("a",))
    with pytest.raises(dataclasses.FrozenInstanceError):
        GUEST.name = "x"  # type: ignore[misc]
