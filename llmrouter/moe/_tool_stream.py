"""From the text of an answer to its content and its tool calls, piece by piece."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from llmrouter.moe._tools import CallFormat, ToolCall, ToolCallDelta, read_calls

Pieces = tuple[str, tuple[ToolCallDelta, ...]]

_FORCED = re.compile(r'\{"name": "([^"]*)", "arguments": ')


class ForcedCall:
    """Reads the one call that a grammar forces; its arguments are passed on as they come."""

    def __init__(self, form: CallFormat) -> None:
        self._form = form
        self._text = ""
        self._sent: int | None = None  # characters passed on, once the name is known
        self._call: ToolCall | None = None
        self.finished = False

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """What was called so far."""
        return () if self._call is None else (self._call,)

    def push(self, text: str) -> Pieces:
        """Take more text of the answer."""
        self._text += text
        return self._read(self._text[:-1])  # the last character may be the brace that closes the call

    def finish(self) -> Pieces:
        """Take note that the answer has ended."""
        return self._read(self._text[:-1] if self._whole() else self._text)

    def _whole(self) -> bool:
        try:
            json.loads(self._text)
        except ValueError:
            return False
        except RecursionError:  # nested deeper than Python reads; braces count all the same
            return self._text.count("{") == self._text.count("}")
        return True

    def _read(self, text: str) -> Pieces:
        id_ = name = None
        if self._sent is None:
            opening = _FORCED.match(text)
            if opening is None:
                return "", ()
            id_, name = self._form.call_id(), opening.group(1)
            self._call, self._sent = ToolCall(id_, name, ""), opening.end()
        arguments, self._sent = text[self._sent :], max(self._sent, len(text))
        assert self._call is not None  # noqa: S101 -- made with `_sent`
        self._call = ToolCall(self._call.id, self._call.name, self._call.arguments + arguments)
        return "", (ToolCallDelta(0, arguments, id_, name),) if arguments or name else ()


class OfferedCalls:
    """Finds calls in an answer that may have some; each is passed on when it is whole.

    What looks like a call and is none, or one of a tool that was not offered, stays text.

    Parameters
    ----------
    form : CallFormat
        How the model writes calls.
    names : iterable of str
        Tools that it was offered.
    parallel : bool
        Whether an answer may have more than one call.
    """

    def __init__(self, form: CallFormat, names: Iterable[str], *, parallel: bool) -> None:
        self._form = form
        self._names = frozenset(names)
        self._parallel = parallel
        self._held = ""
        self._inside = False
        self._calls: list[ToolCall] = []
        self._plain_text = False  # the answer does not begin like a call of the plain form

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """What was called so far."""
        return tuple(self._calls)

    @property
    def finished(self) -> bool:
        """Whether the answer has all the calls that it may have."""
        return bool(self._calls) and not self._parallel

    def push(self, text: str) -> Pieces:
        """Take more text of the answer."""
        self._held += text
        if not self._form.opening:
            return self._push_plain()
        content, deltas = "", list[ToolCallDelta]()
        while True:
            if not self._inside:
                place = self._held.find(self._form.opening)
                if place < 0:
                    free = len(self._held) - self._may_open()
                    content, self._held = content + self._held[:free], self._held[free:]
                    return content, tuple(deltas)
                content += self._held[:place] if self._held[:place].strip() else ""
                self._held, self._inside = self._held[place:], True
            end = self._held.find(self._form.closing) if self._form.closing else -1
            if end < 0:
                return content, tuple(deltas)
            inner = self._held[len(self._form.opening) : end]
            whole = self._held[: end + len(self._form.closing)]
            self._held, self._inside = self._held[len(whole) :], False
            new = self._take(inner)
            content += "" if new else whole
            deltas += new
            if self.finished:
                self._held = ""
                return content, tuple(deltas)

    def finish(self) -> Pieces:
        """Take note that the answer has ended."""
        text, self._held = self._held, ""
        if self._inside or (not self._form.opening and not self._plain_text):
            new = self._take(text[len(self._form.opening) :])
            return ("", tuple(new)) if new else (text, ())
        return ("" if self._calls and not text.strip() else text), ()

    def _push_plain(self) -> Pieces:
        begun = self._held.lstrip()
        if not self._plain_text and (not begun or begun[0] in "{["):
            return "", ()
        self._plain_text = True
        text, self._held = self._held, ""
        return text, ()

    def _take(self, text: str) -> list[ToolCallDelta]:
        deltas: list[ToolCallDelta] = []
        for name, arguments in read_calls(text, self._names) or []:
            if self.finished:
                break
            call = ToolCall(self._form.call_id(), name, arguments)
            deltas.append(ToolCallDelta(len(self._calls), arguments, call.id, name))
            self._calls.append(call)
        return deltas

    def _may_open(self) -> int:
        """Return how many of the last characters may belong to an opening marker, blanks before it included."""
        opening = self._form.opening
        longest = min(len(opening) - 1, len(self._held))
        size = next((size for size in range(longest, 0, -1) if opening.startswith(self._held[-size:])), 0)
        before = self._held[: len(self._held) - size]
        return size + len(before) - len(before.rstrip())
