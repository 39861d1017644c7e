"""Run the gateway: one process, uvicorn with uvloop and httptools, a clean start and a clean end."""

from __future__ import annotations

import errno
import gc
import ipaddress
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from llmrouter.exceptions import ConfigError, LLMRouterError
from service.drain import linger
from service.http import protocol
from service.settings import ServerSettings, Settings, load_settings
from service.threads import pin_threads

logger = logging.getLogger(__name__)

_BACKLOG = 2048
_COLLECTOR_THRESHOLDS = (10_000, 10, 10)
# Longer than clients keep idle connections, so that it is they who close them and no request meets a closing one.
_KEEP_ALIVE_S = 75
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def serve(
    settings: Settings,
    *,
    source: Path | None = None,
    load: Callable[[Path], Settings] = load_settings,
    listener: socket.socket | None = None,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Run the gateway until SIGINT or SIGTERM, then let requests under way end (at most ``server.drain_s``).

    Must run in the main thread.

    Parameters
    ----------
    settings : Settings
        The configuration.
    source : Path, optional
        The file that it came from, watched for changes; None watches nothing.
    load : callable
        Reads the file again.
    listener : socket, optional
        Bound; by default a new one, bound as configured.
    on_ready : callable, optional
        Called with the base URL once requests are answered.

    Raises
    ------
    ConfigError
        If the port is taken, or the host is open to others and nothing guards it.
    LLMRouterError
        If the configuration cannot be put into effect.
    """
    check_exposure(settings)
    _warn_of_threads()
    pin_threads()
    raise_file_limit()
    listener = bind(settings.server) if listener is None else listener
    try:
        from service.app import create_app

        app = create_app(settings)
        if source is not None:
            _watch(app, source, load)
        calm_collector()
        url = url_of(listener)
        try:
            _Server(app, settings.server, on_ready=lambda: on_ready and on_ready(url)).run(sockets=[listener])
        finally:
            # A second signal skips the application's own end, but no outcome is lost for that.
            app.state.gateway.writer.close()
    finally:
        listener.close()


class GatewayThread:
    """A gateway in a thread of this process, for demonstrations and tests; a context manager.

    Parameters
    ----------
    app : FastAPI
        From `service.app.create_app`.
    settings : ServerSettings, optional
        By default a free port on loopback.

    Attributes
    ----------
    url : str
        E.g. ``http://127.0.0.1:43210``, without a path.
    """

    def __init__(self, app: FastAPI, settings: ServerSettings | None = None) -> None:
        settings = settings or ServerSettings(port=0)
        self._listener = bind(settings)
        self.url = url_of(self._listener)
        self._ready = threading.Event()
        self._server = _Server(app, settings, on_ready=self._ready.set)
        self._thread = threading.Thread(target=self._serve, name="gateway")

    def __enter__(self) -> GatewayThread:
        """Start, and wait until requests are answered."""
        self._thread.start()
        self._ready.wait()
        if not self._server.started:
            self._thread.join()
            raise LLMRouterError("the gateway did not start; its log says why")
        return self

    def __exit__(self, *_: object) -> None:
        """Stop cleanly."""
        self._server.should_exit = True
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        try:
            self._server.run(sockets=[self._listener])
        finally:
            self._ready.set()


def _watch(app: FastAPI, source: Path, load: Callable[[Path], Settings]) -> None:
    from service.gateway import Gateway
    from service.reload import Reloader, ReloadResult

    def tell(result: ReloadResult) -> None:
        gateway: Gateway = app.state.gateway
        gateway.telemetry.reloaded(
            ok=result.ok,
            pool=tuple(gateway.models),
            artifact_id=gateway.engine.artifact_id,
            base_urls={name: model.base_url for name, model in gateway.models.items()},
        )

    app.state.reloader = Reloader(
        app,
        source,
        build=lambda settings, old: Gateway(settings, reuse=old),
        interval_s=app.state.gateway.settings.server.watch_s,
        load=load,
        on_result=tell,
    )


def bind(settings: ServerSettings) -> socket.socket:
    """Return a listening socket.

    Raises
    ------
    ConfigError
        If the address cannot be bound; the message says what to do.
    """
    host, port = settings.host, settings.port
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise ConfigError(f"{host!r} is no address of this machine ({error.strerror})", path="server.host") from error
    # "localhost" is both; clients that are told a number mean the IPv4 one.
    family, kind, protocol, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    listener = socket.socket(family, kind, protocol)
    try:
        # A port that a gateway has just left is free; one that is listened on is not.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise _bind_error(host, port, error) from error
    return listener


def raise_file_limit() -> None:
    """Let the process open as many connections as the system allows it."""
    try:
        import resource
    except ImportError:  # not on this system
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def calm_collector() -> None:
    """Keep the cyclic garbage collector away from what lives as long as the process.

    What a gateway loads (an index, tables, modules) is a large heap without garbage, and a full collection of it takes
    tens of milliseconds in which nothing is answered. What is not frozen is small, so that collections of it are cheap;
    they have to come often enough, since requests leave a few cycles behind.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECTOR_THRESHOLDS)


def url_of(listener: socket.socket) -> str:
    """Return the URL under which a listening socket is reached from this machine."""
    host, port = listener.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def check_exposure(settings: Settings) -> None:
    """Refuse to listen beyond this machine while nothing asks for a key.

    Raises
    ------
    ConfigError
        Unless keys are required, the host is loopback, or ``server.allow_insecure`` is set.
    """
    host = settings.server.host
    guarded = settings.auth is not None and settings.auth.required
    if guarded or settings.server.allow_insecure or host == "localhost":
        return
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ConfigError(
            f"{host!r} is reached from other machines, and no keys are asked for: anybody could spend your money. Turn "
            "keys on (auth: {}, and the first one by `llmrouter keys create --admin`), listen on 127.0.0.1, or set "
            "server.allow_insecure: true",
            path="server.host",
        )


class _Server(uvicorn.Server):
    """uvicorn's server without its signal handling, which would kill the process after a clean end."""

    def __init__(self, app: FastAPI, settings: ServerSettings, *, on_ready: Callable[[], object]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="uvloop" if sys.platform != "win32" else "asyncio",
                http=protocol(header_timeout_s=settings.header_timeout_s, write_timeout_s=settings.write_timeout_s),
                ws="none",
                lifespan="on",
                access_log=False,
                log_config=None,
                log_level="warning",
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=settings.drain_s,
            )
        )
        self._on_ready = on_ready

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Let SIGINT and SIGTERM end the server, and nothing else."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {number: signal.signal(number, self.handle_exit) for number in _STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let those who come learn of the end, then refuse new requests, and let those under way end."""
        app: Any = self.config.app
        app.state.stopping = True
        await linger(self, sockets or [])
        app.state.gateway.admission.close()
        await super().shutdown(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        if self.started:
            self._on_ready()


def _bind_error(host: str, port: int, error: OSError) -> ConfigError:
    if error.errno == errno.EADDRINUSE:
        return ConfigError(
            f"{host}:{port} is in use by another program. Stop that, or choose another port (--port, or server.port "
            "in the configuration; 0 takes a free one)",
            path="server.port",
        )
    if error.errno == errno.EACCES:
        return ConfigError(f"this user may not listen on {host}:{port}; take a port above 1023", path="server.port")
    return ConfigError(f"cannot listen on {host}:{port}: {error.strerror}", path="server.host")


def _warn_of_threads() -> None:
    if "numpy" in sys.modules and "OMP_NUM_THREADS" not in os.environ:
        logger.warning("numpy was imported before threads were pinned; call service.threads.pin_threads() earlier")
