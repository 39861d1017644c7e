"""A gateway as a process of its own, started by the command line over a small trained artifact."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import yaml

from llmrouter import artifact
from llmrouter.encoders import load_encoder
from llmrouter.outcomes import OutcomeTable
from llmrouter.types import Price
from training.train import fit

MODELS = ("alpha", "beta")
SUMS = tuple(f"What is {i} plus {i + 3}?" for i in range(20))
WORDS = tuple(f"Write the word {word} backwards" for word in ("cat", "dog", "sun", "tree", "river", "stone", "cloud"))
START_S = 60.0


def make_artifact(parent: Path, *, fingerprint: str | None = None) -> Path:
    """Train a router for which sums are alpha's and words are beta's, and return its folder.

    `fingerprint` claims another encoder than the one that was used.
    """
    texts = (*SUMS, *WORDS * 3)[:40]
    n = len(texts)
    is_sum = np.array([text in SUMS for text in texts], dtype=float)
    table = OutcomeTable(
        prompt_ids=tuple(f"p{i}" for i in range(n)),
        models=MODELS,
        texts=texts,
        tasks=(None,) * n,
        splits=("train",) * n,
        quality=np.stack([is_sum, 1 - is_sum], axis=1),
        cost_usd=np.full((n, 2), 2e-5),
        input_tokens=np.full((n, 2), 8.0),
        output_tokens=np.full((n, 2), 4.0),
        propensity=np.ones((n, 2)),
        prices=(Price(1.0, 2.0), Price(1.0, 2.0)),
        name="sums and words",
    )
    encoder = load_encoder("static")
    trained = fit(table, encoder.encode(texts), name="knn", parameters={"k": 5, "shrinkage": 1.0})
    spec = artifact.EncoderSpec("static", {}, fingerprint or encoder.fingerprint)
    return artifact.save(trained, parent, encoder=spec, training={})


def write_config(folder: Path, base_url: str, artifact_folder: Path, **sections: Any) -> Path:
    """Write a configuration for a gateway on a free port and return its path."""
    price = {"input": 1.0, "output": 2.0}
    tree = {
        "pool": [{"name": name, "base_url": base_url, "price": price} for name in MODELS],
        "router": {"artifact": str(artifact_folder)},
        "log": {"store": f"sqlite:///{folder}/outcomes.db"},
        "server": {"port": 0},
        **sections,
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


class GatewayProcess:
    """``llmrouter serve --config FILE`` as a child process; a context manager that never leaves it behind."""

    def __init__(self, config: Path, *arguments: str) -> None:
        self.lines: list[str] = []
        self.url = ""
        self._urls: queue.Queue[str] = queue.Queue()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "llmrouter.cli", "serve", "--config", str(config), *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> GatewayProcess:
        self.url = self._urls.get(timeout=START_S)
        assert self.url, "\n".join(self.lines)
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, trust_env=False, timeout=30)

    def ask(self, client: httpx.Client, text: str) -> httpx.Response:
        body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
        return client.post("/v1/chat/completions", json=body)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to end and return its exit status."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        status = self.process.wait(START_S)
        self._reader.join(5)
        return status

    def kill(self) -> None:
        self.process.kill()
        self.wait()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip())
            if match := re.search(r"listens on (http://\S+)", line):
                self._urls.put(match[1])
        self._urls.put("")
