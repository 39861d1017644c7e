"""Several gateway processes on one port: started, watched, restarted and ended by a process that serves nothing.

Each worker listens on a socket of its own with ``SO_REUSEPORT``, so the kernel spreads connections by a hash of their
addresses, whatever the workers are doing. (Measured, 64 connections, 4 workers: the one with fewest gets 10 to 13. On
one socket for all, whoever wakes first takes what waits: 0 to 9.) A worker that has ended has no socket any more, so
no connection waits for it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from llmrouter.exceptions import ConfigError

logger = logging.getLogger(__name__)

WORKER_VARIABLE = "LLMROUTER_WORKER"
"""Environment variable with the number of a worker, from 1."""

METRICS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable with the folder in which the workers' metrics meet."""

READY = b"ready\n"
"""What a worker writes into its pipe once it answers requests."""

_GRACE_S = 5.0
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_HANDLED = (*_STOP_SIGNALS, signal.SIGHUP, signal.SIGCHLD)
_FAILED = 1


@dataclass
class Restarts:
    """When a worker that ended is started again: at once if it had run for long, else later and later.

    Parameters
    ----------
    first_s, most_s : float
        Shortest and longest wait; it doubles from one to the other.
    stable_s : float
        A worker that ran for that long is taken for sound: the next wait is the shortest again.
    """

    first_s: float = 0.5
    most_s: float = 30.0
    stable_s: float = 60.0
    _wait_s: float = field(default=0.0, init=False)

    def wait_s(self, ran_s: float) -> float:
        """Return how long to wait now that a worker has ended after `ran_s` seconds."""
        if ran_s >= self.stable_s or not self._wait_s:
            self._wait_s = self.first_s
        else:
            self._wait_s = min(2 * self._wait_s, self.most_s)
        return self._wait_s


@dataclass(eq=False)
class _Worker:
    """One place among the workers, and the process that holds it now."""

    number: int
    restarts: Restarts
    process: subprocess.Popen[bytes] | None = None
    ready_pipe: int | None = None
    ready: bool = False
    reload_owed: bool = False
    started: float = 0.0
    due: float = 0.0


