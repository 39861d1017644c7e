"""The service tests' live gateways and their scripted upstream, for this folder too."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from contracts.misbehaving_upstream import MisbehavingUpstream

sys.path.append(str(Path(__file__).parent.parent / "service"))

from known_gaps import GAPS
from live_gateway import Live

from tests.service.conftest import Gateways


@pytest.fixture(scope="session")
def conformance_gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateways]:
    with MisbehavingUpstream() as upstream, ExitStack() as stack:
        yield Gateways(upstream, stack, tmp_path_factory)


@pytest.fixture
def upstream(conformance_gateways: Gateways) -> MisbehavingUpstream:
    """Return the upstream of all gateways; it has been asked nothing yet, and misbehaves in no way."""
    conformance_gateways.upstream.renew()
    return conformance_gateways.upstream


@pytest.fixture
def live(conformance_gateways: Gateways, upstream: MisbehavingUpstream) -> Callable[..., Live]:
    """Return a function that gives a gateway over the named models of `upstream`."""
    return conformance_gateways.start


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Expect the known gaps to fail."""
    for item in items:
        if Path(item.path).parent == Path(__file__).parent:
            for pattern, reason in GAPS.items():
                if re.search(pattern, item.nodeid):
                    item.add_marker(pytest.mark.xfail(strict=True, reason=reason))
