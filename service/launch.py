"""What ``llmrouter serve`` does: settings, the pocket pool where no configuration is given, the gateway."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import ExitStack
from pathlib import Path

from service.threads import pin_threads

_BANNER = """\
llmrouter listens on {url}  (readiness: {url}/readyz)
try it:
  curl -s {url}/v1/chat/completions -H 'content-type: application/json' \\
    -d '{{"model": "auto", "messages": [{{"role": "user", "content": "What is 17 + 25?"}}]}}'
stop it with Ctrl-C"""


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
    from service.server import bind, check_exposure, serve
    from service.settings import load_settings

    configure_logging()
    check_faiss()
    with ExitStack() as stack:
        if config is not None:
            settings = load_settings(config).at(host=host, port=port)
        else:
            from service.pocket import PORT_VARIABLE, PocketPool, choose_port

            pocket_port = choose_port()
            environment = {**os.environ, PORT_VARIABLE: str(pocket_port)}
            settings = load_settings(environment=environment).at(host=host, port=port)
            # A busy port is to be known before models are loaded.
            check_exposure(settings.server)
            bind(settings.server).close()
            stack.enter_context(PocketPool(pocket_port, progress=say))
        serve(settings, on_ready=lambda url: say(_BANNER.format(url=url)))
        say("stopped")
    return 0


def configure_logging() -> None:
    """Send log records to standard error, unless the program that runs us has its own logging."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def say(line: str) -> None:
    """Tell the user."""
    print(line, file=sys.stderr, flush=True)
