"""Content of items of OpenAI's responses as parts of chat messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from service.dialects._chat_messages import Part
from service.dialects._checks import OBJECT, STRING, expect, missing, optional, require, unsupported, wrong_type


def content_parts(content: object, where: str) -> list[Part]:
    """Return the chat parts of an item's content; a string is one part of text.

    Raises
    ------
    APIError
        If it is neither a string nor an array of parts that chat knows.
    """
    if content is None:
        raise missing(where)
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise wrong_type(where, "a string or an array of parts", content)
    parts = []
    for i, part in enumerate(content):
        place = f"{where}[{i}]"
        expect(part, OBJECT, place)
        kind = require(part, "type", STRING, place)
        translate = _PARTS.get(kind)
        if translate is None:
            raise unsupported(
                f"{place}.type",
                f"Content of type {kind!r} is not supported by this gateway. Supported are {', '.join(_PARTS)}.",
                code="unsupported_value",
            )
        parts.append(translate(part, place))
    return parts


def _text_part(part: Mapping[str, Any], where: str) -> Part:
    text = part.get("text")
    if text is None:
        raise missing(f"{where}.text")
    return {"type": "text", "text": expect(text, STRING, f"{where}.text")}


def _refusal_part(part: Mapping[str, Any], where: str) -> Part:
    return {"type": "text", "text": require(part, "refusal", STRING, where)}


def _image_part(part: Mapping[str, Any], where: str) -> Part:
    if part.get("image_url") is None and part.get("file_id") is not None:
        raise unsupported(
            f"{where}.file_id",
            "Images by 'file_id' are not supported by this gateway. Send an 'image_url', which may be a data URL.",
        )
    image = {"url": require(part, "image_url", STRING, where)}
    detail = optional(part, "detail", STRING, where)
    if detail is not None:
        image["detail"] = detail
    return {"type": "image_url", "image_url": image}


def _audio_part(part: Mapping[str, Any], where: str) -> Part:
    return {"type": "input_audio", "input_audio": require(part, "input_audio", OBJECT, where)}


def _file_part(part: Mapping[str, Any], where: str) -> Part:
    if part.get("file_url") is not None:
        raise unsupported(
            f"{where}.file_url",
            "Files by 'file_url' are not supported by this gateway. Send the file itself in 'file_data'.",
        )
    file = {name: optional(part, name, STRING, where) for name in ("file_data", "file_id", "filename")}
    file = {name: value for name, value in file.items() if value is not None}
    if not file.keys() & {"file_data", "file_id"}:
        raise missing(f"{where}.file_data")
    return {"type": "file", "file": file}


_PARTS: Mapping[str, Callable[[Mapping[str, Any], str], Part]] = {
    "input_text": _text_part,
    "output_text": _text_part,
    "text": _text_part,
    "refusal": _refusal_part,
    "input_image": _image_part,
    "input_audio": _audio_part,
    "input_file": _file_part,
}
