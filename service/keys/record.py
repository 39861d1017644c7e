"""A key as it is stored, and how it changes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import orjson

from service.keys.principal import DEFAULT_SCOPES, Principal
from service.keys.token import NO_DIGEST, digest_of, new_id, new_token, same

State = Literal["active", "expired", "revoked"]
Verdict = Literal["ok", "wrong", "rotated", "expired", "revoked"]

_SECRET_FIELDS = frozenset({"digest", "previous_digest"})


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """One key. The token itself is nowhere in it.

    Attributes
    ----------
    id : str
        Public name of the key.
    digest : bytes
        SHA-256 of the token.
    name, team, scopes, models, explore, prompts
        See `Principal`.
    limits : mapping of str to float or str
        Out of ``rpm``, ``tpm``, ``concurrency``, ``budget_usd`` and ``budget_period``.
    metadata : mapping of str to str
        The owner's notes.
    created, expires, revoked, rotated : float or None
        Seconds since the epoch; None is never.
    previous_digest, previous_until : bytes or None, float or None
        What the token was before the last rotation, and until when it still holds.
    last_used : float or None
        About when it was last used: it is written late, and seldom.
    """

    id: str
    digest: bytes = field(repr=False)
    name: str
    created: float
    team: str | None = None
    scopes: tuple[str, ...] = DEFAULT_SCOPES
    models: tuple[str, ...] | None = None
    limits: Mapping[str, float | str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    expires: float | None = None
    revoked: float | None = None
    rotated: float | None = None
    previous_digest: bytes | None = field(default=None, repr=False)
    previous_until: float | None = None
    last_used: float | None = None
    explore: bool = True
    prompts: str | None = None

    @classmethod
    def new(cls, *, now: float, **fields: Any) -> tuple[Self, str]:
        """Return a new key and its token, which is kept nowhere else."""
        key_id = new_id()
        token = new_token(key_id)
        return cls(id=key_id, digest=digest_of(token), created=now, **fields), token

    def state(self, now: float) -> State:
        """Return whether the key can be used at all."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and now >= self.expires else "active"

    def verdict(self, digest: bytes, now: float) -> Verdict:
        """Judge the digest of a token that names this key."""
        current = same(digest, self.digest)
        previous = same(digest, self.previous_digest or NO_DIGEST)
        if not current and not previous:
            return "wrong"
        state = self.state(now)
        if state != "active":
            return state
        if not current and (self.previous_until is None or now >= self.previous_until):
            return "rotated"
        return "ok"

    def rotate(self, *, now: float, grace_s: float) -> tuple[Self, str]:
        """Return the key with a new token, and that token; the old one holds for `grace_s` seconds more."""
        token = new_token(self.id)
        return dataclasses.replace(
            self,
            digest=digest_of(token),
            rotated=now,
            previous_digest=self.digest,
            previous_until=now + grace_s,
        ), token

    def revoke(self, *, now: float) -> Self:
        """Return the key revoked; that it was revoked before stays as it is."""
        return self if self.revoked is not None else dataclasses.replace(self, revoked=now)

    def principal(self) -> Principal:
        """Return whom the key stands for."""
        return Principal(
            key_id=self.id,
            name=self.name,
            team=self.team,
            scopes=frozenset(self.scopes),
            models=self.models,
            limits=limits_of(self.limits),
            explore=self.explore,
            prompts=self.prompts,
        )

    def document(self, now: float) -> dict[str, Any]:
        """Return what may be shown of the key: everything but digests."""
        shown = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return {"state": self.state(now), **{name: shown[name] for name in shown if name not in _SECRET_FIELDS}}

    def to_json(self) -> bytes:
        """Return the key as it is stored, without `last_used`, which is stored beside it."""
        fields = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        del fields["last_used"]
        # As before there were such fields: older gateways refuse what they do not know.
        if fields["explore"]:
            del fields["explore"]
        if fields["prompts"] is None:
            del fields["prompts"]
        for name in _SECRET_FIELDS:
            fields[name] = None if fields[name] is None else fields[name].hex()
        return orjson.dumps(fields)

    @classmethod
    def from_json(cls, text: bytes | str, *, last_used: float | None = None) -> Self:
        """Return a stored key.

        Raises
        ------
        ValueError, TypeError, KeyError
            If it is no key.
        """
        fields = orjson.loads(text)
        for name in _SECRET_FIELDS:
            fields[name] = None if fields[name] is None else bytes.fromhex(fields[name])
        for name in ("scopes", "models"):
            fields[name] = None if fields[name] is None else tuple(fields[name])
        return cls(**fields, last_used=last_used)


def limits_of(values: Mapping[str, float | str]) -> Any:
    """Return limits as the limiter takes them, None for none."""
    if not values:
        return None
    from service.limits.settings import Limits

    return Limits.model_validate(dict(values))
