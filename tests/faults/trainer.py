"""The real trainer over a live log, again and again, killed at any moment; and what must hold of what it leaves."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from llmrouter import artifact
from llmrouter.exceptions import StoreError
from llmrouter.learning import read_history
from llmrouter.outcomes import open_store

Moment = Literal["any", "writing", "pointer"]
MOMENTS: tuple[Moment, ...] = ("any", "writing", "any", "pointer")
"""When a training is killed: whenever it is, once it has begun to write, or once it has noted a move of the link."""

_HISTORY = "history.jsonl"
_PATIENCE_S = 90.0
_POLL_S = 0.0005
_PAUSE_S = 0.5


class Judged:
    """The judged requests of a log, by time and model, read from its events: only what is new each time."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._cursor = ""
        self._known: dict[str, tuple[float, str]] = {}

    def refresh(self) -> None:
        """Read on; a log that is away comes back."""
        ends = time.monotonic() + _PATIENCE_S
        while True:
            try:
                store = open_store(self._url)
                try:
                    while page := store.events(self._cursor, 1000):
                        self._known |= {e.outcome.request_id: (e.outcome.time, e.outcome.served_by or "") for e in page}
                        self._cursor = page[-1].cursor
                finally:
                    store.close()
            except StoreError:
                if time.monotonic() > ends:
                    raise
                time.sleep(0.1)
            else:
                return

    def count(self, until: float) -> Counter[str]:
        """Return how many there are by model, of requests before a moment."""
        return Counter(model for when, model in self._known.values() if when < until)


@dataclass
class Found:
    """What a trainer came to.

    Attributes
    ----------
    finished : int
        Trainings that ended well.
    exact : int
        Of them, those before and after which the log held the same judgements: they must name exactly these.
    refused : Counter of str
        Reasons of those that ended with an error.
    killed : Counter of str
        Where a kill fell, by what it left.
    longest_s : float
        Seconds of the longest training that ended well.
    problems : list of str
        What must not be.
    """

    finished: int = 0
    exact: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    killed: Counter[str] = field(default_factory=Counter)
    longest_s: float = 0.0
    problems: list[str] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "finished": self.finished,
            "of_them_with_a_log_that_stood_still": self.exact,
            "ended_with_an_error": dict(self.refused),
            "killed": dict(self.killed),
            "longest_s": round(self.longest_s, 1),
            "problems": self.problems,
        }


