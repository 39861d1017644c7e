"""Where rows are scanned: which GPU there is, and why there is none."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from llmrouter.exceptions import MissingExtraError
from llmrouter.index._faiss_check import faiss_available, load_faiss
from llmrouter.index._kinds import IndexKind

logger = logging.getLogger(__name__)


def load_torch() -> Any:
    """Return the module ``torch``.

    Raises
    ------
    MissingExtraError
        If it is not installed.
    """
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise MissingExtraError("torch", extra="moe", purpose="the index 'torch'") from error


def torch_device(wanted: str | None) -> tuple[str, str]:
    """Return torch's name of the device to use, and why it is not the wanted one; empty where it is.

    Parameters
    ----------
    wanted : str, optional
        ``auto`` (also None), ``cpu``, ``cuda`` or ``cuda:N``.
    """
    if wanted == "cpu":
        return "cpu", ""
    torch = load_torch()
    wanted = "cuda" if wanted in (None, "auto") else wanted
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        built = "sees no CUDA device" if torch.version.cuda else "is built without CUDA"
        return "cpu", f"this torch ({torch.__version__}) {built}"
    if _number(wanted) >= count:
        return "cpu", f"torch sees {count} CUDA device(s), counted from 0"
    return str(wanted), ""


def faiss_device(wanted: str | None) -> tuple[int | None, str]:
    """Return the number of the GPU that FAISS is to use, None for the CPU, and why it is not the wanted one."""
    if wanted in (None, "cpu"):
        return None, ""
    if not faiss_available():
        return None, "FAISS is not installed (pip install 'llmrouter-service[gpu]')"
    library = load_faiss()
    count = library.get_num_gpus() if hasattr(library, "StandardGpuResources") else 0
    if not count:
        built = "sees no GPU" if hasattr(library, "StandardGpuResources") else "is built without GPU support"
        return None, f"this FAISS ({library.__version__}) {built}"
    if _number(wanted) >= count:
        return None, f"FAISS sees {count} GPU(s), counted from 0"
    return _number(wanted), ""


def check_device(kind: IndexKind) -> None:
    """Tell in a warning that an index of `kind` is searched on the CPU though a GPU was asked for.

    Raises
    ------
    MissingExtraError
        If the kind is ``torch``, which is not installed.
    """
    if not kind.resident:
        return
    if kind.name == "torch":
        load_torch()
        why = torch_device(kind.device)[1]
    else:
        why = faiss_device(kind.device)[1]
    if why:
        logger.warning("index %r, device %s: searched on the CPU, since %s", kind.name, kind.device or "auto", why)


def gpu_kind(parameters: Mapping[str, Any]) -> IndexKind:
    """Return the kind that ``gpu`` stands for: FAISS where it has a GPU, else torch where it has, else a scan.

    The CPU is fallen back to with a warning that says what is missing.
    """
    number, no_faiss = faiss_device("cuda")
    if number is not None:
        return IndexKind.of("flat", {"device": "cuda", **parameters})
    no_torch = "torch is not installed"
    if find_spec("torch") is not None:
        device, no_torch = torch_device("cuda")
        if device != "cpu":
            return IndexKind.of("torch", {"device": "cuda", **parameters})
    logger.warning("index 'gpu': searched on the CPU, since %s, and %s", no_faiss, no_torch)
    return IndexKind.of("flat", parameters)


def _number(wanted: str | None) -> int:
    """Return N of ``cuda:N``, 0 where it is not said."""
    return int((wanted or "").partition(":")[2] or 0)
