"""Processes of the benchmark: start, wait until ready, measure, pause, stop."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import psutil

_STOP_S = 10.0
_POLL_S = 0.05
_LOG_TAIL = 2000


class StartError(Exception):
    """A process did not start; the message ends with what it said."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process and its children have used.

    Attributes
    ----------
    cpu_s : float
        User and system time in seconds since the start.
    rss_bytes : int
        Resident memory now.
    """

    cpu_s: float
    rss_bytes: int


class ManagedProcess:
    """A process with its children, in a session of its own; a context manager.

    Parameters
    ----------
    command : sequence of str
        What to run.
    log : Path
        Gets what it prints.
    core : int, optional
        The only core that it may run on.
    environment : mapping, optional
        Added to ours.
    folder : Path, optional
        Where it runs.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        core: int | None = None,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 - commands of the peers, no shell
                [*pinned(core), *command],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=folder,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        self._handle = psutil.Process(self._process.pid)

    def __enter__(self) -> ManagedProcess:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()

    def wait_ready(self, url: str, *, timeout_s: float = 60.0, headers: Mapping[str, str] | None = None) -> None:
        """Wait until `url` is answered with a status below 500.

        Raises
        ------
        StartError
            If the process ends, or `timeout_s` pass before.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise StartError(f"ended with status {self._process.returncode}: {self._tail()}")
            if (status := http_status(url, headers)) is not None and status < 500:
                return
            time.sleep(_POLL_S)  # other programs do not say when they are ready
        raise StartError(f"did not answer {url} within {timeout_s:g} s: {self._tail()}")

    def usage(self) -> Usage:
        """Return what the process and its children have used."""
        cpu = 0.0
        rss = 0
        for process in self._tree():
            try:
                times = process.cpu_times()
                cpu += times.user + times.system
                rss += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        ended = self._handle.cpu_times()
        return Usage(cpu + ended.children_user + ended.children_system, rss)

    def pause(self) -> None:
        """Stop it from running (SIGSTOP), so that it takes nothing from what is measured now."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it run again."""
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it and its children, gently first."""
        self.resume()
        self._signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_S)
        # Children may outlive a parent that ended gently.
        self._signal(signal.SIGKILL)
        self._process.wait()

    def kill(self) -> None:
        """End it and its children at once (SIGKILL)."""
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _tree(self) -> list[psutil.Process]:
        try:
            return [self._handle, *self._handle.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _tail(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")[-_LOG_TAIL:].strip()


def pinned(core: int | None) -> list[str]:
    """Return the beginning of a command that keeps it on one core."""
    taskset = shutil.which("taskset")
    return [] if core is None or taskset is None else [taskset, "-c", str(core)]


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def http_status(url: str, headers: Mapping[str, str] | None = None) -> int | None:
    """Return the status of a GET, None where nobody answers."""
    try:
        fetch(url, headers=headers)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None
    return 200


def fetch(
    url: str, *, headers: Mapping[str, str] | None = None, body: bytes | None = None, method: str | None = None
) -> bytes:
    """Return the body of an answer from this machine, proxies left aside.

    Raises
    ------
    urllib.error.HTTPError, OSError
        If there is none with status 200.
    """
    request = urllib.request.Request(url, data=body, headers=dict(headers or {}), method=method)  # noqa: S310
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=10) as answer:
        content: bytes = answer.read()
        return content
