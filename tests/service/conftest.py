"""Live gateways on loopback in front of an upstream that misbehaves on demand.

Starting a gateway takes a few tenths of a second, so tests that want the same one share it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from contracts.misbehaving_upstream import MisbehavingUpstream
from live_gateway import Live, start_gateway, well_behaved


class Gateways:
    """Running gateways by what they were started with."""

    def __init__(self, upstream: MisbehavingUpstream, stack: ExitStack, folders: pytest.TempPathFactory) -> None:
        self.upstream = upstream
        self._stack = stack
        self._folders = folders
        self._running: dict[str, Live] = {}

    def start(self, *names: str, **options: Any) -> Live:
        """Return a gateway over these models, as good as new."""
        key = json.dumps([names, options], sort_keys=True)
        if key not in self._running:
            folder = self._folders.mktemp("gateway")
            self._running[key] = start_gateway(self._stack, self.upstream, folder, *names, **options)
        gateway = self._running[key]
        gateway.renew()
        for name in gateway.gateway.pool:
            self.upstream.behaviours.setdefault(name, well_behaved)
        return gateway


@pytest.fixture(scope="session")
def _gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateways]:
    with MisbehavingUpstream() as upstream, ExitStack() as stack:
        yield Gateways(upstream, stack, tmp_path_factory)


@pytest.fixture
def upstream(_gateways: Gateways) -> MisbehavingUpstream:
    """Return the upstream of all gateways; it has been asked nothing yet, and misbehaves in no way."""
    _gateways.upstream.renew()
    return _gateways.upstream


@pytest.fixture
def live(_gateways: Gateways, upstream: MisbehavingUpstream) -> Callable[..., Live]:
    """Return a function that gives a gateway over the named models of `upstream`."""
    return _gateways.start
