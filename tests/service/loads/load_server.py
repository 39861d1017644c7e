"""An engine's `/v1/load` on loopback, saying what a test wants it to say."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def entry(model: str, input_usd: float | None, output_usd: float | None, **changes: Any) -> dict[str, Any]:
    cost = [None if usd is None else {"usd_per_million": usd} for usd in (input_usd, output_usd)]
    return {
        "id": model,
        "seconds_per_input_token": 1e-4,
        "seconds_per_output_token": 0.02,
        "marginal": {"input": cost[0], "output": cost[1], "measured": True},
        "machine": {"usd_per_hour": 1.0},
        **changes,
    }


class LoadServer:
    """What it answers with, and what it was asked."""

    def __init__(self) -> None:
        self.document: Any = {"data": []}
        self.status = 200
        self.hold = threading.Event()  # set: answers at once
        self.hold.set()
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.url = ""

    def says(self, *entries: dict[str, Any]) -> None:
        self.document = {"object": "list", "data": list(entries)}
        self.status = 200


@contextmanager
def load_server() -> Iterator[LoadServer]:
    told = LoadServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            told.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            told.hold.wait(10)
            body = told.document if isinstance(told.document, bytes) else json.dumps(told.document).encode()
            self.send_response(told.status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            with suppress(BrokenPipeError, ConnectionResetError):  # who asked has given up
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    told.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield told
    finally:
        told.hold.set()
        server.shutdown()
        thread.join()
        server.server_close()
