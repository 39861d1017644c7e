"""Code that a model wrote, against tests, in the sandbox; and verifiers in a process of their own."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from llmrouter.exceptions import ConfigError, SandboxError, SignalError
from llmrouter.verifiers import Verdict, VerifierProcess, _unit_tests, create_verifier, sandbox_problem

SQUARE = "Sure:\n```python\ndef f(x):\n    return x * x\n```\nThat is it."

needs_sandbox = pytest.mark.skipif(bool(sandbox_problem()), reason="no sandbox here")


def judge(answer: str, tests: Any = ("assert f(2) == 4", "assert f(3) == 9"), **parameters: Any) -> Verdict:
    listed = list(tests) if isinstance(tests, tuple) else tests
    return create_verifier({"kind": "unit_tests", "tests": listed, "timeout_s": 20, **parameters}).verify(answer)


@needs_sandbox
@pytest.mark.parametrize(
    ("answer", "quality"),
    [
        (SQUARE, 1.0),
        ("def f(x): return x ** 2", 1.0),
        ("```py\ndef g(x): return x * x\n```\nand\n```python\nf = g\n```", 1.0),
        ("```json\n{}\n```\ndef f(x): return 0", 0.0),
        ("def f(x): return 4", 0.0),
        ("def f(x) return 4", 0.0),
        ("", 0.0),
        ("import os\nos._exit(0)", 0.0),
        ("raise SystemExit(0)", 0.0),
        ('import sys\nprint(\'{"failures": ["", ""]}\')\nsys.exit(0)', 0.0),
        ('import os\nos.write(1, b\'{"token": "", "failures": ["", ""]}\')\nos._exit(0)', 0.0),
        ("def f(x):\n    return f(x)", 0.0),
        ("def f(x):\n    return __import__('socket').socket()", 0.0),
        ("def f(x):\n    return open('/etc/passwd').read()", 0.0),
    ],
)
def test_answers(answer: str, quality: float) -> None:
    assert judge(answer).quality == quality


@needs_sandbox
def test_a_share_of_the_tests() -> None:
    tests = ("assert f(2) == 4", "assert f(3) == 8", "assert undefined", "assert f(0) == 0")
    verdict = judge(SQUARE, tests, score="share")
    assert verdict.quality == 0.5
    assert verdict.detail == "2 of 4 tests, AssertionError first"
    assert judge(SQUARE, tests).quality == 0.0


@needs_sandbox
def test_setup_and_prefix() -> None:
    assert (
        judge("    return math.floor(x)", "assert f(2.5) == 2", setup="import math", prefix="def f(x):\n").quality == 1
    )
    assert judge("def f(x): return 1", "assert f(1) == 1", setup="import nowhere").quality == 0


@needs_sandbox
def test_slow_code_has_failed() -> None:
    before = time.monotonic()
    verdict = judge("while True: pass", timeout_s=1)
    assert verdict.quality == 0
    assert time.monotonic() - before < 15


@needs_sandbox
def test_what_code_prints_is_no_verdict_and_no_limit() -> None:
    noisy = "def f(x):\n    print('x' * 1000000)\n    return x * x"
    assert judge(noisy).quality == 1


@pytest.mark.parametrize(
    ("parameters", "path"),
    [
        ({"tests": []}, "tests"),
        ({"tests": 5}, "tests"),
        ({"tests": ["a", 5]}, "tests"),
        ({"tests": ["a"] * 201}, "tests"),
        ({"tests": "a" * 300_000}, "tests"),
        ({"setup": 1}, "setup"),
        ({"score": "some"}, "score"),
        ({"timeout_s": 61}, "timeout_s"),
        ({"timeout_s": True}, "timeout_s"),
        ({"memory_mb": 1}, "memory_mb"),
    ],
)
def test_wrong_parameters(parameters: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        create_verifier({"kind": "unit_tests", "tests": "assert True", **parameters})
    assert caught.value.path == path


def test_without_a_sandbox_nothing_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise SandboxError("none here")

    monkeypatch.setattr(_unit_tests, "run_in_sandbox", refuse)
    with pytest.raises(SandboxError, match="none here"):
        judge(SQUARE)


def test_too_much_code_is_no_judgement() -> None:
    with pytest.raises(SignalError, match="characters"):
        judge("x" * 300_000)


# The process


@pytest.fixture
def process() -> Any:
    made = VerifierProcess()
    yield made
    made.close()


def test_a_process_judges_many(process: VerifierProcess) -> None:
    for i in range(50):
        verdict = process.verify({"kind": "numeric", "answer": i}, f"it is {i}", limit_s=10)
        assert verdict.quality == 1.0


def test_a_pattern_without_end_is_stopped_and_the_next_is_judged(process: VerifierProcess) -> None:
    process.verify({"kind": "exact", "answer": "a"}, "a", limit_s=10)
    before = time.monotonic()
    with pytest.raises(SignalError, match=r"longer than 0.3 s"):
        process.verify({"kind": "regex", "pattern": "(a+)+$"}, "a" * 50 + "b", limit_s=0.3)
    assert time.monotonic() - before < 5
    assert process.verify({"kind": "regex", "pattern": "a"}, "a", limit_s=10).quality == 1.0


@pytest.mark.parametrize(
    "spec",
    [{"kind": "magic"}, {"kind": "numeric"}, {"kind": "json_schema", "schema": {"type": "x"}}, {"kind": {1: 2}}],
)
def test_what_cannot_be_judged_is_told_and_the_process_lives(process: VerifierProcess, spec: dict[str, Any]) -> None:
    with pytest.raises(SignalError):
        process.verify(spec, "1", limit_s=10)
    assert process.verify({"kind": "numeric", "answer": 1}, "1", limit_s=10).quality == 1.0


def test_odd_text_is_judged(process: VerifierProcess) -> None:
    assert process.verify({"kind": "regex", "pattern": "\n"}, "a\nb\ud800\x00", limit_s=10).quality == 1.0


def test_a_killed_process_is_started_again(process: VerifierProcess) -> None:
    process.verify({"kind": "numeric", "answer": 1}, "1", limit_s=10)
    assert process._child is not None
    os.kill(process._child.pid, 9)
    process._child.wait()
    assert process.verify({"kind": "numeric", "answer": 1}, "1", limit_s=10).quality == 1.0


def test_threads_take_turns(process: VerifierProcess) -> None:
    wrong: list[int] = []

    def ask(i: int) -> None:
        quality = process.verify({"kind": "numeric", "answer": i}, str(i if i % 2 else -i - 1), limit_s=20).quality
        if quality != i % 2:
            wrong.append(i)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_process_knows_no_secret(process: VerifierProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    process.verify({"kind": "numeric", "answer": 1}, "1", limit_s=10)
    assert process._child is not None
    assert b"sk-secret" not in Path(f"/proc/{process._child.pid}/environ").read_bytes()


def test_a_closed_process_judges_nothing(process: VerifierProcess) -> None:
    process.close()
    process.close()
    with pytest.raises(SignalError, match="closed"):
        process.verify({"kind": "numeric", "answer": 1}, "1")
