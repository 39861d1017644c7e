"""Refused keys, counted by client address in bounded memory."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Sequence
from typing import Any

_WINDOW_S = 60.0
_MOST_CLIENTS = 10_000
# Whoever has one address of such a network usually has them all.
_IPV6_PREFIX = 64
_FORWARDED = b"x-forwarded-for"


class FailureCounter:
    """Count refused keys a minute.

    Parameters
    ----------
    limit : int
        As many are let through; 0 sets no limit.
    clock : callable
        Seconds, monotonic.
    most_clients : int
        As many are remembered, the ones with the oldest windows forgotten first.
    """

    def __init__(self, limit: int, *, clock: Callable[[], float], most_clients: int = _MOST_CLIENTS) -> None:
        self.limit = limit
        self.most_clients = most_clients
        self._clock = clock
        # client -> [end of its window, failures in it]; windows are equally long, so the first one ends first.
        self._windows: dict[str, list[float]] = {}

    def failed(self, client: str) -> None:
        """Count a refused key."""
        if not self.limit:
            return
        now = self._clock()
        window = self._windows.get(client)
        if window is not None and now < window[0]:
            window[1] += 1
            return
        self._windows.pop(client, None)
        if len(self._windows) >= self.most_clients:
            del self._windows[next(iter(self._windows))]
        self._windows[client] = [now + _WINDOW_S, 1]

    def wait_s(self, client: str) -> float:
        """Return how long a client has to wait until another key of its will be looked up; 0 while it need not."""
        window = self._windows.get(client)
        if window is None or window[1] < self.limit:
            return 0.0
        return max(window[0] - self._clock(), 0.0)

    def __len__(self) -> int:
        """Return how many clients are remembered."""
        return len(self._windows)


class ClientAddress:
    """Tell clients apart.

    Parameters
    ----------
    trusted_proxies : sequence of str
        Addresses or networks whose ``x-forwarded-for`` is believed.
    """

    def __init__(self, trusted_proxies: Sequence[str] = ()) -> None:
        self._trusted = [ipaddress.ip_network(network) for network in trusted_proxies]

    def of(self, scope: Any) -> str:
        """Return the client of an ASGI scope: its address, or the network of an IPv6 address."""
        peer = (scope.get("client") or ("unknown",))[0]
        if not self._trusted or not self._is_trusted(peer):
            return _client(peer)
        # The last entry was written by the nearest proxy; the client may have written those before its own.
        for hop in reversed(_forwarded(scope.get("headers", ()))):
            if not self._is_trusted(hop):
                return _client(hop)
        return _client(peer)

    def _is_trusted(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._trusted)


def _client(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return "unknown"
    if parsed.version == 4:
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((int(parsed), _IPV6_PREFIX), strict=False))


def _forwarded(headers: Iterable[tuple[bytes, bytes]]) -> list[str]:
    hops = b",".join(value for name, value in headers if name == _FORWARDED).decode("latin-1").split(",")
    return [hop.strip() for hop in hops if hop.strip()]
