"""A script that Redis runs as a whole: nothing else happens in between."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script, called by its hash.

    Attributes
    ----------
    text : str
        The source.
    sha : str
        SHA-1 of it, by which Redis knows it.
    """

    text: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()
        object.__setattr__(self, "sha", digest)
