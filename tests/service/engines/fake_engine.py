"""Engines as small as what `service.engines` asks of them: paths, and what each answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, Any]


def models(*names: str, owner: str, **more: Any) -> Answer:
    return 200, {"object": "list", "data": [{"id": n, "object": "model", "owned_by": owner, **more} for n in names]}


OK: Answer = (200, {"status": "ok"})
VLLM: Mapping[str, Answer] = {
    "/v1/models": models("Qwen/Qwen3-8B", owner="vllm", max_model_len=32768),
    "/health": (200, None),
    "/version": (200, {"version": "0.11.0"}),
}
SGLANG = {"/v1/models": models("qwen", owner="sglang", max_model_len=4096), "/health": (200, None)}
LLAMA_CPP = {"/v1/models": models("m.gguf", owner="llamacpp", meta={"n_ctx_train": 131072}), "/health": OK}
OLLAMA = {"/v1/models": models("llama3.2:latest", owner="library"), "/api/version": (200, {"version": "0.13.3"})}
TGI = {"/v1/models": models("org/m", owner="org/m"), "/health": (200, None), "/info": (200, {"version": "3.0.1"})}


@contextmanager
def engine(paths: Mapping[str, Answer]) -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """Yield the base URL and what is asked: paths, each with its authorization."""
    asked: list[tuple[str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers.get("authorization")))
            status, document = paths.get(self.path, (404, {"error": {"message": "no such path"}}))
            body = (
                document if isinstance(document, bytes) else b"" if document is None else json.dumps(document).encode()
            )
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
