"""A worker as `service.workers` starts them, as small as that allows: it answers every request with a line on itself.

``GET /slow`` takes half a second. ``FAIL_FILE``: while that file exists, the worker ends with status 3 at its start.
``HANGUPS_FILE`` gets a line for every SIGHUP. ``STUBBORN``: the worker does not end on SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from pathlib import Path

import uvicorn

ABOUT = ("LLMROUTER_WORKER", "PROMETHEUS_MULTIPROC_DIR")


async def app(scope, receive, send) -> None:
    if scope["path"] == "/slow":
        await asyncio.sleep(0.5)
    body = json.dumps({"pid": os.getpid(), **{name: os.environ.get(name) for name in ABOUT}}).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Server(uvicorn.Server):
    def __init__(self, ready: int) -> None:
        super().__init__(uvicorn.Config(app, loop="uvloop", lifespan="off", log_level="error"))
        self._ready = ready

    async def startup(self, sockets=None) -> None:
        await super().startup(sockets)
        os.write(self._ready, b"ready\n")
        os.close(self._ready)

    def handle_exit(self, sig, frame) -> None:
        if "STUBBORN" not in os.environ:
            super().handle_exit(sig, frame)

    def capture_signals(self):
        signal.signal(signal.SIGTERM, self.handle_exit)
        return contextlib.nullcontext()


def on_hangup(*_: object) -> None:
    with Path(os.environ["HANGUPS_FILE"]).open("a") as file:
        file.write(f"{os.getpid()}\n")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--listener", type=int, required=True)
    parser.add_argument("--ready", type=int, required=True)
    options, _ = parser.parse_known_args()
    if "FAIL_FILE" in os.environ and Path(os.environ["FAIL_FILE"]).exists():
        return 3
    if "HANGUPS_FILE" in os.environ:
        signal.signal(signal.SIGHUP, on_hangup)
    Server(options.ready).run(sockets=[socket.socket(fileno=options.listener)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
