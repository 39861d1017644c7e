"""A private Redis for tests: started on a free port, frozen, killed and started again."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

import pytest

_BINARY = "redis-server"
_START_S = 20.0


class RedisServer:
    """A ``redis-server`` process; a context manager.

    Parameters
    ----------
    durable : bool
        Whether it keeps what it acknowledged (``appendfsync always``) when it is killed; else it keeps nothing.

    Attributes
    ----------
    port : int
        On loopback.
    url : str
        For clients.
    """

    def __init__(self, *, durable: bool = False) -> None:
        self._durable = durable
        if shutil.which(_BINARY) is None:
            pytest.skip(f"{_BINARY} is not installed")
        self._folder = tempfile.TemporaryDirectory(prefix="redis-test-")
        self._process: subprocess.Popen[bytes] | None = None
        self.port = _free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def __enter__(self) -> RedisServer:
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._folder.cleanup()

    def freeze(self) -> None:
        """Stop the process in its tracks: connections stay open, nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen process go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End the process at once; what it held is lost, unless it is durable."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Start it again on the same port; empty, unless it is durable."""
        self.kill()
        self._start()

    def command(self, *words: str) -> bytes:
        """Send one command, and return the beginning of the raw reply."""
        request = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w.encode()), w.encode()) for w in words)
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(request)
            return connection.recv(65536)

    def flush(self) -> None:
        """Remove all keys."""
        assert self.command("FLUSHALL").startswith(b"+OK")

    def _start(self) -> None:
        words = [_BINARY, "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        words += ["--appendonly", "yes", "--appendfsync", "always"] if self._durable else ["--appendonly", "no"]
        words += ["--dir", self._folder.name, "--loglevel", "warning"]
        log = (Path(self._folder.name) / "redis.log").open("ab")
        with log:
            self._process = subprocess.Popen(words, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            try:
                if self.command("PING").startswith(b"+PONG"):
                    return
            except OSError:
                time.sleep(0.02)
        self.kill()
        raise RuntimeError(f"{_BINARY} did not start within {_START_S:g} s")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
