"""What a client is told whose key is not taken, in OpenAI's words where OpenAI has some."""

from __future__ import annotations

import math

from service.errors import SERVER_ERROR, APIError
from service.keys.principal import Principal
from service.keys.record import Verdict
from service.keys.token import PREFIX, masked

_CHALLENGE = {"www-authenticate": "Bearer"}
_MILLISECONDS = 1000.0


def missing_key() -> APIError:
    """Return the answer to a request without a key."""
    return APIError(
        "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth "
        "(i.e. Authorization: Bearer YOUR_KEY); x-api-key is read too. Keys of this gateway are made with "
        "`llmrouter keys create`.",
        status=401,
        code="missing_api_key",
        headers=_CHALLENGE,
    )


def wrong_key(token: str) -> APIError:
    """Return the answer to a key that is none of ours."""
    hint = "" if token.startswith(PREFIX) else f" Keys of this gateway begin with {PREFIX!r}."
    return APIError(
        f"Incorrect API key provided: {masked(token)}.{hint} You can make one with `llmrouter keys create`, or ask "
        "whoever runs this gateway.",
        status=401,
        code="invalid_api_key",
        headers=_CHALLENGE,
    )


def refused_key(verdict: Verdict, token: str) -> APIError:
    """Return the answer to a key that does not hold; why is told only to those who have its secret."""
    if verdict == "wrong":
        return wrong_key(token)
    message, code = {
        "expired": ("has expired. Ask whoever runs this gateway for a new one", "expired_api_key"),
        "revoked": ("was revoked. Ask whoever runs this gateway for a new one", "revoked_api_key"),
        "rotated": ("was rotated, and its old token no longer holds. Use the new token", "expired_api_key"),
    }[verdict]
    return APIError(f"The API key {masked(token)} {message}.", status=401, code=code, headers=_CHALLENGE)


def too_many_failures(wait_s: float) -> APIError:
    """Return the answer to a client that keeps sending wrong keys."""
    return APIError(
        f"Too many wrong API keys came from your address. Try again in {math.ceil(wait_s)} seconds, with a key that "
        "holds.",
        status=429,
        type="requests",
        code="too_many_failed_keys",
        headers={
            "retry-after": str(math.ceil(wait_s)),
            "retry-after-ms": str(math.ceil(wait_s * _MILLISECONDS)),
            # A wrong key does not become right by waiting.
            "x-should-retry": "false",
        },
    )


def store_unavailable() -> APIError:
    """Return the answer while a key cannot be looked up; it says nothing about the store."""
    return APIError(
        "API keys cannot be checked at the moment. Try again soon.",
        status=503,
        type=SERVER_ERROR,
        code="key_store_unavailable",
        headers={"retry-after": "1"},
    )


def lacking_scope(principal: Principal, scope: str) -> APIError:
    """Return the answer to a key that is not for this."""
    has = ", ".join(sorted(principal.scopes)) or "none"
    who = f"The API key {principal.name!r}" if principal.key_id else "A request without an API key"
    return APIError(
        f"{who} has insufficient permissions for this operation: it needs the scope {scope!r}, and has {has}. An "
        f"administrator can make a key with it (`llmrouter keys create --scopes {scope}`) or change this one.",
        status=403,
        code="insufficient_permissions",
    )


def keys_are_off() -> APIError:
    """Return the answer of the administration of keys where there are none."""
    return APIError(
        "This gateway has no keys to administer: write 'auth: {}' into its configuration, make the first key with "
        "`llmrouter keys create --admin`, and start it anew.",
        status=404,
        code="auth_disabled",
    )
