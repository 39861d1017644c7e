"""What ``llmrouter serve`` does: settings, the pocket pool where no configuration is given, the gateway."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from service.threads import pin_threads

if TYPE_CHECKING:
    import socket

    from service.settings import Settings

_BANNER = """\
llmrouter listens on {url}  (readiness: {url}/readyz)
try it:
  curl -s {url}/v1/chat/completions -H 'content-type: application/json'{key} \\
    -d '{{"model": "auto", "messages": [{{"role": "user", "content": "What is 17 + 25?"}}]}}'
stop it with Ctrl-C"""
_KEY = """ -H "authorization: Bearer $LLMROUTER_KEY\""""


def run_gateway(config: Path | None = None, *, host: str | None = None, port: int | None = None) -> int:
    """Run the gateway until it is stopped, and return the exit status.

    Parameters
    ----------
    config : Path, optional
        Without one the embedded configuration is used, and the pocket pool is started and stopped with the gateway.
    host, port
        Override the configuration.

    Raises
    ------
    LLMRouterError
        If anything is wrong before the start.
    """
    pin_threads()
    from llmrouter.index import check_faiss
    from service.server import bind, check_exposure
    from service.settings import load_settings
    from service.telemetry.logs import configure_logging

    check_faiss()
    with ExitStack() as stack:
        environment = dict(os.environ)
        if config is None:
            from service.pocket import PORT_VARIABLE, PocketPool, choose_port

            pocket_port = choose_port()
            environment[PORT_VARIABLE] = str(pocket_port)
        settings = load_settings(config, environment=environment).at(host=host, port=port)
        configure_logging(settings.telemetry.logs)
        if config is None:
            # A busy port is to be known before models are loaded.
            check_exposure(settings)
            bind(settings.server).close()
            stack.enter_context(PocketPool(pocket_port, progress=say))
        status = _run(settings, config, environment, host=host, port=port)
        say("stopped")
    return status


def _run(
    settings: Settings, config: Path | None, environment: dict[str, str], *, host: str | None, port: int | None
) -> int:
    def on_ready(url: str) -> None:
        keyed = settings.auth is not None and settings.auth.required
        say(_BANNER.format(url=url, key=_KEY if keyed else ""))

    if settings.server.workers > 1:
        from service.limits import check_workers
        from service.workers import run_workers

        check_workers(
            settings.limits,
            workers=settings.server.workers,
            redis=settings.redis is not None,
            keys=settings.auth is not None,
        )
        count = settings.server.workers
        return run_workers(config, host=host, port=port, count=count, on_ready=on_ready, environment=environment)
    from service.server import serve

    serve(settings, source=config, load=_loader(host, port), on_ready=on_ready)
    return 0


def run_worker(
    config: Path | None,
    *,
    host: str | None,
    port: int | None,
    listener: socket.socket,
    on_ready: Callable[[str], None],
) -> None:
    """Run one of several gateway processes until it is stopped.

    Parameters
    ----------
    config : Path or None
        The configuration; None is the embedded one.
    host, port
        Override the configuration.
    listener : socket
        Bound, its own.
    on_ready : callable
        Called with the base URL once requests are answered.

    Raises
    ------
    LLMRouterError
        If anything is wrong before the start.
    """
    from service.server import serve
    from service.settings import load_settings
    from service.telemetry.logs import configure_logging

    settings = load_settings(config).at(host=host, port=port)
    configure_logging(settings.telemetry.logs)
    serve(settings, source=config, load=_loader(host, port), listener=listener, on_ready=on_ready)


def _loader(host: str | None, port: int | None) -> Callable[[Path], Settings]:
    """Return what reads the configuration again; host and port of the command line go before those in the file."""
    from service.settings import load_settings

    return lambda path: load_settings(path).at(host=host, port=port)


def say(line: str) -> None:
    """Tell the user."""
    print(line, file=sys.stderr, flush=True)
