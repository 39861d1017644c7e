"""Random numbers that belong to a request, not to the moment: the same whoever else is decided with it."""

from __future__ import annotations

import hashlib

_SPAN = 2.0**53


def uniform_of(purpose: str, seed: int, request: str) -> float:
    """Return a number in [0, 1) that depends on the arguments alone; over requests it is uniform.

    Parameters
    ----------
    purpose : str
        What is drawn for; draws of one request for different purposes are independent.
    seed : int
        Of the configuration.
    request : str
        Id of the request. Ids must not be the client's to choose: whoever chooses them chooses the number.
    """
    digest = hashlib.blake2b(f"{purpose}\0{seed}\0{request}".encode("utf-8", "replace"), digest_size=8).digest()
    return (int.from_bytes(digest) >> 11) / _SPAN