class Supervisor:
    """Keeps a number of workers running until it is told to stop; see `run`.

    Parameters
    ----------
    command : sequence of str
        Module and arguments of a worker, run by ``python -m service.child`` so that it ends with this process.
        ``--listener FD`` (a bound socket, to be listened on when the worker can answer) and ``--ready FD`` (a pipe that
        wants `READY`) are added.
    address : socket
        A socket bound with ``SO_REUSEPORT``; it is held, so that the port stays ours, and not listened on.
    count : int
        Number of workers.
    drain_s : float
        Seconds that workers get to end once they are told to; some seconds later they are killed.
    environment : mapping of str to str, optional
        Of the workers; by default this process's.
    on_ready : callable, optional
        Called once, when all workers are ready.
    restarts : callable
        Makes what decides on the restarts of one worker.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        address: socket.socket,
        count: int,
        drain_s: float,
        environment: Mapping[str, str] | None = None,
        on_ready: Callable[[], None] | None = None,
        restarts: Callable[[], Restarts] = Restarts,
    ) -> None:
        self.command = tuple(command)
        self.drain_s = drain_s
        self.environment = dict(os.environ if environment is None else environment)
        self._address = address
        self._on_ready = on_ready
        self._workers = [_Worker(i + 1, restarts()) for i in range(count)]
        self._selector = selectors.DefaultSelector()
        self._was_ready = self._failed = False
        self._kill_at: float | None = None

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the workers that run."""
        return tuple(worker.process.pid for worker in self._workers if worker.process is not None)

    def run(self) -> int:
        """Start the workers and watch them until SIGTERM or SIGINT; return the exit status.

        SIGHUP goes on to the workers. A worker that ends before all were ready for the first time ends them all: what
        ails one at the start ails every one. Must run in the main thread.
        """
        with self._signals() as signals:
            try:
                for worker in self._workers:
                    self._start(worker)
                while self.pids or (self._kill_at is None and not self._failed):
                    self._turn(signals)
            finally:
                self._kill()
                self._selector.close()
        return _FAILED if self._failed else 0

    def _turn(self, signals: int) -> None:
        for key, _ in self._selector.select(self._patience()):
            if key.fd == signals:
                for number in os.read(signals, 512):
                    self._on_signal(number)
            else:
                self._on_pipe(key.data)
        for worker in self._workers:
            if worker.process is not None and worker.process.poll() is not None:
                self._on_end(worker, worker.process)
        now = time.monotonic()
        if self._kill_at is None:
            for worker in self._workers:
                if worker.process is None and worker.due <= now:
                    self._start(worker)
        elif now >= self._kill_at and self.pids:
            logger.error("%d workers did not end in time and are killed", len(self.pids))
            self._failed = True
            self._kill()

    def _patience(self) -> float | None:
        """Return how long nothing is to be done."""
        if self._kill_at is not None:
            due = [self._kill_at]
        else:
            due = [worker.due for worker in self._workers if worker.process is None]
        return max(min(due) - time.monotonic(), 0.0) if due else None

    def _start(self, worker: _Worker) -> None:
        listener = _bound_like(self._address)
        ready, write_end = os.pipe()
        try:
            worker.process = subprocess.Popen(  # noqa: S603 - our own module
                [
                    *(sys.executable, "-m", "service.child", *self.command),
                    *("--listener", str(listener.fileno()), "--ready", str(write_end)),
                ],
                pass_fds=(listener.fileno(), write_end),
                env={**self.environment, WORKER_VARIABLE: str(worker.number)},
                # Ctrl-C is for this process to pass on, or workers would get it twice, which means "at once".
                process_group=0,
            )
        finally:
            os.close(write_end)
            listener.close()
        worker.ready, worker.ready_pipe, worker.started = False, ready, time.monotonic()
        self._selector.register(ready, selectors.EVENT_READ, worker)

    def _on_pipe(self, worker: _Worker) -> None:
        said = os.read(worker.ready_pipe, 64) if worker.ready_pipe is not None else b""
        self._forget_pipe(worker)
        if not said:
            return
        worker.ready = True
        if worker.reload_owed:
            _send(worker, signal.SIGHUP)
        worker.reload_owed = False
        if self._was_ready:
            logger.info("worker %d is ready again", worker.number)
        elif all(each.ready for each in self._workers):
            self._was_ready = True
            if self._on_ready is not None:
                self._on_ready()

    def _on_end(self, worker: _Worker, process: subprocess.Popen[bytes]) -> None:
        self._forget_pipe(worker)
        worker.process, worker.ready = None, False
        _forget_metrics(process.pid, self.environment)
        status = process.returncode
        if self._kill_at is not None:
            # One that was still starting knows no better end than the signal's.
            self._failed |= status not in (0, -signal.SIGTERM)
        elif not self._was_ready:
            logger.error("worker %d ended with status %d before it was ready", worker.number, status)
            self._failed = True
            self._stop()
        else:
            now = time.monotonic()
            wait_s = worker.restarts.wait_s(now - worker.started)
            worker.due = now + wait_s
            logger.error("worker %d ended with status %d; it is started again in %g s", worker.number, status, wait_s)

    def _on_signal(self, number: int) -> None:
        if number in _STOP_SIGNALS:
            self._stop()
        elif number == signal.SIGHUP:
            for worker in self._workers:
                # One that is starting has not said yet what the signal is to do.
                worker.reload_owed = not worker.ready
                if worker.ready:
                    _send(worker, signal.SIGHUP)

    def _stop(self) -> None:
        """Ask the workers to end; a second time they end at once."""
        if self._kill_at is None:
            self._kill_at = time.monotonic() + self.drain_s + _GRACE_S
        for worker in self._workers:
            _send(worker, signal.SIGTERM)

    def _kill(self) -> None:
        for worker in self._workers:
            if worker.process is not None:
                worker.process.kill()
                worker.process.wait()
                worker.process = None
            self._forget_pipe(worker)

    def _forget_pipe(self, worker: _Worker) -> None:
        if worker.ready_pipe is not None:
            self._selector.unregister(worker.ready_pipe)
            os.close(worker.ready_pipe)
            worker.ready_pipe = None

    @contextmanager
    def _signals(self) -> Iterator[int]:
        """Yield a pipe that gets the numbers of the signals that come."""
        signals, write_end = os.pipe()
        os.set_blocking(write_end, False)
        previous = {number: signal.signal(number, _ignore) for number in _HANDLED}
        woken = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        self._selector.register(signals, selectors.EVENT_READ)
        try:
            yield signals
        finally:
            signal.set_wakeup_fd(woken)
            for number, handler in previous.items():
                signal.signal(number, handler)
            os.close(signals)
            os.close(write_end)


