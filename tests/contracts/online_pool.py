"""A small engine with known truths for tests of online adaptation: texts are row numbers of a table of embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np

from llmrouter.engine import RoutingEngine, TrainedRouters
from llmrouter.exceptions import EncoderError
from llmrouter.index import ExactIndex
from llmrouter.outcomes import Event
from llmrouter.policy import UtilityPolicy
from llmrouter.registry import create
from llmrouter.routers import NeighbourRouter
from llmrouter.types import ModelCard, Outcome, Price

MODELS = ("alpha", "beta", "gamma")
N, D = 400, 8
_RNG = np.random.default_rng(7)
_RAW = _RNG.normal(size=(N, D))
X = (_RAW / np.linalg.norm(_RAW, axis=1, keepdims=True)).astype(np.float32)
CHANCE = np.clip(0.6 + 0.3 * X[:, :3] @ np.array([[1.0, 0.2, -0.5], [0.0, 0.6, 0.3], [0.4, 0.0, 0.5]]), 0.05, 0.95)
OUTCOMES = (_RNG.random(CHANCE.shape) < CHANCE).astype(float)
TRAINED_ON = 200


class RowEncoder:
    """Texts are row numbers; "?" cannot be encoded."""

    fingerprint = "rows-1"
    dimension = D

    def __init__(self) -> None:
        self.encoded = 0

    def encode(self, texts: Any, /) -> Any:
        if "?" in texts:
            raise EncoderError("unreadable")
        self.encoded += len(texts)
        return X[[int(text) for text in texts]]

    def count_tokens(self, text: str, /) -> int:
        return len(text)


def engine_of(
    router: str = "ridge",
    *,
    models: tuple[str, ...] = MODELS,
    training: dict[str, Any] | None = None,
    **parameters: Any,
) -> RoutingEngine:
    """Return an engine trained on the first rows; pool models beyond the three are unknown to it."""
    rows = slice(0, TRAINED_ON)
    quality = create("router", router, **parameters).fit(X[rows], OUTCOMES[rows])
    amounts = np.full((TRAINED_ON, 3), 10.0)
    if isinstance(quality, NeighbourRouter):
        cost: Any = create("router", router, **parameters).fit_shared(quality.index_, amounts)
        index: Any = quality.index_
    else:
        cost, index = create("router", "ridge").fit(X[rows], amounts), ExactIndex(D)
        index.add(np.arange(TRAINED_ON), X[rows])
    trained = TrainedRouters(
        models=MODELS,
        quality=quality,
        cost=cost,
        cost_unit="output_tokens",
        reference_cost_usd=1e-4,
        router_name=router,
        cost_router_name=router,
        best_single="alpha",
        mean_quality=dict(zip(MODELS, OUTCOMES[rows].mean(axis=0).tolist(), strict=True)),
        mean_output_tokens=dict.fromkeys(MODELS, 10.0),
        prompt_ids=tuple(f"t{i}" for i in range(TRAINED_ON)),
        index=index,
        training={} if training is None else training,
    )
    cards = [ModelCard(name, Price(1.0, 2.0)) for name in models]
    return RoutingEngine(cards, RowEncoder(), trained=trained, policy=UtilityPolicy(), artifact_id="test-1")


def event(number: int, *, model: str = "alpha", quality: float | None = 1.0, row: int = 0, **fields: Any) -> Event:
    """Return the event `number` of a log; its request is ``r<number>`` unless `request_id` says otherwise."""
    values: dict[str, Any] = {"request_id": f"r{number}", "time": 1e6 + number, "prompt": str(row), **fields}
    return Event(f"{number:020d}", Outcome(model=model, quality=quality, **values))


def log_of(count: int, *, seed: int = 0, again: float = 0.1) -> list[Event]:
    """Return judged outcomes of random models and prompts, some judged again later."""
    rng = np.random.default_rng(seed)
    events: list[Event] = []
    for number in range(1, count + 1):
        old = events[int(rng.integers(len(events)))].outcome.request_id if events and rng.random() < again else None
        source = next((e.outcome for e in events if e.outcome.request_id == old), None)
        row = int(rng.integers(N)) if source is None else int(source.prompt or 0)
        model = MODELS[int(rng.integers(3))] if source is None else source.model
        request_id = f"r{number}" if old is None else old
        moment = 1e6 + number * 600.0 if source is None else source.time
        events.append(
            event(
                number,
                model=model,
                quality=float(rng.random() < 0.5),
                row=row,
                request_id=request_id,
                time=moment,
                quality_weight=float(rng.choice([0.2, 0.5, 1.0, 3.0])),
            )
        )
    return events
