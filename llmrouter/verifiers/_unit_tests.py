"""The verifier that runs code written by a model against given tests, in a sandbox."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from typing import Literal, get_args

from llmrouter.exceptions import ConfigError, SignalError
from llmrouter.verifiers._sandbox import SandboxLimits, run_in_sandbox
from llmrouter.verifiers._verdict import Verdict, fenced_blocks

Score = Literal["all", "share"]

_MOST_TESTS = 200
_LARGEST = 256 * 1024
_MEBIBYTE = 1024 * 1024
_PYTHON = frozenset({"python", "py", "python3", ""})

# Standard output of the program is the verdict's way out: the code under test finds nothing there. The token makes a
# verdict that only something which looks for it in the interpreter itself can forge.
_HARNESS = """
import json, os, sys
_given = json.loads(sys.stdin.buffer.read())
_out = os.dup(1)
_null = os.open("/dev/null", os.O_RDWR)
os.dup2(_null, 0); os.dup2(_null, 1); os.dup2(_null, 2)

def _run(given, out):
    def attempt(source, space, name):
        try:
            exec(compile(source, name, "exec"), space)
        except BaseException as error:
            return type(error).__name__
        return ""
    space = {"__name__": "answer"}
    failure = attempt(given["setup"], space, "setup") or attempt(given["code"], space, "answer")
    failures = [failure or attempt(test, space, "test") for test in given["tests"]]
    os.write(out, json.dumps({"token": given["token"], "failures": failures}).encode())
    os._exit(0)

sys.setrecursionlimit(3000)
_run(_given, _out)
"""


class UnitTestsVerifier:
    """The share of tests that the answer's code passes, or whether it passes all; Python only.

    The code is what stands in the answer's blocks of three backticks (all Python ones, joined), or the whole answer
    where there is none. Tests are Python statements, such as ``assert f(2) == 4``, that run one after the other in
    the code's own name space; one that raises has failed. Code and tests run in one process, so code that takes the
    interpreter apart can report what it likes: what is kept safe is this machine, and honest models' scores.

    Parameters
    ----------
    tests : str or list of str
        One test, or up to 200.
    setup : str
        Run before the code.
    prefix : str
        Put before the code, e.g. the head of a function that the prompt asked to complete.
    score : {"all", "share"}
        1 only for all tests passed, or the share of them.
    timeout_s : float
        Seconds for all of it, at most 60; who is slower has failed.
    memory_mb : int
        Mebibytes of address space, 64 to 4,096.

    Raises
    ------
    ConfigError
        If a parameter is wrong.
    """

    def __init__(
        self,
        tests: str | Sequence[str],
        *,
        setup: str = "",
        prefix: str = "",
        score: Score = "all",
        timeout_s: float = 10.0,
        memory_mb: int = 512,
    ) -> None:
        listed = [tests] if isinstance(tests, str) else tests
        if not isinstance(listed, list | tuple) or not 0 < len(listed) <= _MOST_TESTS:
            raise ConfigError(f"unit_tests: tests must be a text or a list of 1 to {_MOST_TESTS}", path="tests")
        for name, text in (("setup", setup), ("prefix", prefix), *(("tests", test) for test in listed)):
            if not isinstance(text, str):
                raise ConfigError(f"unit_tests: {name} must be text", path=name)
        if sum(map(len, (setup, prefix, *listed))) > _LARGEST:
            raise ConfigError(f"unit_tests: tests, setup and prefix may have {_LARGEST} characters", path="tests")
        if score not in get_args(Score):
            raise ConfigError(f"unit_tests: score {score!r} must be one of {', '.join(get_args(Score))}", path="score")
        if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float) or not 0 < timeout_s <= 60:
            raise ConfigError(f"unit_tests: timeout_s {timeout_s!r} must be above 0 and at most 60", path="timeout_s")
        if isinstance(memory_mb, bool) or not isinstance(memory_mb, int) or not 64 <= memory_mb <= 4096:
            raise ConfigError(f"unit_tests: memory_mb {memory_mb!r} must be from 64 to 4096", path="memory_mb")
        self.tests = tuple(listed)
        self.setup, self.prefix, self.score = setup, prefix, score
        self.limits = SandboxLimits(
            wall_s=float(timeout_s), cpu_s=max(int(timeout_s), 1), memory_bytes=memory_mb * _MEBIBYTE
        )

    def verify(self, answer: str, /) -> Verdict:
        """Run an answer.

        Raises
        ------
        SandboxError
            If there is no sandbox to be had here; nothing was run then.
        SignalError
            If the answer is too long.
        """
        code = code_in(answer)
        if len(code) > _LARGEST:
            raise SignalError(f"unit_tests: the code has {len(code)} characters, {_LARGEST} are allowed")
        token = secrets.token_hex(16)
        given = {"code": self.prefix + code, "setup": self.setup, "tests": self.tests, "token": token}
        result = run_in_sandbox(_HARNESS, json.dumps(given).encode(), limits=self.limits)
        if result.ending != "exit":
            return Verdict(0.0, {"timeout": "too slow", "output": "wrote too much"}.get(result.ending, "was killed"))
        try:
            told = json.loads(result.output)
            failures = told["failures"] if told["token"] == token else None
        except (ValueError, TypeError, KeyError):
            failures = None
        if failures is None:
            return Verdict(0.0, "ended before the tests did")
        passed = sum(not failure for failure in failures)
        quality = passed / len(failures) if self.score == "share" else float(passed == len(failures))
        first = next((failure for failure in failures if failure), "")
        return Verdict(quality, f"{passed} of {len(failures)} tests" + (f", {first[:80]} first" if first else ""))


def code_in(answer: str) -> str:
    """Return the Python code of an answer; see `UnitTestsVerifier`."""
    blocks = [content for language, content in fenced_blocks(answer) if language in _PYTHON]
    return "\n".join(blocks) if blocks else answer
