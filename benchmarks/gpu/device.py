"""The device that is measured: what it is, how fast it copies and multiplies, and clocks that wait for it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llmrouter.index import torch_device

_DIGITS = 6
_NO_GPU = "No GPU was at hand: these are figures of a CPU, which show no more than that it runs."
_LIBRARIES = ("numpy", "torch", "triton", "transformers", "faiss-gpu-cu12", "faiss-cpu", "llmrouter-service")


class Device:
    """A device of torch, and the time that may be spent on it.

    Parameters
    ----------
    wanted : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; where it is not to be had, the CPU is measured.
    budget_s : float
        Seconds after which `time_left` is false.
    """

    def __init__(self, wanted: str, *, budget_s: float) -> None:
        self.name, self.fallback = torch_device(wanted)
        self.device = torch.device(self.name)
        self.is_gpu = self.device.type == "cuda"
        self._ends = time.perf_counter() + budget_s

    def time_left(self) -> bool:
        """Return whether there is time for one more measurement."""
        return time.perf_counter() < self._ends

    def wait(self) -> None:
        """Wait until the device has done what it was given."""
        if self.is_gpu:
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], object], *, least: int = 5, longest_s: float = 3.0) -> dict[str, float]:
        """Return median and 90th percentile of the time `work` takes, by the host's clock, the device idle after it."""
        work()
        self.wait()
        taken: list[float] = []
        end = time.perf_counter() + longest_s
        while len(taken) < least or (time.perf_counter() < end and len(taken) < 200):
            started = time.perf_counter()
            work()
            self.wait()
            taken.append(time.perf_counter() - started)
        return {"median_s": float(np.median(taken)), "p90_s": float(np.quantile(taken, 0.9)), "runs": len(taken)}

    def copy_bytes_per_s(self) -> float:
        """Measure what memory gives: bytes read and written by a copy within the device, a second."""
        count = 2**30 if self.is_gpu else 2**26
        source = torch.zeros(count, dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        return 2.0 * count / self.seconds(lambda: target.copy_(source), longest_s=1.0)["median_s"]

    def products_per_s(self, dtype: torch.dtype) -> float:
        """Measure multiplications and additions a second, of a product of two large square matrices."""
        size = 8192 if self.is_gpu else 512
        left = torch.ones((size, size), dtype=dtype, device=self.device)
        right = torch.ones_like(left)
        return 2.0 * size**3 / self.seconds(lambda: left @ right, longest_s=1.0)["median_s"]

    def facts(self) -> dict[str, Any]:
        """Return machine, versions and commit."""
        machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
        if self.is_gpu:
            properties = torch.cuda.get_device_properties(self.device)
            machine += f"; {properties.name}, {properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
        return {
            "machine": machine,
            "gpu": self.is_gpu,
            "device": self.name,
            "fallback": self.fallback,
            "threads": torch.get_num_threads(),
            "versions": {name: _version(name) for name in _LIBRARIES},
            "commit": _commit(),
        }


def write_results(folder: Path, name: str, document: Mapping[str, Any], page: str) -> None:
    """Write ``name.json`` and ``name.md`` into `folder`; the page ends with where the figures come from."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_rounded(document), indent=1, sort_keys=True, allow_nan=False)
    (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    libraries = ", ".join(f"{name} {number}" for name, number in document["versions"].items() if number)
    told = "" if document["gpu"] else f"**{_NO_GPU}**\n\n"
    source = f"`{document['command']}`; {document['machine']}; {libraries}; commit {document['commit'] or 'unknown'}."
    (folder / f"{name}.md").write_text(f"{page.rstrip()}\n\n{told}{source}\n", encoding="utf-8")


def _rounded(value: Any) -> Any:
    """Return JSON values with six significant digits."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Return the commit of the clone this file is in, with ``-dirty`` if the tree was changed; None outside a clone."""
    git = shutil.which("git")
    if git is None:
        return None
    here = Path(__file__).resolve()

    def ask(*words: str) -> str | None:
        try:
            answer = subprocess.run(  # noqa: S603 -- fixed arguments, no shell
                [git, "-C", str(here.parent), *words], capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return answer.stdout.strip() if answer.returncode == 0 else None

    if ask("ls-files", "--error-unmatch", here.name) is None:
        return None
    return ask("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
