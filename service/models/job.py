"""``python -m service.models.job``: one change of the pool in a process of its own, which a gateway started.

A profile encodes prompts, loads an artifact twice and decides thousands of times: in the gateway's own process that
would take the interpreter from the requests under way. The job comes on stdin, its state goes into a file.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmrouter.exceptions import LLMRouterError
from service.models.overlay import locked
from service.models.states import FAILED, SUCCEEDED, JobFiles
from service.threads import pin_threads

if TYPE_CHECKING:
    from llmrouter.learning import ProfileProgress
    from service.models.overlay import Overlay
    from service.settings import Settings

logger = logging.getLogger(__name__)

_BETWEEN_WRITES_S = 0.25


def main() -> int:
    """Do the job and return the exit status."""
    pin_threads()
    job: dict[str, Any] = json.loads(sys.stdin.buffer.read())
    os.nice(job["niceness"])
    work = Path(job["work"])
    files = JobFiles(work / "jobs")
    state = {**job["state"], "pid": os.getpid()}
    files.write(state)
    try:
        with locked(work / "job.lock", wait=False):
            state["result"] = _carry_out(job, files, state)
        state["status"] = SUCCEEDED
    except LLMRouterError as error:
        state |= {"status": FAILED, "error": str(error)}
    except Exception as error:
        logger.exception("a fault of the gateway itself ended a change of the pool")
        state |= {"status": FAILED, "error": f"a fault of the gateway: {type(error).__name__}"}
    state |= {"updated": round(time.time(), 3)}
    files.write(state)
    return 0 if state["status"] == SUCCEEDED else 1


def _carry_out(job: dict[str, Any], files: JobFiles, state: dict[str, Any]) -> dict[str, Any]:
    from llmrouter.learning import references_of
    from service.models import sources
    from service.models.changes import Bench
    from service.models.scorers import make_scorer
    from service.models.show import change_document
    from service.models.wanted import wanted_of
    from service.settings import load_settings

    config = Path(job["config"])

    def load(overlay: Overlay | None) -> Settings:
        return load_settings(config, overlay=overlay)

    body = job["body"]
    references = references_of(body.get("references") or [], source="references")
    bench = Bench(load, table=sources.table_of_log, references=references)
    wanted = wanted_of(job["action"], job["name"], body)
    scorer = None
    if wanted.action in ("add", "replace") and wanted.how == "profile":
        scorer = make_scorer(body.get("scorer", "reference"), load(None), references=references, functions=False)
    prepared = bench.prepare(wanted, only_referenced=scorer is not None and scorer.name == "reference")
    result = None
    if prepared.plan is not None and scorer is not None:
        plan = prepared.plan
        state["plan"] = {
            "prompts": len(plan.questions),
            "expected_usd": plan.expected_usd,
            "most_usd": min(plan.most_usd, wanted.profile.max_usd),
        }
        files.write(state)
        written = time.monotonic()

        def progress(now: ProfileProgress) -> None:
            nonlocal written
            state["progress"] = {
                "done": now.done,
                "total": now.total,
                "failed": now.failed,
                "spent_usd": now.spent_usd,
            }
            if now.done == now.total or time.monotonic() - written > _BETWEEN_WRITES_S:
                written = time.monotonic()
                state["updated"] = round(time.time(), 3)
                files.write(state)

        result = asyncio.run(bench.ask(prepared, scorer, progress=progress))
    change = bench.work_out(prepared, result)
    applied = bool(body.get("apply", True))
    if applied:
        change = bench.apply(prepared, change, result)
    return {**change_document(prepared, change), "applied": applied}


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    sys.exit(main())
