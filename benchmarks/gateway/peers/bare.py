"""The bare pass-through."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

from benchmarks.gateway.answers import MODEL
from benchmarks.gateway.peers._base import PeerPlace, RunningPeer
from benchmarks.gateway.processes import ManagedProcess, free_port

_ROOT = Path(__file__).parents[3]


class Bare:
    """FastAPI + aiohttp + orjson, one uvicorn worker; see `benchmarks.gateway.peers.bare_app`."""

    name = "bare"
    description = "bare FastAPI + aiohttp + orjson pass-through, one uvicorn worker (uvloop, httptools)"

    def start(self, place: PeerPlace) -> RunningPeer:
        """Start it."""
        port = free_port()
        command = [sys.executable, "-m", "uvicorn", "benchmarks.gateway.peers.bare_app:app", "--port", str(port)]
        command += ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
        process = ManagedProcess(
            command,
            log=place.folder / "log.txt",
            core=place.core,
            environment={"BENCHMARK_UPSTREAM": place.upstream, "PYTHONPATH": str(_ROOT)},
            folder=place.folder,
        )
        process.wait_ready(f"http://127.0.0.1:{port}/healthz")
        versions = ", ".join(f"{name} {version(name)}" for name in ("fastapi", "aiohttp", "uvicorn"))
        return RunningPeer(port=port, model=MODEL, process=process, version=versions)
