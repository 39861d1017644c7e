"""The tokenizer as the engine needs it: render a chat, encode, decode, and the exact bytes of one token."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from llmrouter.exceptions import GenerationRequestError
from llmrouter.moe._tools import CallFormat, Tool, format_of, takes_calls, takes_tools
from llmrouter.moe._turns import turns_of, with_tools_described

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Vocabulary:
    """A Hugging Face tokenizer, safe to use from several threads.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase
        The tokenizer of the checkpoint. Its Rust core is called directly where there is one: the Python wrapper
        changes truncation settings on each call and so fails when two threads meet in it.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._core = getattr(tokenizer, "backend_tokenizer", None)
        self._lock = threading.Lock()
        self._special = frozenset(tokenizer.all_special_ids)
        added = self._core.get_added_tokens_decoder() if self._core is not None else {}
        self._hidden = self._special | {token for token, entry in added.items() if entry.special}
        self._byte_level = "ByteLevel" in str(getattr(self._core, "decoder", ""))
        self._token_texts: dict[int, str] = {}

    @property
    def has_chat_template(self) -> bool:
        """Whether the checkpoint says how a chat is rendered."""
        return bool(self._tokenizer.chat_template)

    @property
    def call_format(self) -> CallFormat:
        """How the model writes tool calls, by its chat template.

        Raises
        ------
        GenerationRequestError
            If the template wants a form that is not JSON.
        """
        form = format_of(self._template(with_tools=True))
        if form is None:
            raise GenerationRequestError(
                "this model's chat template writes tool calls in a form that this server does not read; "
                "leave tools out, or serve the model with vLLM or SGLang",
                param="tools",
            )
        return form

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Tool] = ()) -> str:
        """Return the prompt of a chat, up to where the assistant's answer begins.

        Tools go to the template where it takes them, else into a system message.

        Raises
        ------
        GenerationRequestError
            If a message is wrong, or the template refuses the chat.
        """
        from jinja2 import TemplateError

        if not self.has_chat_template:
            raise GenerationRequestError(
                "this model has no chat template, so it cannot take messages; "
                "use a chat checkpoint, or give the text as prompt",
                param="messages",
            )
        template = self._template(with_tools=bool(tools))
        turns = turns_of(messages, calls_as_text=not takes_calls(template))
        definitions = None
        if tools and takes_tools(template):
            definitions = [tool.definition() for tool in tools]
        elif tools:
            turns = with_tools_described(turns, tools)
        try:
            rendered = self._tokenizer.apply_chat_template(
                turns, tools=definitions, tokenize=False, add_generation_prompt=True
            )
        except (TemplateError, TypeError, ValueError, AttributeError, LookupError) as error:
            raise GenerationRequestError(
                f"the model's chat template refuses these messages: {error}", param="messages"
            ) from error
        return str(rendered)

    def _template(self, *, with_tools: bool) -> str:
        template = self._tokenizer.chat_template
        if isinstance(template, Mapping):  # several by name, as the tokenizer chooses among them
            name = "tool_use" if with_tools and "tool_use" in template else "default"
            template = template.get(name)
        return str(template or "")

    def special_tokens(self, *texts: str) -> frozenset[int]:
        """Return the ids of those of `texts` that are special tokens."""
        return frozenset(token for token in self._hidden if self._tokenizer.convert_ids_to_tokens(token) in texts)

    def core_json(self) -> str | None:
        """Return the content of a tokenizer.json, without padding and truncation, or None if there is no such form."""
        if self._core is None:
            return None
        content = json.loads(self._core.to_str())
        return json.dumps({**content, "padding": None, "truncation": None})

    def all_token_bytes(self) -> frozenset[bytes]:
        """Return `token_bytes` of all tokens that are text."""
        return frozenset(self.token_bytes(token) for token in range(len(self._tokenizer)) if token not in self._hidden)

    def encode(self, text: str, *, special_tokens: bool) -> list[int]:
        """Return the token ids of `text`; `special_tokens` adds those that the tokenizer puts around a text."""
        if self._core is not None:
            return list(self._core.encode(text, add_special_tokens=special_tokens).ids)
        with self._lock:
            return list(self._tokenizer.encode(text, add_special_tokens=special_tokens))

    def decode(self, tokens: Sequence[int], *, kept: frozenset[int] = frozenset()) -> str:
        """Return the text of `tokens`; incomplete characters become the replacement one.

        Special tokens have no text but for those in `kept`.
        """
        if kept:
            tokens = [token for token in tokens if token in kept or token not in self._hidden]
        if self._core is not None:
            return str(self._core.decode(list(tokens), skip_special_tokens=not kept))
        with self._lock:
            return str(self._tokenizer.decode(list(tokens), skip_special_tokens=not kept))

    def token_bytes(self, token: int) -> bytes:
        """Return the UTF-8 bytes that a token stands for, also where they are a part of a character."""
        piece = str(self._tokenizer.convert_ids_to_tokens(token))
        if token in self._special:
            return piece.encode()
        if self._byte_level:
            table = _byte_level_table()
            if all(character in table for character in piece):
                return bytes(table[character] for character in piece)
            return piece.encode()  # an added token is stored as plain text
        if match := _BYTE_TOKEN.fullmatch(piece):
            return bytes([int(match.group(1), 16)])
        return piece.replace("▁", " ").encode()

    def token_text(self, token: int) -> str:
        """Return `token_bytes` as text, with the replacement character for parts of characters."""
        return self.token_bytes(token).decode(errors="replace")


@cache
def _byte_level_table() -> Mapping[str, int]:
    """Return the byte of each character in byte-level BPE: printable Latin-1 stands for itself, the rest from 256."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    table = {chr(byte): byte for byte in printable}
    table.update({chr(256 + place): byte for place, byte in enumerate(others)})
    return table
