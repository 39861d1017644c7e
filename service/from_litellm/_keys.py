"""Reading LiteLLM's configuration: mappings whose keys are taken out, values in our notation, and notes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ENVIRONMENT = "os.environ/"
"""LiteLLM's mark of an environment variable."""


class Notes:
    """What is to be said of a translation, each thing once."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, text: str) -> None:
        """Add a note."""
        # It becomes a comment: a line break would end that, and YAML allows no control characters.
        line = "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))
        if line not in self.lines:
            self.lines.append(line)


class Keys:
    """A mapping whose keys are taken out one by one, so that what is left is known; anything else is an empty one."""

    def __init__(self, tree: Any) -> None:
        self._left = {str(key): value for key, value in tree.items()} if isinstance(tree, Mapping) else {}

    def take(self, key: str) -> Any:
        """Return a value, None where there is none, and take it out."""
        return self._left.pop(key, None)

    def peek(self, key: str) -> Any:
        """Return a value, None where there is none."""
        return self._left.get(key)

    def rest(self) -> list[str]:
        """Return the keys that are left and say anything."""
        return [key for key, value in self._left.items() if value is not None and value is not False]


def first(*values: Any) -> Any:
    """Return the first value that is not None."""
    return next((value for value in values if value is not None), None)


def ours(value: Any) -> Any:
    """Return a value as our YAML has it: variables in our notation, dollar signs doubled."""
    if isinstance(value, str):
        if value.startswith(ENVIRONMENT):
            return f"${{{value.removeprefix(ENVIRONMENT)}}}"
        return value.replace("$", "$$")
    if isinstance(value, Mapping):
        return {str(key): ours(each) for key, each in value.items()}
    return [ours(each) for each in value] if isinstance(value, list) else value
