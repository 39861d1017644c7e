"""A live gateway with keys on, and a listener that nobody is to reach."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any

import httpx
from live_gateway import Live

from service.keys.manager import KeyManager
from service.keys.sqlite_store import SQLiteKeyStore

UPSTREAM_KEY = "sk-upstream-secret-0123456789"
UPSTREAM_HEADER = "another-upstream-secret-456"
PROMPT = "the prompt that must not leak"
CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": PROMPT}]

# Every endpoint that calls a model, with a body for it.
GENERATING: dict[str, dict[str, Any]] = {
    CHAT: {"model": "alpha", "messages": HELLO},
    "/v1/completions": {"model": "alpha", "prompt": PROMPT},
    "/v1/responses": {"model": "alpha", "input": PROMPT},
    "/v1/messages": {"model": "alpha", "messages": HELLO, "max_tokens": 5},
}


class Keyed:
    """A gateway with keys, and a way to ask it with each."""

    def __init__(self, live: Live) -> None:
        self.live = live
        self.tokens: dict[str, str] = {}

    def make(self, name: str, **wanted: Any) -> str:
        """Return a token with this name, making it on the first call."""
        if name not in self.tokens:
            body = {"name": name, **wanted}
            answer = self.ask("POST", "/admin/keys", key="admin", json=body)
            assert answer.status_code == 201, answer.text
            self.tokens[name] = answer.json()["token"]
        return self.tokens[name]

    def ask(self, method: str, path: str, *, key: str | None = "plain", **options: Any) -> httpx.Response:
        headers = dict(options.pop("headers", {}))
        if key is not None:
            headers["authorization"] = f"Bearer {self.tokens[key]}"
        return self.live.client.request(method, path, headers=headers, **options)


_admin: dict[str, str] = {}


def admin_token(key_file: str) -> str:
    """Make the first key as a user does, beside the running gateway."""
    if key_file not in _admin:

        async def make() -> str:
            keys = KeyManager(SQLiteKeyStore(key_file))
            _, token = await keys.create({"name": "boss", "scopes": ["admin"]})
            await keys.aclose()
            return token

        _admin[key_file] = asyncio.run(make())
    return _admin[key_file]


def error_of(answer: httpx.Response, status: int, code: str | None) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert error["code"] == code
    return error


class Canary:
    """A listener that nobody is to reach."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.visits = 0
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.visits += 1
            connection.close()

    def close(self) -> None:
        # Without the first, the thread would go on waiting.
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5)
