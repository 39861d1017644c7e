"""A gateway for schemathesis to ask, and how schemathesis is run against it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from contracts.misbehaving_upstream import Exchange, MisbehavingUpstream
from live_gateway import well_behaved

from service.app import create_app
from service.keys import KeyManager, open_key_store
from service.keys.token import id_in
from service.server import GatewayThread
from service.settings import Settings

HERE = Path(__file__).parent
POOL = ("pocket-mini", "pocket-max")
EMBEDDER = "vectors"
CAPABILITIES = ["tools", "vision", "audio", "json_mode", "json_schema", "logprobs"]

# Models are free and can do everything, so that no request is refused because no model can take it: which requests
# those are no schema can say.
FREE = {"input": 0, "output": 0}

EXCLUDED = {
    # By design a revoked key stays on record, with the state revoked.
    "use_after_free": "a revoked key can still be read",
    # It asks for two users with keys of their own, which the command line cannot be told of.
    "object_level_authorization": "tests/service/keys/test_security.py asks for that",
}
"""Check of schemathesis -> why it is left out."""


@dataclass(frozen=True)
class Target:
    """A running gateway.

    Attributes
    ----------
    url : str
        Of the gateway.
    token : str or None
        An administrator's key; None where there are no keys.
    """

    url: str
    token: str | None


async def _vectors(exchange: Exchange) -> None:
    vector = {"object": "embedding", "index": 0, "embedding": [0.0, 1.0]}
    usage = {"prompt_tokens": 1, "total_tokens": 1}
    await exchange.answer(json.dumps({"object": "list", "data": [vector], "usage": usage}).encode())


def start(stack: ExitStack, folder: Path, *, keys: bool) -> Target:
    """Start a gateway with the default router over an upstream that answers well; it stops with `stack`."""
    upstream = stack.enter_context(MisbehavingUpstream())
    upstream.behaviours |= {**dict.fromkeys(POOL, well_behaved), EMBEDDER: _vectors}
    common = {"base_url": upstream.base_url, "price": FREE}
    pool = [{"name": name, "capabilities": CAPABILITIES, **common} for name in POOL]
    pool.append({"name": EMBEDDER, "endpoints": ["embeddings"], **common})
    tree = {"pool": pool, "log": {"store": f"sqlite:///{folder}/outcomes.db", "flush_interval_s": 0.05}}
    token = None
    if keys:
        store = f"sqlite:///{folder}/keys.db"
        tree["auth"] = {"store": store, "failures_per_minute": 0}
        token = asyncio.run(_administrator(store))
    settings = Settings.model_validate(tree)
    return Target(stack.enter_context(GatewayThread(create_app(settings))).url, token)


async def _administrator(store: str) -> str:
    from service.keys.settings import AuthSettings

    manager = KeyManager(open_key_store(AuthSettings(store=store)))
    _, token = await manager.create({"name": "schemathesis", "scopes": ["admin"]})
    await manager.aclose()
    return token


def schemathesis(target: Target, folder: Path, *arguments: str, examples: int, seed: int) -> tuple[int, str]:
    """Run schemathesis in a process of its own; return its status and what it says."""
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{target.url}/openapi.json"]
    command += ["--checks", "all", "--exclude-checks", ",".join(EXCLUDED)]
    command += ["--seed", str(seed), "--max-examples", str(examples), "--generation-database", "none"]
    command += ["--suppress-health-check", "all", "--no-color", "--request-timeout", "20", "--output-sanitize", "false"]
    if target.token is not None:
        command += ["--header", f"Authorization: Bearer {target.token}"]
    environment = {
        **os.environ,
        "SCHEMATHESIS_HOOKS": "openapi_hooks",
        "PYTHONPATH": str(HERE),
        "NO_PROXY": "*",
    }
    if target.token is not None:
        environment["LLMROUTER_OWN_KEY_ID"] = id_in(target.token) or ""
    done = subprocess.run(
        [*command, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    return done.returncode, done.stdout + done.stderr
