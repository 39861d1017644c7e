"""Work done in a thread of its own, one piece at a time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

logger = logging.getLogger(__name__)


class Sealer:
    """Runs a job in the background when asked to, and keeps what it failed with until somebody waits.

    Parameters
    ----------
    job : callable
        Does one piece of work and returns whether there is more.

    Notes
    -----
    The thread lives only while there is work, and a program does not end before it: half a segment is of no use.
    """

    def __init__(self, job: Callable[[], bool]) -> None:
        self._job = job
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._asked = False
        self._failure: BaseException | None = None

    def request(self) -> None:
        """Have the job run soon, once more if it is running."""
        with self._lock:
            self._asked = True
            if self._thread is not None:
                return
            self._thread = threading.Thread(target=self._run, name="llmrouter-index-sealer")
            try:
                self._thread.start()
            except RuntimeError as error:  # no more threads, as when a program ends: the change is made all the same
                logger.warning("cannot seal an index in the background: %s", error)
                self._thread, self._failure, self._asked = None, error, False

    def wait(self) -> None:
        """Wait until nothing is running or asked for.

        Raises
        ------
        BaseException
            What the job failed with, once.
        """
        while True:
            with self._lock:
                thread = self._thread
                if thread is None or thread is threading.current_thread():
                    failure, self._failure = self._failure, None
                    break
            thread.join()
        if failure is not None:
            raise failure

    def _run(self) -> None:
        more = True
        while True:
            with self._lock:
                if not (more or self._asked):
                    self._thread = None
                    return
                self._asked = False
            try:
                more = self._job()
                self._failure = None
            except BaseException as error:  # the thread must end as one that has ended
                logger.exception("sealing an index in the background failed; its rows are in the tail, nothing is lost")
                with self._lock:  # what was asked for meanwhile would fail likewise
                    self._failure, self._asked, more = error, False, False
