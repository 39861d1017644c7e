"""Gateways for the fault trials: one in a thread of the test, whose inside can be looked at, or a whole process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import yaml
from live_gateway import PRICE, FakeEngine, Live
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from llmrouter.outcomes import SQLiteOutcomeStore
from service.app import create_app
from service.server import GatewayThread
from service.settings import Settings

TASKS = "/tasks"
NO_BREAKER = {
    "breaker": {"after_failures": 1_000_000, "min_calls": 1_000_000},
    "retry_budget": {"ratio": 10.0, "min_per_s": 1000.0},
}
"""Section ``resilience`` under which models that fail are asked on and on."""


def pool_of(base_url: str, *names: str, models: Mapping[str, Mapping[str, Any]] | None = None) -> list[dict[str, Any]]:
    """Return the section ``pool``: all at one upstream, where `models` does not say otherwise."""
    return [{"name": name, "base_url": base_url, "price": PRICE, **(models or {}).get(name, {})} for name in names]


def start(stack: ExitStack, folder: Path, pool: Sequence[Mapping[str, Any]], **sections: Any) -> Live:
    """Start a gateway in a thread; it stops with `stack`. The first model of the pool is the best where none is named.

    ``GET /tasks`` returns the names of the tasks of its event loop.
    """
    log = {"store": f"sqlite:///{folder}/outcomes.db", "flush_interval_s": 0.05}
    tree = {"pool": pool, "log": log, "server": {"port": 0}, "limits": {"state": "memory://"}, **sections}
    settings = Settings.model_validate(tree)
    engine = FakeEngine(settings.cards)
    app = create_app(settings, engine=engine)
    app.router.routes.append(Route(TASKS, _tasks))
    running = stack.enter_context(GatewayThread(app, settings.server))
    client = stack.enter_context(httpx.Client(base_url=running.url, timeout=30, trust_env=False))
    return Live(running.url, client, app.state.gateway, engine)


async def _tasks(_request: Request) -> Response:
    return JSONResponse(sorted(_name(task) for task in asyncio.all_tasks()))


def _name(task: asyncio.Task[Any]) -> str:
    coroutine = task.get_coro()
    return getattr(coroutine, "__qualname__", type(coroutine).__name__)


def tasks_of(gateway: Live) -> list[str]:
    """Return the tasks of a gateway's event loop, but for the one that answers this."""
    names: list[str] = gateway.client.get(TASKS).json()
    names.remove("RequestResponseCycle.run_asgi")
    return names


def write_config(folder: Path, pool: Sequence[Mapping[str, Any]], **sections: Any) -> Path:
    """Write the configuration of a process and return its path."""
    tree = {
        "pool": pool,
        "log": {"store": f"sqlite:///{folder}/outcomes.db"},
        "server": {"port": 0},
        "limits": {"state": "memory://"},
        **sections,
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def stored(folder: Path, since: float = 0.0) -> list[Any]:
    """Return the outcomes in the log of a gateway that has ended."""
    store = SQLiteOutcomeStore(folder / "outcomes.db")
    try:
        return list(store.scan(since))
    finally:
        store.close()


def eventually(test: Callable[[], Any], within_s: float = 10.0) -> bool:
    """Return whether something becomes true in time."""
    ends = time.monotonic() + within_s
    while time.monotonic() < ends:
        if test():
            return True
        time.sleep(0.02)
    return bool(test())


def metric(client: httpx.Client, name: str, headers: Mapping[str, str] | None = None) -> float | None:
    """Return the sum of a metric's series, None where it has none."""
    text = client.get("/metrics", headers=dict(headers or {})).text
    lines = [line for line in text.splitlines() if line.startswith((f"llmrouter_{name} ", f"llmrouter_{name}{{"))]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines) if lines else None
