"""What is compared, one module a peer."""

from __future__ import annotations

from benchmarks.gateway.peers._base import Peer, PeerAbsentError, PeerPlace, RunningPeer
from benchmarks.gateway.peers.bare import Bare
from benchmarks.gateway.peers.direct import Direct
from benchmarks.gateway.peers.litellm import LiteLLM
from benchmarks.gateway.peers.llmrouter import LLMRouter
from benchmarks.gateway.peers.nginx import Nginx
from benchmarks.gateway.peers.portkey import Portkey

PEERS: tuple[Peer, ...] = (
    Direct(),
    Nginx(),
    Bare(),
    LLMRouter("llmrouter-fixed", routed=False),
    LLMRouter("llmrouter", routed=True),
    Portkey(),
    LiteLLM("litellm", routed=False),
    LiteLLM("litellm-router", routed=True),
)
"""In the order of the tables."""

__all__ = ["PEERS", "Peer", "PeerAbsentError", "PeerPlace", "RunningPeer"]
