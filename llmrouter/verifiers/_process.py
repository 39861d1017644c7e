"""Verifiers in a process of their own, under a time limit."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import orjson

import llmrouter
from llmrouter.exceptions import SandboxError, SignalError
from llmrouter.verifiers._verdict import Verdict

_WORKER = "llmrouter.verifiers._worker"
_ROOT = Path(llmrouter.__file__).parent.parent
_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV")


class VerifierProcess:
    """Run verifiers in a child process: a pattern or a plug-in that never ends harms nobody.

    The child is started when it is first needed, without the environment of this process but for where programs and
    libraries are, and again when it ended. One job at a time; threads wait for each other.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._closed = False

    def verify(self, spec: Mapping[str, Any], answer: str, *, limit_s: float = 2.0) -> Verdict:
        """Judge an answer with the verifier of a specification; see `create_verifier`.

        Parameters
        ----------
        spec : mapping
            ``kind`` and parameters, JSON values.
        answer : str
            Text of the answer.
        limit_s : float
            Seconds, above 0.

        Raises
        ------
        SandboxError
            If the verifier needs a sandbox and there is none to be had.
        SignalError
            If it does not know, fails, or takes longer.
        """
        job = {"spec": spec, "answer": answer.encode("utf-8", "replace").decode(), "limit_s": limit_s}
        try:
            line = orjson.dumps(job) + b"\n"
        except TypeError as error:
            raise SignalError(f"the verifier's specification is no JSON: {error}") from error
        with self._lock:
            reply = self._ask(line)
        if reply is None:
            raise SignalError(f"the verifier {spec.get('kind')!r} took longer than {limit_s:g} s, or crashed")
        if "error" in reply:
            kind = SandboxError if reply.get("sandbox") else SignalError
            raise kind(reply["error"])
        return Verdict(min(max(float(reply["quality"]), 0.0), 1.0), str(reply["detail"]))

    def close(self) -> None:
        """End the child; idempotent. A job under way is broken off."""
        self._closed = True
        child = self._child
        if child is not None:
            child.kill()
        with self._lock:
            self._end()

    def _ask(self, line: bytes) -> dict[str, Any] | None:
        """Return the child's reply, None where it ended instead; it ends itself when the time is up."""
        stdin, stdout = self._pipes()
        try:
            stdin.write(line)
            stdin.flush()
            answered = stdout.readline()
        except OSError:
            answered = b""
        if answered.endswith(b"\n"):
            reply: dict[str, Any] = orjson.loads(answered)
            return reply
        self._end()
        return None

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        if self._closed:
            raise SignalError("the verifiers are closed: the gateway is stopping")
        if self._child is None or self._child.poll() is not None:
            self._end()
            environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
            self._child = subprocess.Popen(  # noqa: S603 - this interpreter, with a module of ours
                [sys.executable, "-m", _WORKER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**environment, "PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                close_fds=True,
            )
        if self._child.stdin is None or self._child.stdout is None:
            raise SignalError("the verifiers' process has no pipes")
        return self._child.stdin, self._child.stdout

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # what was not written yet goes nowhere
                    pipe.close()
