"""Start changes of the pool out of a running gateway, one at a time, each in a process of its own."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from service.models.states import FAILED, RUNNING, JobFiles, new_id
from service.workers import METRICS_VARIABLE, WORKER_VARIABLE

logger = logging.getLogger(__name__)

_NOT_PASSED_ON = (METRICS_VARIABLE, WORKER_VARIABLE)


class JobRunningError(Exception):
    """Another job is running; its id is the argument."""


class ModelJobs:
    """The jobs of one worker; what they come to is in files that all workers read.

    A job ends with the worker that started it. Answers that were paid for are kept, and the next job goes on from them.

    Parameters
    ----------
    on_end : callable, optional
        Awaited after each job, so that what it changed is taken in at once.
    """

    def __init__(self, on_end: Callable[[], Awaitable[Any]] | None = None) -> None:
        self._on_end = on_end
        self._tasks: set[asyncio.Task[None]] = set()
        self._starting = asyncio.Lock()

    async def start(
        self, work: Path, config: Path, *, niceness: int, action: str, name: str, model: str, body: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Start a job and return its state.

        Parameters
        ----------
        work : Path
            Where states and answers are kept.
        config : Path
            The configuration.
        niceness : int
            How far it stands back for others.
        action, name, model : str
            What is changed, of which model, and the name that it has afterwards.
        body : mapping
            What is wanted, as `service.models.wanted.check_body` took it.

        Raises
        ------
        JobRunningError
            If one is running.
        ConfigError
            If its state cannot be written.
        """
        files = JobFiles(work / "jobs")
        async with self._starting:
            for state in await asyncio.to_thread(files.all):
                if state["status"] == RUNNING:
                    raise JobRunningError(state["id"])
            state = await asyncio.to_thread(lambda: files.create(new_id(), action=action, model=model))
            environment = {key: value for key, value in os.environ.items() if key not in _NOT_PASSED_ON}
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "service.child", "service.models.job"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                env=environment,
            )
            state["pid"] = process.pid
            await asyncio.to_thread(files.write, state)
        job = {
            "work": str(work),
            "config": str(config),
            "state": state,
            "action": action,
            "name": name,
            "body": dict(body),
            "niceness": niceness,
        }
        task = asyncio.create_task(self._wait(process, json.dumps(job).encode(), files, state["id"]))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return state

    async def _wait(self, process: asyncio.subprocess.Process, job: bytes, files: JobFiles, job_id: str) -> None:
        try:
            await process.communicate(job)
        except OSError:
            await process.wait()
        state = await asyncio.to_thread(files.read, job_id)
        if state is not None and state["status"] not in ("succeeded", FAILED):
            state |= {"status": FAILED, "error": f"the job's process ended with status {process.returncode}"}
            await asyncio.to_thread(files.write, state)
        if self._on_end is not None:
            try:
                await self._on_end()
            except Exception:
                logger.exception("the change of the pool by %s was not taken in at once", job_id)
