"""What every encoder accepts, and how it refuses the rest."""

from __future__ import annotations

from collections.abc import Sequence

from llmrouter.exceptions import EncoderError


def checked_texts(texts: Sequence[str]) -> list[str]:
    """Return `texts` as a list of strings that any tokenizer takes.

    Lone surrogates (half an emoji, as broken JSON may carry) become U+FFFD; everything else is left as it is.

    Raises
    ------
    EncoderError
        If `texts` is a single string, or an element is not a string; the message names the position.
    """
    if isinstance(texts, str):
        raise EncoderError("texts is a single string; pass a list of strings, e.g. encode([text])")
    try:
        listed = list(texts)
    except TypeError as error:
        raise EncoderError(f"texts must be a sequence of strings, not {type(texts).__name__}") from error
    return [_checked(text, position) for position, text in enumerate(listed)]


def _checked(text: object, position: int) -> str:
    if not isinstance(text, str):
        raise EncoderError(f"texts[{position}] must be a string, not {type(text).__name__}")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
