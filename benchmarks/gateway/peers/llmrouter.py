"""Our gateway, started as users start it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from benchmarks.gateway.peers._base import PeerPlace, RunningPeer
from benchmarks.gateway.processes import ManagedProcess, StartError, free_port

_POOL = ("pocket-mini", "pocket-numbers", "pocket-words", "pocket-max")
_TOKEN = re.compile(r"llmr-[A-Za-z0-9]+-[A-Za-z0-9_-]+")
_COMMAND_S = 60


class LLMRouter:
    """One worker over four models that are all the echo, with the artifact that ships and the outcome log on.

    Parameters
    ----------
    name : str
        Of the peer.
    routed : bool
        Whether every request is routed and its key checked; else the model is named and nobody asks for a key.
    """

    def __init__(self, name: str, *, routed: bool) -> None:
        self.name = name
        self.routed = routed

    @property
    def description(self) -> str:
        """For the table's legend."""
        if self.routed:
            return 'llmrouter, one worker, everything on that the build has: model "auto" over four models'
        return "llmrouter, one worker, a model of the pool named"

    def start(self, place: PeerPlace) -> RunningPeer:
        """Start it; keys are on where the build has them."""
        port = free_port()
        with_keys = self.routed and _has_keys(place)
        tree: dict[str, Any] = {
            "pool": [{"name": name, "backend": "openai", "base_url": place.upstream} for name in _POOL],
            "log": {"store": f"sqlite:///{place.folder}/outcomes.db", "prompts": "text"},
            "server": {"host": "127.0.0.1", "port": port},
        }
        if with_keys:
            tree["auth"] = {"store": f"sqlite:///{place.folder}/keys.db"}
        configuration = place.folder / "config.yaml"
        configuration.write_text(yaml.safe_dump(tree), encoding="utf-8")
        headers = {"authorization": f"Bearer {_new_key(place, configuration)}"} if with_keys else {}
        process = ManagedProcess(
            [sys.executable, "-m", "llmrouter.cli", "serve", "--config", str(configuration)],
            log=place.folder / "log.txt",
            core=place.core,
            environment=_environment(place),
            folder=place.folder,
        )
        process.wait_ready(f"http://127.0.0.1:{port}/readyz", headers=headers)
        return RunningPeer(
            port=port,
            model="auto" if self.routed else _POOL[0],
            process=process,
            version=commit_of(place.source),
            headers=headers,
            notes={"keys": with_keys, "routing": self.routed, "outcome_log": True},
            stages_url=f"http://127.0.0.1:{port}/metrics",
        )


def commit_of(source: Path) -> str:
    """Return the commit of a checkout, with -dirty where it was changed; "unknown" outside of one."""
    try:
        said = subprocess.run(  # noqa: S603 - fixed arguments, no shell
            ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],  # noqa: S607
            capture_output=True,
            text=True,
            timeout=_COMMAND_S,
            check=False,
        )
    except OSError:
        return "unknown"
    return said.stdout.strip() or "unknown"


def _environment(place: PeerPlace) -> Mapping[str, str]:
    earlier = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": f"{place.source}{os.pathsep}{earlier}" if earlier else str(place.source)}


def _command(place: PeerPlace, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own command line
        [sys.executable, "-m", "llmrouter.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=_COMMAND_S,
        check=False,
        cwd=place.folder,
        env={**os.environ, **_environment(place)},
    )


def _has_keys(place: PeerPlace) -> bool:
    return _command(place, "keys", "create", "--help").returncode == 0


def _new_key(place: PeerPlace, configuration: Path) -> str:
    arguments = ["keys", "create", "--config", str(configuration), "--name", "benchmark"]
    done = _command(place, *arguments, "--scopes", "inference,metrics", "--json")
    found = _TOKEN.search(done.stdout)
    if done.returncode or found is None:
        raise StartError(f"no key was made: {(done.stderr or done.stdout).strip()}")
    return found[0]
