"""One-sided traffic of two models, each good at one kind of question, as a gateway would log it."""

import numpy as np

from llmrouter.engine import RoutingEngine
from llmrouter.policy import UtilityPolicy
from llmrouter.types import ModelCard, Outcome, Price
from training.train import fit

MODELS = ("sums", "words")
SKILL = {"sum": (0.9, 0.3), "word": (0.2, 0.8)}
CARDS = tuple(ModelCard(model, Price(0.0, 0.0)) for model in MODELS)
START = 1_700_000_000.0


class KindEncoder:
    """Reads the kind of a question off its first word, and a little noise off the rest."""

    fingerprint = "kind-1"
    dimension = 4

    def encode(self, texts, /):
        rows = []
        for text in texts:
            kind, number = text.split()
            noise = np.random.default_rng(int(number)).standard_normal(4)
            rows.append(np.array([kind == "sum", kind == "word", 0, 0], dtype=float) + 0.1 * noise)
        X = np.stack(rows).astype(np.float32)
        return X / np.linalg.norm(X, axis=1, keepdims=True)

    def count_tokens(self, text, /):
        return len(text)


def outcomes(n=600, *, live="sums", share=0.2, seed=0, judged=1.0, prompts="text", **changes):
    """Return n outcomes, a minute apart: `live` serves all but the share that is dealt evenly."""
    random = np.random.default_rng(seed)
    encoder = KindEncoder()
    made = []
    for number in range(n):
        kind = "sum" if random.random() < 0.5 else "word"
        chance = np.full(2, share / 2)
        chance[MODELS.index(live)] += 1 - share
        chosen = int(random.random() > chance[0])
        text = f"{kind} {number}"
        candidates = {
            model: {"quality": 0.5, "standard_error": 0.1, "cost_usd": 0.001, "propensity": float(chance[place])}
            for place, model in enumerate(MODELS)
        }
        fields = {
            "request_id": f"r{number}",
            "time": START + 60.0 * number,
            "model": MODELS[chosen],
            "served_by": MODELS[chosen],
            "artifact_id": "live",
            "policy": "explore",
            "propensity": float(chance[chosen]),
            "candidates": candidates,
            "prompt": text if prompts == "text" else None,
            "embedding": encoder.encode([text])[0].tolist() if prompts == "embedding" else None,
            "task": kind,
            "cost_usd": 0.001 * (chosen + 1),
            "quality": float(random.random() < SKILL[kind][chosen]) if random.random() < judged else None,
            "quality_source": "verifier:exact",
            "key_id": f"k{number % 9}",
            "explored": MODELS[chosen] != live,
        }
        made.append(Outcome(**{**fields, **changes}))
    return made


def full_table(n=300, *, seed=1, swapped=False):
    """Return (table, X) with every answer seen, to fit good routers (or, `swapped`, bad ones) on."""
    from llmrouter.outcomes import OutcomeTable

    random = np.random.default_rng(seed)
    kinds = ["sum" if random.random() < 0.5 else "word" for _ in range(n)]
    texts = tuple(f"{kind} {10_000 + number}" for number, kind in enumerate(kinds))
    skill = np.array([SKILL[kind] for kind in kinds])
    quality = (random.random((n, 2)) < (skill[:, ::-1] if swapped else skill)).astype(float)
    missing = np.full((n, 2), np.nan)
    table = OutcomeTable(
        prompt_ids=tuple(f"p{number}" for number in range(n)),
        models=MODELS,
        texts=texts,
        tasks=tuple(kinds),
        splits=("train",) * n,
        quality=quality,
        cost_usd=np.tile([0.001, 0.002], (n, 1)),
        input_tokens=missing,
        output_tokens=missing,
        propensity=np.ones((n, 2)),
        prices=(None, None),
        name="kinds",
    )
    return table, KindEncoder().encode(texts)


def engine(*, swapped=False, single=None, cards=CARDS, cost_weight=0.1):
    """Return an engine: a good one, a bad one (`swapped`), or one that always takes the model `single`."""
    table, X = full_table(swapped=swapped)
    if single is not None:
        quality = np.zeros(table.quality.shape)
        quality[:, MODELS.index(single)] = 1.0
        table.quality[:] = quality
    trained = fit(table, X, name="ridge", parameters={})
    return RoutingEngine(
        cards, KindEncoder(), trained=trained, policy=UtilityPolicy(cost_weight, guard=None), artifact_id="made"
    )
