"""The section ``auth`` of the configuration."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from pydantic import AfterValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat

from service.section import Section

SQLITE_SCHEME = "sqlite:///"
REDIS = "redis"


def _check_store(store: str) -> str:
    path = store.removeprefix(SQLITE_SCHEME)
    if store != REDIS and path in (store, "", ":memory:"):
        raise ValueError(
            "must be sqlite:///FILE (sqlite:////FILE for an absolute path) or redis, which takes the section 'redis'"
        )
    return store


def _check_network(network: str) -> str:
    try:
        ipaddress.ip_network(network)
    except ValueError:
        # Not in the parser's words: they quote the value, which may come from a variable meant for something else.
        raise ValueError("must be an address or a network such as 10.0.0.0/8") from None
    return network


class AuthSettings(Section):
    """Virtual keys. ``auth: {}`` asks every client for one; without the section there are none.

    Attributes
    ----------
    store : str
        ``sqlite:///keys.db``, shared by the workers of one machine, or ``redis``, shared by all replicas.
    required : bool
        Whether a request without a key is refused. False lets it in with a new key's scopes, but not to metrics and
        administration.
    cache_s : float
        A key that was looked up is trusted for that many seconds, so a revocation reaches every worker within them.
    stale_s : float
        While the store cannot be reached, a key that was looked up before is trusted for that many seconds.
    failures_per_minute : int
        After so many refused keys in a minute, the keys that a client address presents are not looked up any more and
        it gets 429; 0 sets no limit. Keys known to the process are not affected.
    trusted_proxies : tuple of str
        Addresses or networks of proxies of yours: failures of requests through them count for the client named in
        ``x-forwarded-for``, not for the proxy.
    """

    store: Annotated[str, AfterValidator(_check_store)] = "sqlite:///keys.db"
    required: bool = True
    cache_s: Annotated[PositiveFloat, Field(le=3600)] = 30.0
    stale_s: NonNegativeFloat = 3600.0
    failures_per_minute: NonNegativeInt = 60
    trusted_proxies: tuple[Annotated[str, AfterValidator(_check_network)], ...] = ()
