"""What a key looks like: ``llmr-<id>-<secret>``."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import string

PREFIX = "llmr-"
ID_LENGTH = 12
SECRET_LENGTH = 43
"""Characters of 32 random bytes in URL-safe base64."""

ID = slice(len(PREFIX), len(PREFIX) + ID_LENGTH)
"""Where the id is in a token."""

_ALPHABET = string.digits + string.ascii_letters
_TOKEN = re.compile(rf"{PREFIX}([0-9A-Za-z]{{{ID_LENGTH}}})-[0-9A-Za-z_-]{{{SECRET_LENGTH}}}")
_ID = re.compile(rf"[0-9A-Za-z]{{{ID_LENGTH}}}")
_SECRET_BYTES = 32
_SHOWN = 4
# Of a shorter text four characters would be too large a share.
_SHORTEST_SHOWN = 16
_UNPRINTABLE = re.compile(r"[^0-9A-Za-z_-]")

# What is compared for an id that does not exist. No token has this digest, for none is known to have it.
NO_DIGEST = bytes(hashlib.sha256().digest_size)


def new_id() -> str:
    """Return the id of a new key: it names the key in lists, logs and outcomes, and is no secret."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(ID_LENGTH))


def new_token(key_id: str) -> str:
    """Return a new token for a key, with 256 random bits."""
    return f"{PREFIX}{key_id}-{secrets.token_urlsafe(_SECRET_BYTES)}"


def id_in(token: str) -> str | None:
    """Return the id in a token, or None if it is no token of ours."""
    match = _TOKEN.fullmatch(token)
    return match[1] if match else None


def is_id(text: str) -> bool:
    """Return whether `text` has the form of a key's id."""
    return _ID.fullmatch(text) is not None


def digest_of(token: str) -> bytes:
    """Return what is stored of a token.

    One round of SHA-256 is enough, as it would not be for a password: a slow hash makes guessing dear, and 256 random
    bits are not guessed however cheap a guess is.
    """
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()


def same(one: bytes, other: bytes) -> bool:
    """Compare two digests in a time that does not depend on where they differ."""
    return hmac.compare_digest(one, other)


def masked(token: str) -> str:
    """Return what may be shown of a token that a client sent: its last four characters."""
    if len(token) < _SHORTEST_SHOWN:
        return "****"
    return "****" + _UNPRINTABLE.sub("*", token[-_SHOWN:])
