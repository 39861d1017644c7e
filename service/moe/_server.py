"""Run the application under uvicorn: the port is taken first, readiness is announced, signals end it cleanly."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Sequence
from types import FrameType

import uvicorn
from fastapi import FastAPI

from llmrouter.exceptions import ConfigError
from llmrouter.moe import Engine

MAX_PORT = 65535
DRAIN_S = 3.0  # how long completions may go on after a signal, before they are ended with an error


def bind(host: str, port: int) -> socket.socket:
    """Return a socket bound to `host` and `port` (0: a free one), before anything slow is loaded.

    Raises
    ------
    ConfigError
        If the address cannot be bound, e.g. as the port is busy.
    """
    if not 0 <= port <= MAX_PORT:
        raise ConfigError(f"--port {port}: it must be from 0 (a free one) to {MAX_PORT}")
    try:
        (family, kind, protocol, _, address), *_ = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another with --host and --port"
        ) from error
    return listener


def exit_on_signals() -> None:
    """Make SIGINT and SIGTERM end the process with exit code 0, also while models are loading.

    Uvicorn replaces these handlers while it serves and raises the signal again for them when it is done.
    """

    def leave(_: int, __: FrameType | None) -> None:
        sys.exit(0)

    signal.signal(signal.SIGINT, leave)
    signal.signal(signal.SIGTERM, leave)


def serve(app: FastAPI, listener: socket.socket, *, engines: Sequence[Engine], ready: str) -> None:
    """Serve `app` on `listener` until a signal comes; print the line `ready` once connections are taken."""
    config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False)
    _Server(config, engines=engines, ready=ready).run(sockets=[listener])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, *, engines: Sequence[Engine], ready: str) -> None:
        super().__init__(config)
        self._engines = engines
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            print(self._ready, flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Uvicorn waits for open requests without end; stopping the engines ends them properly.
        drained = asyncio.ensure_future(self._stop_engines_later())
        await super().shutdown(sockets=sockets)
        drained.cancel()

    async def _stop_engines_later(self) -> None:
        await asyncio.sleep(DRAIN_S)
        for engine in self._engines:
            await asyncio.to_thread(engine.stop)