class Trainer:
    """``llmrouter train --from-log`` in a loop, promoting whatever comes out.

    Parameters
    ----------
    url : str
        The log.
    config : Path
        Of the gateway.
    out : Path
        The folder of artifacts, with a link ``current`` in it.
    settle_s : float
        Requests younger than that are left out, so that their judgements have mostly come.
    """

    def __init__(self, url: str, config: Path, out: Path, *, settle_s: float) -> None:
        self.found = Found()
        self.out = out
        self._words = [sys.executable, "-m", "llmrouter.cli", "train", "--no-gate", "--from-log", url]
        self._words += ["--config", str(config), "--out", str(out), "--router", "linear-bandit:penalty=3.0"]
        self._settle_s = settle_s
        self._judged = Judged(url)
        self._stop = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._threads = [threading.Thread(target=loop, daemon=True) for loop in (self._train, self._watch)]

    def start(self) -> None:
        """Begin, in threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the loop, and a training under way with it."""
        self._stop.set()
        if self._process is not None:
            self._process.kill()
        for thread in self._threads:
            thread.join(2 * _PATIENCE_S)
            assert not thread.is_alive()

    def kill(self, moment: Moment, draw: random.Random) -> None:
        """Kill a training; try again where one was faster."""
        ends = time.monotonic() + 4 * _PATIENCE_S
        while not self._killed(moment, draw):
            assert time.monotonic() < ends, f"no training came to {moment!r}: {self.found}"

    def finish(self) -> None:
        """Wait until a training has come to its end."""
        before = self.found.finished
        self._wait(lambda: self.found.finished > before)

    def train(self) -> dict[str, Any]:
        """Train once on the whole log, which stands still, and return what the artifact says of it."""
        done = subprocess.run(self._words, capture_output=True, text=True, check=False, timeout=2 * _PATIENCE_S)
        assert done.returncode == 0, done.stderr
        return _described(_written(self.out, done.stdout))

    # The threads

    def _train(self) -> None:
        try:
            self._train_on()
        except Exception as error:
            self.found.problems.append(f"the trial itself: {error!r}")

    def _train_on(self) -> None:
        while not self._stop.wait(_PAUSE_S):
            self._judged.refresh()
            until = time.time() - self._settle_s
            before = self._judged.count(until)
            words = [*self._words, "--until", repr(until)]
            began = time.monotonic()
            self._process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            output, errors = self._process.communicate()
            if self._process.returncode == 0:
                self.found.longest_s = max(self.found.longest_s, time.monotonic() - began)
            self._judged.refresh()
            if self._process.returncode == 0:
                self._compare(before, self._judged.count(until), _described(_written(self.out, output)))
            elif self._process.returncode > 0:
                self._refused(errors)

    def _compare(self, before: Counter[str], after: Counter[str], log: dict[str, Any]) -> None:
        """Hold what a finished training names against the log as it was before and after."""
        self.found.finished += 1
        self.found.exact += before == after
        models: dict[str, int] = log["models"]
        between = all(before[model] <= count <= after[model] for model, count in models.items())
        adds_up = sum(models.values()) == log["judged"] == log["trained_on"] + log["evaluated_on"]
        if not (between and adds_up and set(after) <= set(models)):
            self.found.problems.append(f"a training names {log}, the log held {before}, then {after}")

    def _refused(self, errors: str) -> None:
        known = {"needs 50": "too few judgements", "no outcome to learn from": "too few judgements"}
        away = ("ConnectionError", "TimeoutError", "BusyLoadingError", "did not answer a moment ago")
        known |= {"does not exist": "no log yet", **dict.fromkeys(away, "log away")}
        for words, reason in known.items():
            if words in errors and "Traceback" not in errors:
                self.found.refused[reason] += 1
                return
        self.found.problems.append(f"a training ended with {errors}")

    def _watch(self) -> None:
        """See that the link always names a whole artifact."""
        seen = ""
        while not self._stop.wait(0.002):
            try:
                name = (self.out / artifact.CURRENT).readlink().name
                if name != seen:
                    artifact.read_manifest(self.out / name)
                    seen = name
            except Exception as error:
                self.found.problems.append(f"current: {error!r}")
                return

    # Killing

    def _killed(self, moment: Moment, draw: random.Random) -> bool:
        left, size = set(self.out.glob(".new-*")), _size(self.out)
        if moment == "any":
            time.sleep(draw.uniform(0.0, 4.0))
        elif moment == "writing":
            self._wait(lambda: bool(set(self.out.glob(".new-*")) - left))
            time.sleep(draw.uniform(0.0, 0.03))
        else:
            self._wait(lambda: _size(self.out) > size)
            time.sleep(draw.uniform(0.0, 0.001))
        process = self._process
        if process is None or process.poll() is not None:
            return False
        process.kill()
        if process.wait() == 0:
            return False
        half = set(self.out.glob(".new-*")) - left
        moves = read_history(self.out)
        now = (self.out / artifact.CURRENT).readlink().name
        ahead = bool(moves) and _size(self.out) > size and moves[-1].artifact != now
        self.found.killed["while it wrote" if half else "before the link moved" if ahead else "elsewhere"] += 1
        self.found.problems += problems_of(self.out)
        return True

    def _wait(self, condition: Callable[[], bool]) -> None:
        ends = time.monotonic() + 2 * _PATIENCE_S
        while not condition():
            assert not self.found.problems, self.found.problems
            assert time.monotonic() < ends, f"no training came that far: {self.found}"
            time.sleep(_POLL_S)


def problems_of(out: Path) -> list[str]:
    """Return what is wrong with a folder of artifacts: all that is not hidden is whole, and the link names one."""
    problems = []
    for folder in out.iterdir():
        if folder.is_dir() and not folder.is_symlink() and not folder.name.startswith("."):
            try:
                artifact.read_manifest(folder)
            except Exception as error:
                problems.append(f"{folder.name}: {error!r}")
    if not (out / artifact.CURRENT / "manifest.json").is_file():
        problems.append("current names no artifact")
    lines = (out / _HISTORY).read_bytes().splitlines() if (out / _HISTORY).exists() else []
    if len(lines) - len(read_history(out)) > _cut_off(lines):
        problems.append("a line of the history is damaged")
    return problems


def first_artifact(out: Path) -> Path:
    """Put the artifact that ships with the package into a new folder, make it current, and return the link."""
    shipped = artifact.default_artifact()
    name = str(artifact.read_manifest(shipped)["id"])
    out.mkdir()
    return artifact.promote(Path(shutil.copytree(shipped, out / name)))


@contextmanager
def training(url: str, config: Path, out: Path, *, settle_s: float) -> Iterator[Trainer]:
    """Run a trainer; it ends with the block."""
    trainer = Trainer(url, config, out, settle_s=settle_s)
    trainer.start()
    try:
        yield trainer
    finally:
        trainer.stop()


def _cut_off(lines: list[bytes]) -> int:
    """Return how many lines are the beginning of one only: those of a writer that was killed in its one write."""
    return sum(not line.endswith(b"}") for line in lines)


def _described(folder: Path) -> dict[str, Any]:
    described: dict[str, Any] = json.loads((folder / "manifest.json").read_bytes())["training"]["log"]
    return described


def _written(out: Path, output: str) -> Path:
    line = next(line for line in output.splitlines() if line.startswith("wrote "))
    return out / Path(line.removeprefix("wrote ")).name


def _size(out: Path) -> int:
    try:
        return os.stat(out / _HISTORY).st_size  # noqa: PTH116 - in a tight loop
    except FileNotFoundError:
        return 0
