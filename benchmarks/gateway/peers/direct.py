"""No gateway: the load generator asks the upstream itself."""

from __future__ import annotations

from benchmarks.gateway.answers import MODEL
from benchmarks.gateway.peers._base import PeerPlace, RunningPeer


class Direct:
    """The upstream alone, what everything else is compared with."""

    name = "direct"
    description = "no gateway"

    def start(self, place: PeerPlace) -> RunningPeer:
        """Return the upstream."""
        return RunningPeer(port=place.upstream_port, model=MODEL, process=None, version="")
