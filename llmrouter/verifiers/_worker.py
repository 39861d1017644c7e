"""The process in which verifiers run: ``python -m llmrouter.verifiers._worker``, a line of JSON each way."""

from __future__ import annotations

import signal
import sys
from typing import Any

import orjson

from llmrouter.exceptions import LLMRouterError, SandboxError
from llmrouter.verifiers._verdict import create_verifier


def judge(job: dict[str, Any]) -> dict[str, Any]:
    """Return the verdict on ``job["answer"]`` of the verifier ``job["spec"]``, or why there is none."""
    try:
        verdict = create_verifier(job["spec"]).verify(job["answer"])
    except SandboxError as error:
        return {"error": str(error), "sandbox": True}
    except LLMRouterError as error:
        return {"error": str(error)}
    except (Exception, MemoryError) as error:  # of a plug-in: it must not take the others along
        return {"error": f"{type(error).__name__}: {error}"}
    return {"quality": verdict.quality, "detail": verdict.detail}


def main() -> None:
    """Judge line by line until the input ends. Whatever takes longer than its time ends the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the gateway ends it
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # which also ends a search that never comes back to Python
    for line in sys.stdin.buffer:
        job = orjson.loads(line)
        signal.setitimer(signal.ITIMER_REAL, job["limit_s"])
        reply = judge(job)
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.stdout.buffer.write(orjson.dumps(reply) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
