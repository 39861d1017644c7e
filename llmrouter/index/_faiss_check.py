"""Which FAISS is installed; two at once are refused."""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from typing import Any

from llmrouter.exceptions import ConfigError, MissingExtraError

_CPU = "faiss-cpu"
_GPU = ("faiss-gpu", "faiss-gpu-cu11", "faiss-gpu-cu12")


def check_faiss() -> None:
    """Refuse an environment with the CPU and a GPU distribution of FAISS.

    Both write the import package ``faiss``: the later one overwrites files of the earlier, and removing one breaks the
    other.

    Raises
    ------
    ConfigError
        If both are installed; the message has the commands that mend it.
    """
    gpu = [name for name in _GPU if _installed(name)]
    if gpu and _installed(_CPU):
        both = " ".join([_CPU, *gpu])
        raise ConfigError(
            f"{' and '.join([_CPU, *gpu])} are installed together, and both write the package 'faiss'. Remove both, "
            f"then install the one you want: pip uninstall -y {both} && pip install 'llmrouter-service[cpu]' "
            "(or [gpu])"
        )


def faiss_available() -> bool:
    """Return whether FAISS can be imported, without importing it."""
    return find_spec("faiss") is not None


def load_faiss() -> Any:
    """Return the module ``faiss``.

    Raises
    ------
    ConfigError
        If the CPU and a GPU distribution are installed together.
    MissingExtraError
        If none is installed.
    """
    check_faiss()
    try:
        return importlib.import_module("faiss")
    except ImportError as error:
        raise MissingExtraError("faiss", extra="cpu", purpose="the FAISS index") from error


def loaded_faiss() -> Any:
    """Return the module ``faiss`` where `load_faiss` has been called before: for what every search does.

    Looking which distributions are installed takes longer than a search.
    """
    return importlib.import_module("faiss")


def _installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
