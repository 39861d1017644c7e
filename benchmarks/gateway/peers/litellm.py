"""LiteLLM's proxy, in a virtual environment of its own."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import yaml

from benchmarks.gateway.peers._base import PeerAbsentError, PeerPlace, RunningPeer, install
from benchmarks.gateway.processes import ManagedProcess, free_port

VERSION = "1.106.2"
_READY_S = 180.0
# Prices from the package instead of the network, no verbose log, and no keys, which is the least work for it.
_ENVIRONMENT = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOG": "ERROR",
    "LITELLM_TELEMETRY": "False",
    "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
}
_TIERS = {"SIMPLE": "pocket-mini", "MEDIUM": "pocket-numbers", "COMPLEX": "pocket-words", "REASONING": "pocket-max"}


class LiteLLM:
    """One worker, no database.

    Parameters
    ----------
    name : str
        Of the peer.
    routed : bool
        Whether its complexity router chooses among four models, or one model is named.
    """

    def __init__(self, name: str, *, routed: bool) -> None:
        self.name = name
        self.routed = routed

    @property
    def description(self) -> str:
        """For the table's legend."""
        what = "its complexity router over four models" if self.routed else "the model named"
        return f"LiteLLM proxy {VERSION}, one uvicorn worker, no database, no keys, {what}"

    def start(self, place: PeerPlace) -> RunningPeer:
        """Install it where needed, and start it."""
        program = _program(place)
        configuration = place.folder / "config.yaml"
        configuration.write_text(yaml.safe_dump(self._configuration(place.upstream)), encoding="utf-8")
        port = free_port()
        command = [str(program), "--config", str(configuration), "--host", "127.0.0.1", "--port", str(port)]
        command += ["--num_workers", "1"]
        process = ManagedProcess(
            command,
            log=place.folder / "log.txt",
            core=place.core,
            environment=_ENVIRONMENT,
            folder=place.folder,
        )
        process.wait_ready(f"http://127.0.0.1:{port}/health/liveliness", timeout_s=_READY_S)
        model = "router" if self.routed else "pocket-mini"
        return RunningPeer(port=port, model=model, process=process, version=VERSION, exact=False)

    def _configuration(self, upstream: str) -> dict[str, object]:
        entries: list[dict[str, object]] = [
            {
                "model_name": name,
                "litellm_params": {"model": f"openai/{name}", "api_base": upstream, "api_key": "none"},
            }
            for name in _TIERS.values()
        ]
        if self.routed:
            parameters = {
                "model": "auto_router/complexity_router",
                "complexity_router_config": {"tiers": _TIERS},
            }
            entries.append({"model_name": "router", "litellm_params": parameters})
        return {"model_list": entries}


def _program(place: PeerPlace) -> Path:
    """Return the installed command."""
    folder = place.cache / f"litellm-{VERSION}"
    program = folder / "bin" / "litellm"
    if program.exists():
        return program
    if not place.install:
        raise PeerAbsentError(f"LiteLLM {VERSION} is not in {folder}, and --no-install was given")
    what = f"litellm[proxy] {VERSION}"
    python = shutil.which("python3.11") or sys.executable
    install([python, "-m", "venv", str(folder)], what=what)
    install(
        [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", f"litellm[proxy]=={VERSION}"], what=what
    )
    return program
