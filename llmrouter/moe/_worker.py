"""The one thread in which local models compute."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmrouter.moe._engine import Engine


class EngineWorker:
    """Runs the steps of any number of engines in turn, in one thread.

    One thread serves several models because they share the same cores anyway: taking turns step by step gives each
    its part without threads fighting over the interpreter and the caches.

    Parameters
    ----------
    threads : int
        Torch's intra-op threads, set process-wide when the worker starts. More than one pays only for large models.
    """

    def __init__(self, *, threads: int = 1) -> None:
        self.threads = threads
        self._engines: list[Engine] = []
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._work = False

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def add(self, engine: Engine) -> None:
        """Serve `engine` too, starting the thread with the first one."""
        with self._condition:
            self._engines.append(engine)
            if self._thread is None:
                self._stopping = False
                self._thread = threading.Thread(target=self._run, name="llmrouter-moe", daemon=True)
                self._thread.start()

    def remove(self, engine: Engine) -> None:
        """Serve `engine` no longer; the thread ends with the last one. Returns when no step of it is running."""
        with self._condition:
            if engine in self._engines:
                self._engines.remove(engine)
            self._stopping = not self._engines
            thread = self._thread
            self._condition.notify_all()
        if self._stopping and thread is not None and thread is not threading.current_thread():
            thread.join()
            self._thread = None

    def notify(self) -> None:
        """Say that an engine has work."""
        with self._condition:
            self._work = True
            self._condition.notify_all()

    def _run(self) -> None:
        import torch

        torch.set_num_threads(self.threads)
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._work or self._stopping)
                if self._stopping:
                    return
                self._work = False
                engines = tuple(self._engines)
            work_left = [engine.step() for engine in engines]
            if any(work_left):
                self.notify()
