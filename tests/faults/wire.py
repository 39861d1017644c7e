"""Raw bytes to a gateway, and what comes back."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass

import httpx

PATH = b"/v1/chat/completions"
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


@dataclass(frozen=True)
class Reply:
    """What a connection brought.

    Attributes
    ----------
    data : bytes
        All of it.
    closed : bool
        Whether the gateway closed the connection, rather than the patience ending.
    seconds : float
        Until then.
    """

    data: bytes
    closed: bool
    seconds: float

    @property
    def statuses(self) -> list[int]:
        """The status lines in it."""
        return [int(code) for code in _STATUS.findall(self.data)]


def body_of(text: str = "x", *, model: str = "alpha", stream: bool = False) -> bytes:
    """Return the body of a chat request."""
    body = {"model": model, "messages": [{"role": "user", "content": text}], "stream": stream}
    return json.dumps(body).encode()


def request(
    body: bytes | None = None,
    *lines: bytes,
    line: bytes = b"POST " + PATH + b" HTTP/1.1",
    length: bytes | None = b"",
) -> bytes:
    """Return a request; `length` is what it says of its body, None leaves that out, b"" is the truth."""
    body = body_of() if body is None else body
    head = [line, b"host: gateway", b"content-type: application/json", *lines]
    if length is not None:
        head.append(b"content-length: " + (length or b"%d" % len(body)))
    return b"\r\n".join([*head, b"", body])


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    """Return a request with its body in chunks."""
    sizes = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return request(b"", b"transfer-encoding: chunked", length=None) + sizes + end


def connect(url: str, *, patience_s: float = 10.0, receive_buffer: int | None = None) -> socket.socket:
    """Return a connection to a gateway."""
    address = httpx.URL(url)
    connection = socket.socket()
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(patience_s)
    connection.connect((address.host, address.port or 80))
    return connection


def send(url: str, *pieces: bytes, pause_s: float = 0.02, patience_s: float = 0.6) -> Reply:
    """Send pieces over a connection of its own, and return what comes until it is closed or quiet."""
    with connect(url, patience_s=patience_s) as connection:
        began = time.monotonic()
        try:
            for i, piece in enumerate(pieces):
                if i:
                    time.sleep(pause_s)
                connection.sendall(piece)
        except OSError:
            pass  # what was answered before can be read all the same
        return read(connection, began=began)


def read(connection: socket.socket, *, began: float | None = None) -> Reply:
    """Read until the connection is closed or its patience ends."""
    began = time.monotonic() if began is None else began
    data = b""
    closed = True
    try:
        while piece := connection.recv(65536):
            data += piece
    except TimeoutError:
        closed = False
    except OSError:
        pass
    return Reply(data, closed, time.monotonic() - began)


def send_until_cut(connection: socket.socket, pieces: Iterable[bytes], *, most_s: float) -> tuple[int, float]:
    """Send pieces until the gateway cuts the connection; return how many bytes went out, and the seconds it took."""
    sent, began = 0, time.monotonic()
    try:
        for piece in pieces:
            connection.sendall(piece)
            sent += len(piece)
            if time.monotonic() - began > most_s:
                break
    except OSError:
        pass
    return sent, time.monotonic() - began
