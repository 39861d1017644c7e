"""A program that trains on a log again and again, and is killed before the first, second, ... change of the disk."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from trainer import problems_of

from llmrouter.learning import current_artifact, list_artifacts, read_history
from llmrouter.types import Outcome
from training.from_log import LogTraining, train_from_log

CHANGES = frozenset({"os.mkdir", "os.rename", "os.symlink", "os.remove", "os.chmod", "shutil.rmtree", "open"})
MOST = 100


def outcomes(seed: int) -> list[Outcome]:
    """Return a small log; another seed, another artifact."""
    return [
        Outcome(
            request_id=f"r{i}",
            time=1e9 + i,
            model="ab"[i % 2],
            served_by="ab"[i % 2],
            policy="explore",
            propensity=0.5,
            candidates={name: {"quality": 0.5, "propensity": 0.5} for name in "ab"},
            prompt=f"What is {i} plus {seed}?",
            cost_usd=0.001,
            quality=(i * i + seed) % 11 / 10,
        )
        for i in range(60)
    ]


def train(out: Path, seed: int) -> None:
    """Train and promote whatever comes out."""
    settings = LogTraining(router="linear-bandit:penalty=3.0", encoder="form", trust=False)
    train_from_log(outcomes(seed), out, settings=settings, gate=None, say=lambda _: None)


class Deaths:
    """An audit hook: at the first change of a folder it forks one child after the other, each to die a change later.

    Parameters
    ----------
    out : Path
        The folder; each child finds it as the first one did, beside what the ones before left half-written.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.kept = out.with_name("kept")
        self.step = self.done = 0
        self.busy = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Take note of an event, and be killed before the change that it announces if its time has come."""
        if self.busy or event not in CHANGES or not self._concerns(event, arguments):
            return
        if not self.step:
            self._fork()
        self.done += 1
        if self.done == self.step:
            print(event, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

    def _concerns(self, event: str, arguments: tuple[Any, ...]) -> bool:
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return False
        return any(isinstance(value, str | os.PathLike) and str(self.out) in str(value) for value in arguments)

    def _fork(self) -> None:
        """Return in each child; the parent ends when one of them has come to its end."""
        self.busy = True
        shutil.copytree(self.out, self.kept, symlinks=True)
        for step in range(1, MOST):
            before = current_artifact(self.out)
            child = os.fork()
            if child == 0:
                self.step, self.busy = step, False
                return
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            print(json.dumps({"status": status, **found(self.out, before)}), flush=True)
            if status == 0:
                break
            self._restore()
        os._exit(0)

    def _restore(self) -> None:
        for path in self.out.iterdir():
            if path.is_dir() and not path.is_symlink():
                if not path.name.startswith(".new-"):
                    shutil.rmtree(path)
            else:
                path.unlink()
        shutil.copytree(self.kept, self.out, symlinks=True, dirs_exist_ok=True)


def found(out: Path, before: str) -> dict[str, Any]:
    """Return what a child has left; `before` was the current artifact."""
    now = current_artifact(out)
    return {
        "problems": problems_of(out) + [one.problem for one in list_artifacts(out) if one.problem],
        "half": len(list(out.glob(".new-*"))),
        "moved": now != before,
        "ahead": read_history(out)[-1].artifact != now,
    }


def main(out: Path) -> None:
    """Train once undisturbed; then be killed one change later each time, until a training comes to its end."""
    train(out, 0)
    sys.addaudithook(Deaths(out))
    train(out, 1)
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
