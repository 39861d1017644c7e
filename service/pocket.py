"""Start, watch and stop the pocket pool, a child process that serves the four tiny models."""

from __future__ import annotations

import http.client
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from llmrouter.exceptions import ConfigError, LocalModelError

logger = logging.getLogger(__name__)

PORT_VARIABLE = "LLMROUTER_POCKET_PORT"
"""Environment variable with the port; the embedded configuration reads it too."""

DEFAULT_PORT = 8090

_HOST = "127.0.0.1"
_LAST_LINES = 20
_POLL_S = 0.1
_STOP_S = 10.0


class PocketPool:
    """The pocket pool as a child process; a context manager.

    Parameters
    ----------
    port : int
        Where it listens, on loopback.
    ready_timeout_s : float
        Loading takes longer than that: give up.
    progress : callable, optional
        Gets a line now and then while the models load.
    command : sequence of str, optional
        Arguments of ``python -m service.child``; by default the pocket server.
    """

    def __init__(
        self,
        port: int,
        *,
        ready_timeout_s: float = 180.0,
        progress: Callable[[str], None] | None = None,
        command: Sequence[str] | None = None,
    ) -> None:
        self.port = port
        self.ready_timeout_s = ready_timeout_s
        self._progress = progress or (lambda _: None)
        self._command = command or ["service.moe", "--pocket", "--port", str(port)]
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._stopping = False

    def __enter__(self) -> PocketPool:
        """Start it and wait until it is ready."""
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self.stop()

    def start(self) -> None:
        """Start the child and wait until it answers.

        Raises
        ------
        ConfigError
            If the port is taken.
        LocalModelError
            If it ends, or is not ready in time; the message has its last lines of output.
        """
        if not is_free(self.port):
            raise ConfigError(
                f"{_HOST}:{self.port} is in use by another program; the pocket pool needs it. Stop that, or set "
                f"{PORT_VARIABLE} to another port"
            )
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", "service.child", *self._command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # Ctrl-C is for the gateway, which drains first and stops the pool then.
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name="pocket-pool-output", daemon=True)
        self._reader.start()
        self._wait_ready(self._process)

    def stop(self) -> None:
        """Stop the child: ask first, then kill (idempotent)."""
        self._stopping = True
        process = self._process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if self._reader is not None:
            self._reader.join(_STOP_S)

    def _wait_ready(self, process: subprocess.Popen[bytes]) -> None:
        started = time.monotonic()
        next_line_s = 0.0
        while not self._answers():
            waited = time.monotonic() - started
            if process.poll() is not None:
                if self._reader is not None:
                    self._reader.join(_STOP_S)
                raise LocalModelError(f"the pocket pool ended with status {process.returncode}{self._output()}")
            if waited > self.ready_timeout_s:
                raise LocalModelError(
                    f"the pocket pool was not ready within {self.ready_timeout_s:g} s{self._output()}"
                )
            if waited >= next_line_s:
                self._progress(f"loading the pocket models ... {waited:.0f} s")
                next_line_s = waited + max(waited, 1.0)
            time.sleep(_POLL_S)  # a process that loads models says nothing until it answers
        self._progress(f"the pocket pool is ready after {time.monotonic() - started:.1f} s")

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(_HOST, self.port, timeout=1.0)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _read(self) -> None:
        """Keep the last lines of the child's output, and say so when it ends on its own."""
        process = self._process
        if process is None or process.stdout is None:
            return
        with process.stdout:
            for line in process.stdout:
                self._lines.append(line.decode("utf-8", "replace").rstrip())
        status = process.wait()
        if not self._stopping:
            logger.error("the pocket pool ended with status %d; its models answer no more%s", status, self._output())

    def _output(self) -> str:
        return "".join(f"\n  {line}" for line in self._lines)


def choose_port() -> int:
    """Return the port for the pocket pool: the one in `PORT_VARIABLE`, else the default if it is free, else a free one.

    Raises
    ------
    ConfigError
        If the variable holds no port.
    """
    given = os.environ.get(PORT_VARIABLE, "")
    if given:
        if not (given.isdecimal() and 0 < int(given) < 65536):
            raise ConfigError(f"the environment variable {PORT_VARIABLE} must be a port number; got {given!r}")
        return int(given)
    return DEFAULT_PORT if is_free(DEFAULT_PORT) else free_port()


def is_free(port: int) -> bool:
    """Return whether nothing listens on a port of loopback."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError:
            return False
        return True


def free_port() -> int:
    """Return a port of loopback that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port
