"""The corpus of upstream behaviours, and what plays it: byte for byte, over a real socket.

A file of ``corpus/`` is a list of exchanges. Each has

- ``name`` and ``why``: what it is, and where such a thing is seen;
- ``status`` (200), ``headers`` (pairs) and ``framing``: ``chunked``, ``length`` (right), ``close`` (HTTP/1.0) or
  ``none`` (the headers say it all);
- ``pieces``: what is sent, in order. A string is UTF-8 text; ``{"event": ...}`` an event with one line of JSON,
  ``{"text": ...}`` and ``{"json": ...}`` text and JSON alone, ``{"base64": ...}`` bytes, ``{"repeat": [text, times]}``
  a long text, ``{"pause_s": ...}`` a wait, ``{"gzip": [...]}`` pieces compressed together. ``"hidden": true`` marks
  what the client sees only where it asks for the usage, ``"dropped": true`` what it never sees;
- ``split``: the bytes are cut anew, into that many at a time;
- ``end``: ``complete``, ``close`` (in the middle of the body) or ``reset``;
- ``expect``: what becomes of it, see `Expected`.
"""

from __future__ import annotations

import base64
import gzip
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contracts.misbehaving_upstream import Exchange

FOLDER = Path(__file__).parent / "corpus"


@dataclass(frozen=True)
class Expected:
    """What becomes of an exchange.

    Attributes
    ----------
    status : int
        HTTP status that the client gets.
    body : str
        ``same`` (the upstream's own bytes), ``ours`` (an error in OpenAI's shape), ``data`` (the JSON of the upstream's
        first event), ``error`` (the upstream's error in OpenAI's shape), or ``same then error`` (of a stream: its
        bytes, an error event, and no ``[DONE]``).
    code : str, int or None
        Of the error, wherever it is; None is not looked at.
    text : str
        What the model said, for clients of any dialect.
    calls : list of [str, object]
        Functions that it called, with their arguments.
    unreadable : bool
        Whether it cannot be translated into another dialect.
    chokes : bool
        Whether the official client cannot read the upstream's own bytes either.
    ends : str
        How a stream ends for a client of another dialect: ``well`` or ``error``.
    outcome : str
        Status in the log.
    tokens : tuple of int or None
        (input, output) in the log.
    told : tuple of int or None
        (input, output) that a client of another dialect is told; None is what the log says, 0 for unknown.
    cost_usd : float or None
        In the log.
    headers : dict of str to str or None
        Of the answer; None for one that is not to be there.
    """

    status: int = 200
    body: str = "same"
    code: Any = None
    text: str = ""
    calls: list[list[Any]] = field(default_factory=list)
    unreadable: bool = False
    chokes: bool = False
    ends: str = "well"
    outcome: str = "ok"
    tokens: tuple[int | None, int | None] = (12, 5)
    told: tuple[int, int] | None = None
    cost_usd: float | None = 22e-6
    headers: dict[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Recorded:
    """One exchange of the corpus."""

    name: str
    why: str
    stream: bool
    endpoint: str
    status: int
    headers: tuple[tuple[str, str], ...]
    framing: str
    steps: tuple[bytes | float, ...]
    end: str
    sent: bytes
    shown: bytes
    expect: Expected

    @property
    def has_hidden(self) -> bool:
        return self.sent != self.shown

    async def play(self, exchange: Exchange) -> None:
        """Answer as recorded."""
        lines = [f"HTTP/1.{0 if self.framing == 'close' else 1} {self.status} Recorded"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        wire = b"".join(step for step in self.steps if isinstance(step, bytes))
        if self.framing == "chunked":
            lines.append("transfer-encoding: chunked")
        elif self.framing == "length":
            lines.append(f"content-length: {len(wire)}")
        exchange.writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
        for step in self.steps:
            if isinstance(step, float):
                await exchange.writer.drain()
                await exchange.pause(step)
            elif self.framing == "chunked":
                await exchange.chunks([step], end=False)
            else:
                exchange.writer.write(step)
                await exchange.writer.drain()
        if self.end == "reset":
            await exchange.pause(0.05)  # a reset throws away what the other side has not read yet
            exchange.reset()
        elif self.end == "complete" and self.framing == "chunked":
            exchange.writer.write(b"0\r\n\r\n")
            await exchange.writer.drain()
        if self.end == "close" or self.framing == "close":
            raise ConnectionError


def load(name: str) -> list[Recorded]:
    """Return the exchanges of one file."""
    exchanges = []
    for entry in json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")):
        statuses = entry.pop("each_status", None)
        if statuses is None:
            exchanges.append(_recorded(entry))
            continue
        for status in statuses:
            expect = {"status": status, **entry["expect"]}
            exchanges.append(
                _recorded({**entry, "name": f"{entry['name']}_{status}", "status": status, "expect": expect})
            )
    return exchanges


def _recorded(entry: dict[str, Any]) -> Recorded:
    steps: list[bytes | float] = []
    sent, shown = b"", b""
    for piece in entry.get("pieces", ()):
        if isinstance(piece, dict) and "pause_s" in piece:
            steps.append(float(piece["pause_s"]))
            continue
        wire, plain = _bytes_of(piece)
        steps.append(wire)
        marks = piece if isinstance(piece, dict) else {}
        if not marks.get("dropped"):
            sent += plain
            if not marks.get("hidden"):
                shown += plain
    if size := entry.get("split"):
        wire = b"".join(step for step in steps if isinstance(step, bytes))
        steps = []
        for start in range(0, len(wire), size):
            steps += [wire[start : start + size], 0.0003]
    given = dict(entry.get("expect", {}))
    for name in ("tokens", "told"):
        if name in given:
            given[name] = tuple(given[name])
    if isinstance(given.get("text"), list):
        given["text"] = b"".join(_bytes_of(piece)[1] for piece in given["text"]).decode()
    return Recorded(
        name=entry["name"],
        why=entry["why"],
        stream=entry["stream"],
        endpoint=entry.get("endpoint", "chat"),
        status=entry.get("status", 200),
        headers=tuple((name, value) for name, value in entry["headers"]),
        framing=entry.get("framing", "chunked"),
        steps=tuple(steps),
        end=entry.get("end", "complete"),
        sent=sent,
        shown=shown,
        expect=Expected(**given),
    )


def _bytes_of(piece: Any) -> tuple[bytes, bytes]:
    """Return (bytes on the wire, bytes before they were compressed)."""
    if isinstance(piece, str):
        plain = piece.encode()
    elif "event" in piece:
        newline = piece.get("newline", "\n")
        plain = f"data: {json.dumps(piece['event'], ensure_ascii=False)}{newline}{newline}".encode()
    elif "text" in piece:
        plain = piece["text"].encode()
    elif "json" in piece:
        plain = json.dumps(piece["json"], ensure_ascii=False, indent=piece.get("indent")).encode()
    elif "base64" in piece:
        plain = base64.b64decode(piece["base64"])
    elif "repeat" in piece:
        text, times = piece["repeat"]
        plain = text.encode() * times
    else:
        plain = b"".join(_bytes_of(inner)[1] for inner in piece["gzip"])
        return gzip.compress(plain, mtime=0), plain
    return plain, plain
