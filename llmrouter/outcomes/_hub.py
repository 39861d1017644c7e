"""Benchmark files from the Hugging Face hub, for those who have a network."""

from __future__ import annotations

import queue
import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from llmrouter.exceptions import DataError, MissingExtraError

HUB_PREFIX = "hub:"

_REFERENCE = re.compile(r"hub:(?P<repository>[\w.-]+/[\w.-]+)(?P<file>(?:/[^/@]+)*)(?:@(?P<revision>[\w./-]+))?")
_SECONDS = 10.0

Result = TypeVar("Result")


def parse_reference(reference: str) -> tuple[str, str, str | None]:
    """Return repository, file in it (empty = chosen by format) and revision of ``hub:ORG/NAME[/FILE][@REVISION]``.

    Raises
    ------
    DataError
        If it is none.
    """
    found = _REFERENCE.fullmatch(reference)
    if found is None:
        raise DataError(f"{reference!r} names no data set; write hub:ORG/NAME, e.g. hub:withmartian/routerbench")
    return found["repository"], found["file"].strip("/"), found["revision"]


def download(reference: str, choose: Callable[[Sequence[str]], list[str]]) -> Path:
    """Download files of a data set into the hub's cache, with its progress bars, and return where they are.

    Parameters
    ----------
    reference : str
        ``hub:ORG/NAME``, with ``/FILE`` for one file of it and ``@REVISION`` for a commit, branch or tag.
    choose : callable
        Names of the files in the repository -> those to fetch; not asked where the reference names one.

    Returns
    -------
    Path
        The file where it is one, else the folder that holds them.

    Raises
    ------
    DataError
        If the hub cannot be reached within seconds, or has no such data set or file; the message says what to do.
    MissingExtraError
        If huggingface_hub is not installed.
    """
    repository, file, revision = parse_reference(reference)
    hub = _hub()
    try:
        info = _within(_SECONDS, lambda: hub.HfApi().dataset_info(repository, revision=revision, timeout=_SECONDS / 2))
        names = sorted(sibling.rfilename for sibling in info.siblings)
        if file and file not in names:
            raise DataError(f"{repository} has no file {file!r}; it has: {', '.join(names)}")
        paths = [
            Path(
                hub.hf_hub_download(repository, name, repo_type="dataset", revision=info.sha, etag_timeout=_SECONDS / 2)
            )
            for name in ([file] if file else choose(names))
        ]
    except DataError:
        raise
    except Exception as error:  # which classes it raises depends on its version and on the HTTP library below it
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise DataError(
            f"cannot download {repository} from the Hugging Face hub ({reason}). Without a network, or where the data "
            f"set asks for consent, download it by hand from https://huggingface.co/datasets/{repository} and give the "
            "path of the file or folder instead"
        ) from error
    return paths[0] if len(paths) == 1 else Path(*_shared_parts(paths))


def _shared_parts(paths: Sequence[Path]) -> list[str]:
    shared: list[str] = []
    for parts in zip(*(path.parts[:-1] for path in paths), strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return shared


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise MissingExtraError("huggingface_hub", extra="encoders", purpose="downloading from the hub") from error
    return huggingface_hub


def _within(seconds: float, call: Callable[[], Result]) -> Result:
    """Return what `call` returns, or give up on it: a name server that does not answer ignores HTTP timeouts."""
    outcome: queue.Queue[tuple[Result | None, Exception | None]] = queue.Queue()

    def run() -> None:
        try:
            outcome.put((call(), None))
        except Exception as error:  # handed over to the caller's thread
            outcome.put((None, error))

    threading.Thread(target=run, daemon=True, name="hub-request").start()
    try:
        value, error = outcome.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer within {seconds:g} s") from None
    if error is not None:
        raise error
    return value  # type: ignore[return-value] # without an error there is a value
