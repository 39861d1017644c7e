"""Foreign code runs in a sandbox, or not at all."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from llmrouter.exceptions import ConfigError, SandboxError
from llmrouter.verifiers import _sandbox_launcher as launcher

Ending = Literal["exit", "timeout", "output", "signal"]

_LAUNCHER = Path(launcher.__file__)
_SHOWN = ("/usr", "/bin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache")
_START_S = 10.0
_LONGEST_REASON = 2000
_LARGEST_INPUT = 4 * 1024 * 1024
_LARGEST_PROGRAM = 64 * 1024  # it goes through an argument, whose length the kernel limits
_PIECE = 64 * 1024
_MEBIBYTE = 1024 * 1024
_SIGNALLED = 128
_REMEDY = (
    "Unit tests need Linux (x86_64 or aarch64, 5.11 or later) with user namespaces: "
    "sysctl kernel.unprivileged_userns_clone=1 and user.max_user_namespaces above 0, AppArmor's "
    "kernel.apparmor_restrict_unprivileged_userns=0, and in a container a seccomp profile that allows unshare and mount"
)


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """What a program in the sandbox may use.

    Attributes
    ----------
    wall_s : float
        Seconds from start to end.
    cpu_s : int
        Seconds of processor time.
    memory_bytes : int
        Of address space.
    disk_bytes : int
        In each of its two folders, which are in memory and end with it.
    output_bytes : int
        That it may write to standard output.
    """

    wall_s: float = 10.0
    cpu_s: int = 5
    memory_bytes: int = 512 * _MEBIBYTE
    disk_bytes: int = 16 * _MEBIBYTE
    output_bytes: int = 64 * 1024

    def __post_init__(self) -> None:
        """Check them.

        Raises
        ------
        ConfigError
            If one is not above 0.
        """
        for name, value in asdict(self).items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
                raise ConfigError(f"sandbox limit {name} {value!r} must be a number above 0")


@dataclass(frozen=True, slots=True)
class SandboxResult:
    """How a program in the sandbox ended.

    Attributes
    ----------
    ending : {"exit", "timeout", "output", "signal"}
        By itself, or stopped: for its time, for its output, by a signal (its memory or processor time may be used up).
    code : int
        Exit status, or the signal; 0 where it was stopped.
    output : bytes
        What it wrote to standard output, up to the limit.
    seconds : float
        Wall time.
    """

    ending: Ending
    code: int
    output: bytes
    seconds: float


def run_in_sandbox(program: str, given: bytes = b"", *, limits: SandboxLimits | None = None) -> SandboxResult:
    """Run a Python program without network, environment, processes or files of this machine but the interpreter's.

    It runs in namespaces of its own (user, mount, process, network, IPC, host name), as nobody, without capabilities,
    with a filter of system calls, with `limits`, and sees ``/usr``, ``/lib`` and the interpreter read only. Threads
    are allowed, processes are not. It ends when this process (or the thread that called) ends.

    Parameters
    ----------
    program : str
        Source, at most 64 KiB; the standard library is there, nothing else.
    given : bytes
        Its standard input, at most 4 MiB.
    limits : SandboxLimits, optional
        By default those of that class.

    Raises
    ------
    SandboxError
        If there is no sandbox to be had here; the program was not run then.
    """
    limits = limits or SandboxLimits()
    if len(given) > _LARGEST_INPUT:
        raise SandboxError(f"the input of {len(given)} bytes is larger than the sandbox takes ({_LARGEST_INPUT})")
    if len(program.encode("utf-8", "replace")) > _LARGEST_PROGRAM:
        raise SandboxError(f"the program is larger than the sandbox takes ({_LARGEST_PROGRAM} bytes)")
    if sys.platform != "linux":
        raise SandboxError(f"there is no sandbox on {sys.platform}. {_REMEDY}")
    python = os.path.realpath(sys.executable)
    shown = [*_SHOWN, *(path for path in (sys.base_prefix, str(Path(python).parent)) if not path.startswith("/usr"))]
    spec = {"program": program, "python": python, "paths": list(dict.fromkeys(shown)), **asdict(limits)}
    started = time.monotonic()
    process = subprocess.Popen(  # noqa: S603 - this interpreter, with a script of ours
        [sys.executable, "-I", "-S", str(_LAUNCHER), json.dumps(spec)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={},
        cwd="/",
        close_fds=True,
    )
    try:
        output, reason, stopped = _talk(process, given, limits, started)
    finally:
        _end(process)
    seconds = time.monotonic() - started
    if reason:  # only the launcher can write there
        raise SandboxError(f"no sandbox can be entered here: {reason.decode('utf-8', 'replace').strip()}. {_REMEDY}")
    if stopped is not None:
        return SandboxResult(stopped, 0, output, seconds)
    code = process.returncode
    if code < 0 or code == launcher.REFUSED:
        raise SandboxError(f"the sandbox's launcher ended with status {code} and said nothing")
    if code > _SIGNALLED:
        return SandboxResult("signal", code - _SIGNALLED, output, seconds)
    return SandboxResult("exit", code, output, seconds)


@lru_cache(maxsize=1)
def sandbox_problem() -> str:
    """Return why nothing can be run in a sandbox here, "" where it can; tried once a process."""
    try:
        result = run_in_sandbox("print('inside')", limits=SandboxLimits(wall_s=_START_S))
    except SandboxError as error:
        return str(error)
    if result.output.strip() != b"inside":
        return f"a program in the sandbox did not run: it ended with {result.ending} {result.code}"
    return ""


def _talk(
    process: subprocess.Popen[bytes], given: bytes, limits: SandboxLimits, started: float
) -> tuple[bytes, bytes, Ending | None]:
    """Feed and read a program; return its output, what the launcher said, and why it was stopped, if it was."""
    if process.stdin is None or process.stdout is None or process.stderr is None:
        raise SandboxError("the sandbox's pipes could not be opened")
    collected = {process.stdout: bytearray(), process.stderr: bytearray()}
    most = {process.stdout: limits.output_bytes, process.stderr: _LONGEST_REASON}
    rest = memoryview(given)
    with selectors.DefaultSelector() as selector:
        for pipe in collected:
            selector.register(pipe, selectors.EVENT_READ)
        os.set_blocking(process.stdin.fileno(), False)
        selector.register(process.stdin, selectors.EVENT_WRITE)
        while selector.get_map():
            left = limits.wall_s - (time.monotonic() - started)
            ready = selector.select(left) if left > 0 else []
            if not ready:
                return bytes(collected[process.stdout]), bytes(collected[process.stderr]), "timeout"
            for key, _ in ready:
                if key.fileobj is process.stdin:
                    rest = _feed(process, rest, selector)
                    continue
                pipe = process.stdout if key.fileobj is process.stdout else process.stderr
                piece = os.read(pipe.fileno(), _PIECE)
                if not piece:
                    selector.unregister(pipe)
                    continue
                collected[pipe] += piece[: most[pipe] - len(collected[pipe])]
                if pipe is process.stdout and len(collected[pipe]) >= most[pipe]:
                    return bytes(collected[process.stdout]), bytes(collected[process.stderr]), "output"
    try:
        process.wait(max(limits.wall_s - (time.monotonic() - started), 0.0))
    except subprocess.TimeoutExpired:
        return bytes(collected[process.stdout]), bytes(collected[process.stderr]), "timeout"
    return bytes(collected[process.stdout]), bytes(collected[process.stderr]), None


def _feed(process: subprocess.Popen[bytes], rest: memoryview, selector: selectors.BaseSelector) -> memoryview:
    if process.stdin is None:
        return rest
    try:
        rest = rest[os.write(process.stdin.fileno(), rest[:_PIECE]) :] if rest else rest
        done = not rest
    except BlockingIOError:
        return rest
    except BrokenPipeError:  # it does not want to know
        done = True
    if done:
        selector.unregister(process.stdin)
        process.stdin.close()
    return rest


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the launcher, and with it everything below it, and let go of the pipes."""
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
