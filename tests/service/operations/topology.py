"""docker-compose.yml without containers: the same commands, environment and files, as processes on loopback.

Only names of hosts, ports and folders are others, as they would be outside containers.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import yaml

from llmrouter.artifact import default_artifact

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "service" / "deploy"
GATEWAYS = ("gateway-1", "gateway-2")
START_S = 60.0


def composition() -> dict[str, Any]:
    """Return docker-compose.yml with its anchors resolved and the defaults of its variables put in."""
    text = (ROOT / "docker-compose.yml").read_text()
    return yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text))


def entrypoint() -> list[str]:
    """Return the entrypoint of the gateway's image."""
    found = re.findall(r"^ENTRYPOINT (\[.*\])$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    return json.loads(found[-1])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Topology:
    """Redis, two gateways and the balancer, in front of an upstream; a context manager that leaves nothing behind."""

    def __init__(self, folder: Path, upstream_url: str) -> None:
        self.folder = folder
        self.configuration = folder / "etc"
        self.services = composition()["services"]
        self.ports = {name: free_port() for name in (*GATEWAYS, "balancer", "redis")}
        self.url = f"http://127.0.0.1:{self.ports['balancer']}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "LLMROUTER_POCKET_URL": upstream_url,
            "LLMROUTER_REDIS_URL": f"redis://127.0.0.1:{self.ports['redis']}/0",
            "LLMROUTER_STATE": str(folder),
            "LLMROUTER_ARTIFACT": str(default_artifact()),
        }
        self._stack = ExitStack()

    def __enter__(self) -> Topology:
        try:
            self._copy_configuration()
            self._start_redis()
            for name in GATEWAYS:
                self.start_gateway(name)
            self._start_balancer()
            for name in GATEWAYS:
                self.wait_for(f"{self.gateway_url(name)}/readyz", name)
            self.wait_for(f"{self.url}/healthz", "balancer")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.terminate()
        for name, process in self.processes.items():
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise AssertionError(f"{name} did not end") from None
        self._stack.close()

    def gateway_url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def output(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def start_gateway(self, name: str) -> None:
        service = self.services[name]
        command = self._command(name)
        own = service["environment"]
        self._run(name, [*command, "--host", "127.0.0.1", "--port", str(self.ports[name])], own)

    def stop_gateway(self, name: str) -> int:
        """Ask one gateway to end, as `docker stop` does, and return its exit status."""
        self.processes[name].send_signal(signal.SIGTERM)
        return self.processes[name].wait(START_S)

    def in_gateway(self, *command: str) -> str:
        """Return what a command prints that is run beside a gateway, as by `docker compose exec`."""
        if command[0] == "llmrouter":
            command = (sys.executable, "-m", "llmrouter.cli", *command[1:])
        done = subprocess.run(
            [self._path(part) for part in command], env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def wait_for(self, url: str, name: str) -> None:
        deadline = time.monotonic() + START_S
        while True:
            assert self.processes[name].poll() is None, f"{name} ended:\n{self.output(name)}"
            try:
                if httpx.get(url, trust_env=False).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            assert time.monotonic() < deadline, f"{name} was not ready:\n{self.output(name)}"
            time.sleep(0.05)

    def _command(self, name: str) -> list[str]:
        words = [*entrypoint(), *self.services[name]["command"]]
        assert words[0] == "llmrouter"
        return [sys.executable, "-m", "llmrouter.cli", *(self._path(word) for word in words[1:])]

    def _path(self, word: str) -> str:
        """Return a path inside the containers as one outside: what the volumes of the gateways say."""
        for volume in self.services[GATEWAYS[0]]["volumes"]:
            host, _, inside = volume.removesuffix(":ro").partition(":")
            if host.startswith("./") and word.startswith(inside):
                assert ROOT / host == DEPLOY
                return str(self.configuration) + word.removeprefix(inside)
        return word

    def _copy_configuration(self) -> None:
        """Copy the folder of the gateways' configuration, with patience for a Redis on a machine that tests keep busy.

        A gateway that has just started knows no key, and refuses those that it cannot look up in time.
        """
        shutil.copytree(DEPLOY, self.configuration)
        file = self.configuration / "gateway.yaml"
        tree = yaml.safe_load(file.read_text())
        tree["redis"]["timeout_s"] = 5.0
        file.write_text(yaml.safe_dump(tree))

    def _start_redis(self) -> None:
        command = self.services["redis"]["command"]
        self._run("redis", [*command, "--port", str(self.ports["redis"]), "--dir", str(self.folder), "--save", ""])
        deadline = time.monotonic() + START_S
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.ports["redis"])) == 0:
                    return
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def _start_balancer(self) -> None:
        text = (DEPLOY / "nginx.conf").read_text()
        for name in GATEWAYS:
            text = text.replace(f"{name}:8080", f"127.0.0.1:{self.ports[name]}")
        text = text.replace("listen 8080;", f"listen 127.0.0.1:{self.ports['balancer']};")
        text = text.replace("/tmp/", f"{self.folder}/").replace("worker_processes auto;", "worker_processes 1;")
        configuration = self.folder / "nginx.conf"
        configuration.write_text(text)
        program, option, path, *rest = self.services["balancer"]["command"]
        assert (program, option, Path(path).name) == ("nginx", "-c", "nginx.conf")
        if os.geteuid() == 0:
            # It would take another user for its workers, who may not enter the folder of a test.
            rest = [rest[0], f"{rest[1]} user root;"]
        nginx = shutil.which("nginx") or "/usr/sbin/nginx"
        self._run("balancer", [nginx, option, str(configuration), "-p", str(self.folder), *rest])

    def _run(self, name: str, command: list[str], environment: Mapping[str, str] | None = None) -> None:
        log = self._stack.enter_context((self.folder / f"{name}.log").open("ab"))
        self.processes[name] = subprocess.Popen(
            command,
            env={**self.environment, **(environment or {})},
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            # Where outcomes.db and the like would end up if a file forgot to say so.
            cwd=self.folder,
        )
