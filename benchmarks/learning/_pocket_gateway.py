"""The pocket pool and a gateway over it, as processes, with keys and an overlay for changes of the pool."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from benchmarks.gateway.processes import ManagedProcess, StartError, free_port

POCKET = ("pocket-mini", "pocket-numbers", "pocket-words", "pocket-max")
_START_S = 120.0
_CASE_TASKS = frozenset({"upper_case", "lower_case", "title_case"})
_LIST_TASKS = frozenset({"sort_numbers", "sort_words"})


@dataclass(frozen=True, slots=True)
class Exercise:
    """A prompt with its right answer, as `llmrouter.learning.check_plain` takes it."""

    prompt_id: str
    prompt: str
    reference: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PocketGateway:
    """A gateway that is running.

    Attributes
    ----------
    url : str
        Of the gateway.
    pool_url : str
        Of the pocket pool.
    admin, client : str
        Keys: one administers, the other asks and gives feedback.
    folder : Path
        Where it keeps everything.
    """

    url: str
    pool_url: str
    admin: str
    client: str
    folder: Path


def exercises(split: str = "test") -> list[Exercise]:
    """Return the prompts of one split of the shipped pocket data."""
    path = Path(str(files("llmrouter"))) / "assets" / "pocket" / "outcomes" / "prompts.parquet"
    rows = pq.read_table(path).to_pylist()
    found = []
    for row in rows:
        if row["split"] != split or row["expected"] is None:
            continue
        reference: dict[str, Any] = {"answer": row["expected"]}
        if row["task"] in _CASE_TASKS:
            reference["case"] = True
        if row["task"] in _LIST_TASKS:
            reference["commas"] = True
        found.append(Exercise(row["prompt_id"], row["prompt"], reference))
    return found


def start(
    stack: ExitStack, folder: Path, *, learning: Mapping[str, Any] | None = None, **sections: Any
) -> PocketGateway:
    """Start pool and gateway; they stop with `stack`.

    Parameters
    ----------
    stack : ExitStack
        Ends them.
    folder : Path
        Gets the configuration, logs, artifacts and everything else.
    learning : mapping, optional
        Further parts of the section ``learning``.
    sections : mapping
        Further sections of the configuration.

    Raises
    ------
    StartError
        If something does not start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pool_port, port = free_port(), free_port()
    pool_url, url = f"http://127.0.0.1:{pool_port}", f"http://127.0.0.1:{port}"
    tree = {
        "pool": [{"name": name, "base_url": f"{pool_url}/v1"} for name in POCKET],
        "log": {"store": f"sqlite:///{folder}/outcomes.db"},
        "auth": {"store": f"sqlite:///{folder}/keys.db"},
        "server": {"port": port, "watch_s": 0.5},
        "policy": {"kind": "utility", "cost_weight": 0.3},
        "learning": {
            "models": {"overlay": str(folder / "models.yaml"), "artifacts": str(folder / "artifacts")},
            **(learning or {}),
        },
        **sections,
    }
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(tree, sort_keys=False))
    pool = stack.enter_context(
        ManagedProcess(
            [sys.executable, "-m", "service.child", "service.moe", "--pocket", "--port", str(pool_port)],
            log=folder / "pool.log",
        )
    )
    admin = _key(config, "--admin")
    client = _key(config, "--scopes", "inference,feedback")
    pool.wait_ready(f"{pool_url}/readyz", timeout_s=_START_S)
    command = [sys.executable, "-m", "llmrouter.cli", "serve", "--config", str(config)]
    gateway = stack.enter_context(ManagedProcess(command, log=folder / "gateway.log"))
    gateway.wait_ready(f"{url}/readyz", timeout_s=_START_S)
    return PocketGateway(url, pool_url, admin, client, folder)


def _key(config: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "llmrouter.cli", "keys", "create", "--config", str(config), "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - this interpreter
    if done.returncode != 0:
        raise StartError(f"no key was made: {done.stderr.strip()}")
    token: str = json.loads(done.stdout)["token"]
    return token
