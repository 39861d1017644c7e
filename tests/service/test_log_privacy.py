"""What the log keeps of prompts: by the configuration, and by the key."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contracts.misbehaving_upstream import MisbehavingUpstream
from gateway_process import GatewayProcess, make_artifact, write_config
from live_gateway import Live, well_behaved

from llmrouter.encoders import load_encoder
from llmrouter.outcomes import SQLiteOutcomeStore, store_to_table
from llmrouter.types import Decision, RoutingRequest
from training.train import fit

Start = Callable[..., Live]
PROMPT = "the prompt that is kept or not"
DIGEST = hashlib.sha256(PROMPT.encode()).hexdigest()
VECTOR = np.array([0.5, -0.25, 1 / 3])
SINGLE = VECTOR.astype(np.float32).tolist()


def with_embeddings(gateway: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the engine say what it read, as a real one does."""
    route = gateway.engine.route_many

    def route_many(requests: Sequence[RoutingRequest], *, neighbours: int = 0) -> list[Any]:
        decided = route(requests, neighbours=neighbours)
        return [dataclasses.replace(d, embedding=VECTOR) if isinstance(d, Decision) else d for d in decided]

    monkeypatch.setattr(gateway.engine, "route_many", route_many)


@pytest.mark.parametrize(
    ("prompts", "kept"),
    [
        ("text", {"prompt": PROMPT, "prompt_sha256": DIGEST, "embedding": None}),
        ("hash", {"prompt": None, "prompt_sha256": DIGEST, "embedding": None}),
        ("embedding", {"prompt": None, "prompt_sha256": DIGEST, "embedding": SINGLE}),
        ("none", {"prompt": None, "prompt_sha256": None, "embedding": None}),
    ],
)
def test_what_is_kept_by_the_configuration(
    live: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prompts: str, kept: dict[str, Any]
) -> None:
    gateway = live(log={"store": f"sqlite:///{tmp_path}/outcomes.db", "prompts": prompts})
    with_embeddings(gateway, monkeypatch)
    outcome = gateway.outcome(gateway.chat(PROMPT))
    assert {name: outcome[name] for name in kept} == kept
    if prompts != "text":
        for file in tmp_path.iterdir():
            assert PROMPT.encode() not in file.read_bytes(), file.name


def test_a_named_model_has_no_embedding(live: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was decided, so that nothing was read."""
    gateway = live(log={"store": f"sqlite:///{tmp_path}/outcomes.db", "prompts": "embedding"})
    with_embeddings(gateway, monkeypatch)
    outcome = gateway.outcome(gateway.chat(PROMPT, model="alpha"))
    assert (outcome["prompt"], outcome["embedding"]) == (None, None)


def test_the_log_of_embeddings_trains_a_router(tmp_path: Path, upstream: MisbehavingUpstream) -> None:
    """From the answer of a real gateway to a table whose rows are what the encoder makes of the texts."""
    texts = [f"What is {i} plus {i}?" for i in range(12)] + [f"Write the word {word} backwards" for word in "abcdefgh"]
    upstream.behaviours |= {"alpha": well_behaved, "beta": well_behaved}
    artifact = make_artifact(tmp_path / "artifacts")
    log = {"store": f"sqlite:///{tmp_path}/outcomes.db", "prompts": "embedding"}
    config = write_config(tmp_path, upstream.base_url, artifact, log=log, limits={"state": "memory://"})
    with GatewayProcess(config) as running, running.client() as client:
        for i, text in enumerate(texts):
            answer = running.ask(client, text)
            assert answer.status_code == 200
            body = {"request_id": answer.headers["x-request-id"], "quality": i % 2}
            assert client.post("/v1/feedback", json=body).status_code == 202
        assert running.stop() == 0
    store = SQLiteOutcomeStore(tmp_path / "outcomes.db")
    table = store_to_table(store, models=("alpha", "beta"))
    store.close()
    assert table.texts == (None,) * len(texts)
    encoder = load_encoder("static")
    X = table.encoded(encoder.dimension, encoder.encode)
    np.testing.assert_allclose(X, encoder.encode(texts), atol=1e-6)
    assert b"plus" not in (tmp_path / "outcomes.db").read_bytes()
    trained = fit(table, X, name="knn", parameters={"k": 5})
    assert trained.models == ("alpha", "beta")
