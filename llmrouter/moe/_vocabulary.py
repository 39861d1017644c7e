"""The tokenizer as the engine needs it: render a chat, encode, decode, and the exact bytes of one token."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from llmrouter.exceptions import GenerationRequestError

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
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
        self._byte_level = "ByteLevel" in str(getattr(self._core, "decoder", ""))
        self._token_texts: dict[int, str] = {}

    @property
    def has_chat_template(self) -> bool:
        """Whether the checkpoint says how a chat is rendered."""
        return bool(self._tokenizer.chat_template)

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """Return the prompt of a chat, up to where the assistant's answer begins.

        Raises
        ------
        GenerationRequestError
            If a message has another role or other content than text, or the template refuses the chat.
        """
        from jinja2 import TemplateError

        if not self.has_chat_template:
            raise GenerationRequestError(
                "this model has no chat template, so it cannot take messages; "
                "use a chat checkpoint, or give the text as prompt",
                param="messages",
            )
        turns = [_plain_turn(message, index) for index, message in enumerate(messages)]
        try:
            rendered = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            raise GenerationRequestError(
                f"the model's chat template refuses these messages: {error}", param="messages"
            ) from error
        return str(rendered)

    def encode(self, text: str, *, special_tokens: bool) -> list[int]:
        """Return the token ids of `text`; `special_tokens` adds those that the tokenizer puts around a text."""
        if self._core is not None:
            return list(self._core.encode(text, add_special_tokens=special_tokens).ids)
        with self._lock:
            return list(self._tokenizer.encode(text, add_special_tokens=special_tokens))

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of `tokens` without special tokens; incomplete characters become the replacement one."""
        if self._core is not None:
            return str(self._core.decode(list(tokens), skip_special_tokens=True))
        with self._lock:
            return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))

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


def _plain_turn(message: Mapping[str, Any], index: int) -> dict[str, str]:
    where = f"messages[{index}]"
    role = _ROLES.get(message.get("role", ""))
    if role is None:
        raise GenerationRequestError(
            f"{where}.role is {message.get('role')!r}; this model takes {', '.join(_ROLES)}", param=f"{where}.role"
        )
    content = message.get("content")
    if isinstance(content, Sequence) and not isinstance(content, str):
        content = "".join(_text_of(part, f"{where}.content[{place}]") for place, part in enumerate(content))
    if not isinstance(content, str):
        raise GenerationRequestError(
            f"{where}.content is {content!r}; it must be a string or a list of text parts", param=f"{where}.content"
        )
    return {"role": role, "content": content}


def _text_of(part: Any, where: str) -> str:
    if isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    raise GenerationRequestError(f"{where} is of type {kind!r}; this model takes text only", param=where)


@cache
def _byte_level_table() -> Mapping[str, int]:
    """Return the byte of each character in byte-level BPE: printable Latin-1 stands for itself, the rest from 256."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    table = {chr(byte): byte for byte in printable}
    table.update({chr(256 + place): byte for place, byte in enumerate(others)})
    return table
