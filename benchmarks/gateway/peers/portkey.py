"""Portkey's gateway from npm."""

from __future__ import annotations

import json
import shutil

from benchmarks.gateway.answers import MODEL
from benchmarks.gateway.peers._base import PeerAbsentError, PeerPlace, RunningPeer, install
from benchmarks.gateway.processes import ManagedProcess, free_port

VERSION = "1.15.2"
_PACKAGE = "@portkey-ai/gateway"
# With newer versions of its server package, which it allows, every stream ends in status 500.
_SERVER_PACKAGE, _SERVER_VERSION = "@hono/node-server", "1.13.8"
_WANTED = {
    "private": True,
    "dependencies": {_PACKAGE: VERSION},
    "overrides": {_SERVER_PACKAGE: _SERVER_VERSION},
}


class Portkey:
    """Run with node; the upstream is named by headers."""

    name = "portkey"
    description = f"Portkey gateway {VERSION} from npm, run with node"

    def start(self, place: PeerPlace) -> RunningPeer:
        """Install it where needed, and start it."""
        node = shutil.which("node")
        npm = shutil.which("npm")
        if node is None or npm is None:
            raise PeerAbsentError("node and npm are not installed (apt-get install nodejs npm)")
        folder = place.cache / f"portkey-{VERSION}"
        program = folder / "node_modules" / _PACKAGE / "build" / "start-server.js"
        if not program.exists():
            if not place.install:
                raise PeerAbsentError(f"{_PACKAGE} {VERSION} is not in {folder}, and --no-install was given")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "package.json").write_text(json.dumps(_WANTED), encoding="utf-8")
            install([npm, "install", "--no-audit", "--no-fund", "--prefix", str(folder)], what=f"{_PACKAGE} {VERSION}")
        port = free_port()
        process = ManagedProcess(
            [node, str(program), f"--port={port}", "--headless"],
            log=place.folder / "log.txt",
            core=place.core,
            environment={"NODE_ENV": "production"},
            folder=place.folder,
        )
        process.wait_ready(f"http://127.0.0.1:{port}/")
        headers = {
            "x-portkey-provider": "openai",
            "x-portkey-custom-host": place.upstream,
            "authorization": "Bearer none",
        }
        version = f"{VERSION}, {_SERVER_PACKAGE} {_SERVER_VERSION}"
        return RunningPeer(port=port, model=MODEL, process=process, version=version, headers=headers, exact=False)
