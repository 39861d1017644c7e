"""What makes two prompts the same: their id, and the split they fall into."""

from __future__ import annotations

import hashlib
import unicodedata

from llmrouter.exceptions import DataError

DEFAULT_TEST_SHARE = 0.3

_ID_DIGITS = 24  # 96 bits: no collision to be expected below 10^12 prompts, and still readable in a log
_HASH_RANGE = 2**64


def prompt_id(text: str) -> str:
    """Return the stable id of a prompt text: the first 24 hexadecimal digits of its SHA-256.

    It is a prefix of `Outcome.prompt_sha256`, so that imported logs and the gateway's own can be joined.
    """
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_ID_DIGITS]


def normalise_text(text: str) -> str:
    """Return `text` with compatibility characters, case and runs of white space made equal (NFKC, case-folded)."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def assign_split(text: str, *, test_share: float = DEFAULT_TEST_SHARE) -> str:
    """Return ``train`` or ``test`` for a prompt, by a hash of its normalised text.

    Equal questions land on the same side whatever their case and spacing, in every import and on every machine, and
    a prompt stays where it is when others are added.

    Parameters
    ----------
    text : str
        The text the router reads.
    test_share : float
        Expected share of distinct texts in the test split, in [0, 1].

    Raises
    ------
    DataError
        If `test_share` is outside [0, 1].
    """
    if not 0.0 <= test_share <= 1.0:
        raise DataError(f"test_share {test_share!r} is outside [0, 1]; 0.3 puts 30% of the prompts into the test split")
    digest = hashlib.sha256(normalise_text(text).encode("utf-8", "surrogatepass")).digest()
    return "test" if int.from_bytes(digest[:8], "big") < test_share * _HASH_RANGE else "train"
