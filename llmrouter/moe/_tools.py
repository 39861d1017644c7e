"""Tools that a model may call: what is offered, what was called, and how a model writes a call."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llmrouter.exceptions import GenerationRequestError

ToolChoice = Literal["none", "auto", "required"]

MAX_TOOLS = 128
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call.

    Attributes
    ----------
    name : str
        1 to 64 letters, digits, ``_`` and ``-``.
    description : str, optional
        For the model.
    parameters : mapping, optional
        JSON schema of the arguments, an object; None: the function takes none.
    strict : bool
        In a forced call: refuse schemas that cannot be enforced whole, instead of ignoring the keywords in question.

    Raises
    ------
    GenerationRequestError
        If the name is malformed.
    """

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise GenerationRequestError(
                f"the name of a tool is {self.name!r}; it must be 1 to 64 letters, digits, _ and -", param="tools"
            )

    def definition(self) -> dict[str, Any]:
        """Return it in the form that chat templates take."""
        function: dict[str, Any] = {"name": self.name, "description": self.description or ""}
        function["parameters"] = self.parameters or {"type": "object", "properties": {}}
        return {"type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model made; `arguments` is JSON, incomplete if the answer was cut off."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of call number `index`: id and name in its first piece only, `arguments` to be joined."""

    index: int
    arguments: str
    id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class CallFormat:
    """How a model writes calls: JSON between an opening and a closing marker, one call or a list in each.

    Both markers are empty for plain JSON, an answer that is nothing but calls.
    """

    opening: str = ""
    closing: str = ""
    listed: bool = False

    @property
    def primer(self) -> str:
        """What a prompt ends with so that the model goes on with a call."""
        if self.listed:
            return f"{self.opening} ["
        return f"{self.opening}\n" if self.opening else ""

    def call_id(self) -> str:
        """Return a new id; nine characters where calls are listed, as Mistral's templates check that."""
        return uuid.uuid4().hex[:9] if self.listed else f"call_{uuid.uuid4().hex[:24]}"


PLAIN = CallFormat()


def format_of(template: str) -> CallFormat | None:
    """Return the format in which a chat template wants calls, or None if it has one that is not JSON."""
    if "<tool_call>" in template and "<arg_key>" not in template and "<function=" not in template:
        return CallFormat("<tool_call>", "</tool_call>")
    if "[TOOL_CALLS]" in template and "[ARGS]" not in template:
        return CallFormat("[TOOL_CALLS]", "", listed=True)
    if not takes_tools(template):
        return PLAIN
    # Templates such as Llama 3.1's ask for a bare object.
    return PLAIN if re.search(r'\\?"name\\?"\s*:', template) and "<tool_call>" not in template else None


def takes_tools(template: str) -> bool:
    """Whether a chat template renders the tools that it is given."""
    return re.search(r"\btools\b", template) is not None


def takes_calls(template: str) -> bool:
    """Whether a chat template renders calls and their results."""
    return re.search(r"\btool_calls\b", template) is not None


def described(tools: Sequence[Tool]) -> str:
    """Return a system message that offers `tools`, for templates that have no place for them."""
    lines = [json.dumps(tool.definition()["function"], ensure_ascii=False) for tool in tools]
    return "\n".join([
        "You can call these functions, given as JSON with a schema of their parameters:",
        *lines,
        'To call one, answer with nothing but {"name": "<function>", "arguments": {<arguments>}}.',
    ])  # fmt: skip


def check_tools(tools: Sequence[Tool], choice: ToolChoice, forced: str | None) -> None:
    """Raise GenerationRequestError if tools and choice do not go together."""
    names = [tool.name for tool in tools]
    if len(names) > MAX_TOOLS:
        raise GenerationRequestError(f"tools has {len(names)} entries; give at most {MAX_TOOLS}", param="tools")
    for name in names:
        if names.count(name) > 1:
            raise GenerationRequestError(f"tools has {name!r} twice; give each function its own name", param="tools")
    if not tools and (choice == "required" or forced is not None):
        raise GenerationRequestError("tool_choice asks for a call, but tools is empty; give tools", param="tool_choice")
    if forced is not None and forced not in names:
        raise GenerationRequestError(
            f"tool_choice names {forced!r}, which is not among the tools ({', '.join(names)})", param="tool_choice"
        )


def read_calls(text: str, names: frozenset[str]) -> list[tuple[str, str]] | None:
    """Return (name, arguments as JSON) of the calls that `text` consists of, or None if it is anything else.

    Takes one object, a list of objects, or objects one after another; the arguments may stand under ``parameters``.
    """
    try:
        return _read_calls(text, names)
    except RecursionError:  # nested deeper than Python reads
        return None


def _read_calls(text: str, names: frozenset[str]) -> list[tuple[str, str]] | None:
    decoder, place, found = json.JSONDecoder(), 0, []
    text = text.strip()
    while place < len(text):
        try:
            value, place = decoder.raw_decode(text, place)
        except ValueError:
            return None
        for entry in value if isinstance(value, list) else [value]:
            call = _read_call(entry, names)
            if call is None:
                return None
            found.append(call)
        while place < len(text) and text[place] in " \n\r\t;,":
            place += 1
    return found or None


def _read_call(entry: Any, names: frozenset[str]) -> tuple[str, str] | None:
    if not isinstance(entry, dict) or entry.get("name") not in names:
        return None
    arguments = entry.get("arguments", entry.get("parameters", {}))
    if isinstance(arguments, str):  # some models write the arguments as JSON in a string, as the API has them
        try:
            arguments = json.loads(arguments)
        except ValueError:
            return None
    if not isinstance(arguments, dict):
        return None
    return entry["name"], json.dumps(arguments, ensure_ascii=False)
