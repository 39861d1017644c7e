"""The deltas of a chat completion as blocks that follow one another: reasoning, text, refusal, tool calls."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple

import orjson

from service.dialects._chat_answer import reasoning_of, text_of


class Kind(IntEnum):
    """What a block holds."""

    REASONING = 0
    TEXT = 1
    REFUSAL = 2
    TOOL = 3


class Action(IntEnum):
    """What happens to a block."""

    OPEN = 0
    PIECE = 1
    CLOSE = 2


@dataclass(slots=True)
class Block:
    """A run of pieces of one kind.

    Attributes
    ----------
    kind : Kind
        What it holds.
    index : int
        Its place in the answer, from 0; -1 until it is opened.
    call_id, name : str
        Of a tool call; "" where the upstream gave none.
    pieces : list of str
        Text, or the arguments of a tool call as JSON text.
    logprobs : list
        Log-probabilities of the text's tokens, as the upstream gave them.
    """

    kind: Kind
    index: int = -1
    call_id: str = ""
    name: str = ""
    pieces: list[str] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All pieces."""
        return "".join(self.pieces)


class Step(NamedTuple):
    """One thing that happens to one block; `piece` and `logprobs` are those of a piece."""

    action: Action
    block: Block
    piece: str = ""
    logprobs: list[Any] = []  # noqa: RUF012 - never changed


class BlockSequencer:
    """Put the deltas of one choice in sequence, one open block at a time.

    Deltas of parallel tool calls may come interleaved. Pieces of the open block go out as they come; those of other
    blocks wait until the arguments of the open call are a complete JSON object (or the stream ends), since its block
    cannot be opened again. Blocks of text can: they are closed as soon as something else comes.
    """

    def __init__(self) -> None:
        self._count = 0
        self._open: tuple[Hashable, Block] | None = None
        self._waiting: dict[Hashable, Block] = {}
        self._calls: dict[Hashable, Block] = {}
        self._call_keys: dict[int, Hashable] = {}
        self._last_call: Hashable = None

    def take(self, delta: Mapping[str, Any], logprobs: object = None) -> list[Step]:
        """Take one delta (or a whole message) and return what follows from it."""
        steps: list[Step] = []
        if reasoning := reasoning_of(delta):
            self._add(steps, Kind.REASONING, Kind.REASONING, reasoning)
        if text := text_of(delta.get("content")):
            self._add(steps, Kind.TEXT, Kind.TEXT, text, _tokens(logprobs))
        refusal = delta.get("refusal")
        if isinstance(refusal, str) and refusal:
            self._add(steps, Kind.REFUSAL, Kind.REFUSAL, refusal)
        calls = delta.get("tool_calls")
        if isinstance(calls, list):
            for call in calls:
                if isinstance(call, Mapping):
                    self._take_call(steps, call)
        return steps

    def close(self) -> list[Step]:
        """Return what is left: the open block is closed, and those that wait are opened and closed."""
        steps: list[Step] = []
        while self._waiting:
            self._switch(steps)
        if self._open is not None:
            steps.append(Step(Action.CLOSE, self._open[1]))
            self._open = None
        return steps

    def _take_call(self, steps: list[Step], call: Mapping[str, Any]) -> None:
        function = call.get("function")
        function = function if isinstance(function, Mapping) else {}
        call_id, name, arguments = call.get("id"), function.get("name"), function.get("arguments")
        call_id = call_id if isinstance(call_id, str) else ""
        name = name if isinstance(name, str) else ""
        if isinstance(arguments, Mapping):  # some upstreams send the object instead of its JSON text
            arguments = _as_json(arguments)
        key = self._key(call.get("index"), call_id)
        known = self._calls.get(key)
        if known is None:
            known = self._calls[key] = Block(Kind.TOOL, call_id=call_id, name=name)
        elif known.index < 0:
            known.call_id, known.name = known.call_id or call_id, known.name or name
        self._add(steps, key, Kind.TOOL, arguments if isinstance(arguments, str) else "")

    def _key(self, index: object, call_id: str) -> Hashable:
        """Return what tells one call from the others: index and id, either of which upstreams leave out or repeat."""
        if not isinstance(index, int):
            key: Hashable = call_id or self._last_call
        else:
            key = self._call_keys.get(index)
            known = self._calls.get(key)
            if known is None or (call_id and known.call_id and call_id != known.call_id):
                key = self._call_keys[index] = (index, call_id)
        self._last_call = key
        return key

    def _add(self, steps: list[Step], key: Hashable, kind: Kind, piece: str, logprobs: list[Any] | None = None) -> None:
        if self._open is not None and self._open[0] == key:
            block = self._open[1]
            block.pieces.append(piece)
            if logprobs:
                block.logprobs += logprobs
            if piece:
                steps.append(Step(Action.PIECE, block, piece, logprobs or []))
        else:
            waiting = self._waiting.get(key)
            if waiting is None:
                waiting = self._calls[key] if kind is Kind.TOOL else Block(kind)
                if waiting.index >= 0:
                    return  # a call whose arguments were complete: no more than white space can follow
                self._waiting[key] = waiting
            waiting.pieces.append(piece)
            if logprobs:
                waiting.logprobs += logprobs
        while self._waiting and self._may_switch():
            self._switch(steps)

    def _may_switch(self) -> bool:
        upcoming = next(iter(self._waiting.values()))
        if upcoming.kind is Kind.TOOL and not upcoming.name:
            return False
        if self._open is None or self._open[1].kind is not Kind.TOOL:
            return True
        return _is_object(self._open[1].text)

    def _switch(self, steps: list[Step]) -> None:
        """Close the open block and open the one that waits longest."""
        if self._open is not None:
            steps.append(Step(Action.CLOSE, self._open[1]))
        key = next(iter(self._waiting))
        block = self._waiting.pop(key)
        block.index = self._count
        self._count += 1
        self._open = (key, block)
        steps.append(Step(Action.OPEN, block))
        if text := block.text:
            steps.append(Step(Action.PIECE, block, text, list(block.logprobs)))


def whole_blocks(message: Mapping[str, Any], logprobs: object = None) -> list[Block]:
    """Return the blocks of a whole message."""
    calls = message.get("tool_calls")
    if isinstance(calls, list):
        # Whole messages do not number their calls.
        numbered = [{**call, "index": i} for i, call in enumerate(calls) if isinstance(call, Mapping)]
        message = {**message, "tool_calls": numbered}
    sequencer = BlockSequencer()
    steps = [*sequencer.take(message, logprobs), *sequencer.close()]
    return [step.block for step in steps if step.action is Action.CLOSE]


def _tokens(logprobs: object) -> list[Any]:
    content = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    return content if isinstance(content, list) else []


def _as_json(arguments: Mapping[str, Any]) -> str:
    try:
        return orjson.dumps(arguments).decode()
    except orjson.JSONEncodeError:  # nested more deeply than can be written
        return ""


def _is_object(text: str) -> bool:
    if not text.rstrip().endswith("}"):
        return False
    try:
        return isinstance(orjson.loads(text), dict)
    except orjson.JSONDecodeError:
        return False