def run_workers(
    config: Path | None,
    *,
    host: str | None = None,
    port: int | None = None,
    count: int,
    on_ready: Callable[[str], None] | None = None,
    environment: Mapping[str, str] | None = None,
    command: Sequence[str] = ("service.worker",),
) -> int:
    """Run the gateway in several processes until SIGTERM or SIGINT, and return the exit status.

    Parameters
    ----------
    config : Path or None
        The configuration; None is the embedded one.
    host, port
        Override the configuration.
    count : int
        Number of processes.
    on_ready : callable, optional
        Called with the base URL once all of them answer.
    environment : mapping of str to str, optional
        Of the workers, and for the variables in the configuration; by default this process's.
    command : sequence of str
        Module and first arguments of a worker.

    Raises
    ------
    ConfigError
        If the configuration is wrong, the port is taken, or the system cannot share one among processes.
    """
    from service.server import bind, check_exposure, url_of
    from service.settings import load_settings

    settings = load_settings(config, environment=environment).at(host=host, port=port)
    check_exposure(settings)
    # Without SO_REUSEPORT first: with it the port could be shared with a gateway that runs already.
    with bind(settings.server) as probe:
        family, place = probe.family, probe.getsockname()
    arguments = [*command, "--port", str(place[1])]
    arguments += [] if config is None else ["--config", str(config)]
    arguments += [] if host is None else ["--host", host]
    with bind_shared(family, place) as address, tempfile.TemporaryDirectory(prefix="llmrouter-metrics-") as metrics:
        url = url_of(address)
        supervisor = Supervisor(
            arguments,
            address=address,
            count=count,
            drain_s=settings.server.drain_s,
            environment={**(os.environ if environment is None else environment), METRICS_VARIABLE: metrics},
            on_ready=lambda: on_ready and on_ready(url),
        )
        return supervisor.run()


def bind_shared(family: int, address: tuple[object, ...]) -> socket.socket:
    """Return a socket that is bound to an address which others of this user may be bound to as well.

    Raises
    ------
    ConfigError
        If the system has no such sockets, or the address cannot be bound.
    """
    if not hasattr(socket, "SO_REUSEPORT"):
        raise ConfigError("this system cannot spread connections over processes; set it to 1", path="server.workers")
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise ConfigError(f"cannot listen on {address[0]}:{address[1]}: {error.strerror}", path="server") from error
    return bound


def _bound_like(address: socket.socket) -> socket.socket:
    return bind_shared(address.family, address.getsockname())


def _send(worker: _Worker, number: int) -> None:
    if worker.process is not None:
        worker.process.send_signal(number)


def _forget_metrics(pid: int, environment: Mapping[str, str]) -> None:
    """Take what a process said of its present state out of the metrics; what it counted stays."""
    folder = environment.get(METRICS_VARIABLE)
    if folder:
        with contextlib.suppress(ImportError):
            from prometheus_client import multiprocess

            multiprocess.mark_process_dead(pid, folder)


def _ignore(*_: object) -> None:
    """Let the wake-up pipe tell of the signal."""
