"""Jobs that change the pool: their states, in files that every worker reads."""

from __future__ import annotations

import json
import os
import re
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmrouter._files import write_atomically
from llmrouter.exceptions import ConfigError

RUNNING, SUCCEEDED, FAILED, INTERRUPTED = "running", "succeeded", "failed", "interrupted"
_ID = re.compile(r"mj_[0-9a-f]{24}")
_MOST_KEPT = 100
_START_S = 30.0


def new_id() -> str:
    """Return an id for a job."""
    return f"mj_{uuid.uuid4().hex[:24]}"


class JobFiles:
    """The states of jobs in a folder, one JSON file a job, written as a whole.

    Parameters
    ----------
    folder : Path
        Where they are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def create(self, job_id: str, *, action: str, model: str) -> dict[str, Any]:
        """Write the state of a job that is about to run, and return it.

        Raises
        ------
        ConfigError
            If it cannot be written.
        """
        now = round(time.time(), 3)
        state = {
            "id": job_id,
            "object": "model_job",
            "action": action,
            "model": model,
            "status": RUNNING,
            "created": now,
            "updated": now,
            "plan": None,
            "progress": None,
            "result": None,
            "error": "",
            "pid": None,
        }
        self.write(state)
        self._forget_old()
        return state

    def write(self, state: Mapping[str, Any]) -> None:
        """Write a state.

        Raises
        ------
        ConfigError
            If that is not possible.
        """
        path = self._path(str(state["id"]))
        try:
            write_atomically(path, json.dumps(state).encode())
        except OSError as error:
            raise ConfigError(f"cannot write {path}: {error.strerror or error}") from error

    def read(self, job_id: str) -> dict[str, Any] | None:
        """Return the state of a job, None where there is none; one whose process has gone is interrupted."""
        if not _ID.fullmatch(job_id):
            return None
        try:
            state: dict[str, Any] = json.loads(self._path(job_id).read_bytes())
        except (OSError, ValueError):
            return None
        if state["status"] == RUNNING and not _runs(state):
            state |= {"status": INTERRUPTED, "error": "the process ended; ask again, and it goes on from what is kept"}
        return state

    def all(self) -> list[dict[str, Any]]:
        """Return all states, newest first."""
        try:
            names = [path.stem for path in self.folder.glob("mj_*.json")]
        except OSError:
            return []
        found = [state for name in names if (state := self.read(name)) is not None]
        return sorted(found, key=lambda state: (-state["created"], state["id"]))

    def _path(self, job_id: str) -> Path:
        return self.folder / f"{job_id}.json"

    def _forget_old(self) -> None:
        for state in self.all()[_MOST_KEPT:]:
            if state["status"] != RUNNING:
                self._path(state["id"]).unlink(missing_ok=True)


def shown(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state as clients see it."""
    return {key: value for key, value in state.items() if key != "pid"}


def _runs(state: Mapping[str, Any]) -> bool:
    pid = state.get("pid")
    if pid is None:  # its process is about to be started, unless whoever meant to has gone
        return time.time() - float(state["created"]) < _START_S
    return _is_alive(pid)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
