"""Name resolution that may hang without holding up anything else."""

from __future__ import annotations

import asyncio
import socket
import threading


class Resolver:
    """Look up one address, in a thread of its own, at most one at a time.

    The event loop's resolver uses the threads that the rest of the gateway works with, and a name server that does not
    answer holds each of them for many seconds.

    Parameters
    ----------
    address : (str, int) or None
        Host and port; None where there is nothing to look up.
    """

    def __init__(self, address: tuple[str, int] | None) -> None:
        self.address = address
        self._future: asyncio.Future[None] | None = None

    async def resolve(self) -> None:
        """Return when the name is known; a lookup that is under way already is waited for instead of a new one.

        Raises
        ------
        OSError
            If it cannot be resolved.
        """
        if self.address is None:
            return
        if self._future is None or self._future.done():
            loop = asyncio.get_running_loop()
            self._future = loop.create_future()
            threading.Thread(
                target=_look_up, args=(self.address, loop, self._future), name="redis-resolver", daemon=True
            ).start()
        await asyncio.shield(self._future)


def _look_up(address: tuple[str, int], loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]) -> None:
    failure: OSError | None = None
    try:
        socket.getaddrinfo(*address, type=socket.SOCK_STREAM)
    except OSError as error:
        failure = error
    try:
        loop.call_soon_threadsafe(_tell, future, failure)
    except RuntimeError:
        return  # the loop has ended meanwhile


def _tell(future: asyncio.Future[None], failure: OSError | None) -> None:
    if future.done():
        return
    if failure is None:
        future.set_result(None)
    else:
        future.set_exception(failure)
        # Nobody may be waiting any more.
        future.exception()
