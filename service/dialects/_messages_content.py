"""Content of Anthropic's messages as parts of chat messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from service.dialects._chat_messages import Part
from service.dialects._checks import (
    OBJECT,
    STRING,
    expect,
    missing,
    optional,
    require,
    unsupported,
    wrong_type,
    wrong_value,
)
from service.errors import APIError


def blocks_of(content: object, where: str) -> list[tuple[dict[str, Any], str]]:
    """Return the blocks of a content with their paths; a string is one block of text.

    Raises
    ------
    APIError
        If it is neither a string nor an array of blocks.
    """
    if content is None:
        return []
    if isinstance(content, str):
        return [({"type": "text", "text": content}, where)] if content else []
    if not isinstance(content, list):
        raise wrong_type(where, "a string or an array of blocks", content)
    blocks = []
    for i, block in enumerate(content):
        place = f"{where}[{i}]"
        expect(block, OBJECT, place)
        require(block, "type", STRING, place)
        blocks.append((block, place))
    return blocks


def content_parts(block: Mapping[str, Any], where: str) -> list[Part]:
    """Return the chat parts of a block of text, image, document or search result.

    Raises
    ------
    APIError
        If it is of another type, or wrong.
    """
    translate = _PARTS.get(block["type"])
    if translate is None:
        raise unknown_block(block["type"], where)
    parts = translate(block, where)
    if parts and block.get("cache_control") is not None:
        parts[-1] = {**parts[-1], "cache_control": block["cache_control"]}
    return parts


def text_part(block: Mapping[str, Any], where: str) -> Part:
    """Return the chat part of a block of text, its ``cache_control`` kept.

    Raises
    ------
    APIError
        If the text is missing or no string.
    """
    text = block.get("text")
    if text is None:
        raise missing(f"{where}.text")
    part: Part = {"type": "text", "text": expect(text, STRING, f"{where}.text")}
    if block.get("cache_control") is not None:
        part["cache_control"] = block["cache_control"]
    return part


def _text_parts(block: Mapping[str, Any], where: str) -> list[Part]:
    return [text_part(block, where)]


def _image_parts(block: Mapping[str, Any], where: str) -> list[Part]:
    source = require(block, "source", OBJECT, where)
    place = f"{where}.source"
    kind = require(source, "type", STRING, place)
    if kind == "base64":
        url = _data_url(source, place)
    elif kind == "url":
        url = require(source, "url", STRING, place)
    else:
        raise wrong_value(f"{place}.type", kind, ("base64", "url"))
    return [{"type": "image_url", "image_url": {"url": url}}]


def _document_parts(block: Mapping[str, Any], where: str) -> list[Part]:
    source = require(block, "source", OBJECT, where)
    place = f"{where}.source"
    kind = require(source, "type", STRING, place)
    title = optional(block, "title", STRING, where)
    heads = [text for text in (title, optional(block, "context", STRING, where)) if text]
    if kind == "text":
        return [_joined([*heads, require(source, "data", STRING, place)])]
    if kind == "base64":
        name = title or "document.pdf"
        part: Part = {"type": "file", "file": {"filename": name, "file_data": _data_url(source, place)}}
        return [_joined(heads), part] if heads else [part]
    if kind == "content":
        parts = [_joined(heads)] if heads else []
        for inner, spot in blocks_of(source.get("content"), f"{place}.content"):
            if inner["type"] not in ("text", "image"):
                raise wrong_value(f"{spot}.type", inner["type"], ("text", "image"))
            parts += content_parts(inner, spot)
        return parts
    raise unsupported(
        f"{place}.type",
        f"Documents with a source of type {kind!r} are not supported by this gateway. "
        "Send the document itself, as 'base64' or 'text'.",
        code="unsupported_value",
    )


def _search_result_parts(block: Mapping[str, Any], where: str) -> list[Part]:
    texts = [optional(block, name, STRING, where) or "" for name in ("title", "source")]
    for inner, place in blocks_of(block.get("content"), f"{where}.content"):
        if inner["type"] != "text":
            raise wrong_value(f"{place}.type", inner["type"], ("text",))
        texts.append(text_part(inner, place)["text"])
    return [_joined([text for text in texts if text])]


_PARTS: Mapping[str, Callable[[Mapping[str, Any], str], list[Part]]] = {
    "text": _text_parts,
    "image": _image_parts,
    "document": _document_parts,
    "search_result": _search_result_parts,
}


def _joined(texts: list[str]) -> Part:
    return {"type": "text", "text": "\n\n".join(texts)}


def _data_url(source: Mapping[str, Any], where: str) -> str:
    media_type = require(source, "media_type", STRING, where)
    return f"data:{media_type};base64,{require(source, 'data', STRING, where)}"


def unknown_block(kind: str, where: str) -> APIError:
    """Return the error for a block that has no counterpart in chat."""
    return unsupported(
        f"{where}.type",
        f"Content blocks of type {kind!r} are not supported here by this gateway. Supported are text, image, "
        "document and search_result; tool_result in user messages; tool_use and thinking in assistant messages.",
        code="unsupported_value",
    )
