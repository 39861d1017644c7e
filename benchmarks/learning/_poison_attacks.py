"""The attacker: who may send prompts and feedback through the public API, with k keys, and knows the encoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from benchmarks.learning._poison_world import DAY_S, SPAN_DAYS, Log, World
from llmrouter.learning import Judgements, TrustSettings
from llmrouter.types import FloatArray, IntArray

Standing = Literal["new", "old", "sparing", "masked", "stolen"]
"""Whose keys the attacker uses: as new as the attack; its own, which earned their standing, in three ways; honest ones
of much use."""
EARNED: tuple[Standing, ...] = ("old", "sparing", "masked")
"""Those of an attacker who knows the defences."""
_SPARING = 3
AttackKind = Literal["trigger", "region", "down", "degrade"]
ATTACKS: dict[AttackKind, str] = {
    "trigger": "prompts with an optimised trigger are to go to the attacker's model",
    "region": "prompts like a victim's are to go to the attacker's model",
    "down": "prompts like a victim's are to leave the model that is right for them",
    "degrade": "the log is to be worth less: scores turned round everywhere",
}
VICTIMS = 60
_DOWN_PART = 0.25
_CANDIDATES, _TRIGGER_WORDS, _TRIED_ON = 60, 8, 12
_CHEAP_ENOUGH = 0.5


@dataclass(frozen=True)
class Target:
    """What one attack is after.

    Attributes
    ----------
    kind : str
        See `ATTACKS`.
    X : array of shape (a, d)
        Embeddings of the attacker's prompts.
    victims : array of shape (v, d)
        Embeddings of the prompts whose routing counts.
    cost : array of shape (v, m)
        Expected cost of these.
    model : int
        The attacker's model; for ``down`` the one to be left.
    incumbent : int
        The model most of the victims go to without an attack.
    """

    kind: AttackKind
    X: FloatArray
    victims: FloatArray
    cost: FloatArray
    model: int
    incumbent: int

    def success(self, before: IntArray, after: IntArray) -> tuple[int, int]:
        """Return how many of the victims' prompts moved as the attacker wants, and how many could have."""
        if self.kind == "down":
            open_ = before == self.model
            moved = open_ & (after != self.model)
        else:
            open_ = before != self.model
            moved = open_ & (after == self.model)
        return int(moved.sum()), int(open_.sum())


def find_target(
    world: World, kind: AttackKind, rng: np.random.Generator, *, predict: Callable[[FloatArray], FloatArray]
) -> Target:
    """Choose victims, the attacker's prompts and the model; `predict` is the router of the unpoisoned log."""
    if kind == "trigger":
        trigger = optimised_trigger(world, rng)
        picked = rng.choice(len(world.test), size=min(VICTIMS, len(world.test)), replace=False)
        victims = world.encoder.encode([f"{world.test.texts[i]} {trigger}" for i in picked.tolist()])
        own = rng.choice(len(world.train), size=min(VICTIMS, len(world.train)), replace=False)
        X = world.encoder.encode([f"{world.train.texts[i]} {trigger}" for i in own.tolist()])
    else:
        centre = int(rng.integers(len(world.test)))
        picked = np.argsort(-(world.X_test @ world.X_test[centre]))[:VICTIMS]
        victims = world.X_test[picked]
        X = world.encoder.encode([_near_copy(world.test.texts[i] or "", rng) for i in picked.tolist()])
    cost = world.cost_router.predict(victims)
    chosen = world.utility(predict(victims), cost).argmax(axis=1)
    incumbent = int(np.bincount(chosen).argmax())
    mean_cost = np.nanmean(world.train.cost_usd, axis=0)
    usable = np.flatnonzero(mean_cost <= _CHEAP_ENOUGH * mean_cost.max())
    share = np.bincount(chosen, minlength=len(mean_cost))[usable] / len(chosen)
    rare = usable[share <= 0.1]
    pool = rare if len(rare) else usable[[int(share.argmin())]]
    model = incumbent if kind == "down" else int(rng.choice(pool))
    return Target(kind, X, victims, cost, model, incumbent)


def optimised_trigger(world: World, rng: np.random.Generator) -> str:
    """Return words that move any prompt into a compact region where no honest prompt is.

    The two terms of AgentPoison (arXiv 2407.12784): far from the honest prompts, near to one another. Greedy over
    words drawn from the pool's own prompts, which takes the place of its gradient-guided beam search.
    """
    words = sorted({word for text in world.train.texts[:500] for word in (text or "").split() if 3 < len(word) < 12})
    honest = world.X_train[rng.choice(len(world.X_train), size=min(500, len(world.X_train)), replace=False)]
    prompts = [world.train.texts[i] or "" for i in rng.integers(len(world.train), size=_TRIED_ON).tolist()]
    trigger = ""
    for _ in range(_TRIGGER_WORDS):
        tried = [f"{trigger} {word}".strip() for word in rng.choice(words, size=_CANDIDATES).tolist()]
        X = world.encoder.encode([f"{prompt} {text}" for text in tried for prompt in prompts])
        X = X.reshape(len(tried), len(prompts), -1)
        unique = 1.0 - (X @ honest.T).max(axis=2).mean(axis=1)
        compact = np.linalg.norm(X.mean(axis=1), axis=1)
        trigger = tried[int((unique + compact).argmax())]
    return trigger


def _near_copy(text: str, rng: np.random.Generator) -> str:
    words = text.split(" ")
    if len(words) > 3:
        del words[int(rng.integers(len(words)))]
    return " ".join(words)


def poison(
    world: World,
    log: Log,
    target: Target,
    rng: np.random.Generator,
    *,
    share: float,
    keys: int,
    standing: Standing,
    settings: TrustSettings,
) -> Log:
    """Return the log with that share of poisoned outcomes in it, all that the attacker sends counted.

    With ``new`` keys, as new as the attack, every outcome is poison. An attacker with ``old`` ones knows the
    defences: each key earns its standing with as many honest outcomes as that takes, spread like the honest traffic,
    and as many keys are used as the budget feeds; few keys leave more for poison, many have more backing. Against
    limits on what an outcome may count where its source says much, ``sparing`` ones send a third of that poison, and
    honest outcomes for the rest of the budget. Against the test of a source's bias on a model, what ``masked`` ones
    send elsewhere is of the attacker's model too, and errs the other way. With ``stolen`` ones, the honest keys of
    most traffic, the history costs nothing and all is poison.
    """
    total = max(round(share / (1.0 - share) * len(log.judged)), 1)
    history = 0
    if standing in EARNED:
        keys = max(min(keys, total // (settings.min_outcomes + 5)), 1)
        history = min(keys * settings.min_outcomes, total - 1)
    if standing == "sparing":
        history = total - max((total - history) // _SPARING, 1)
    count = total - history
    X, model, quality = _false(world, target, count, rng)
    taken = np.argsort(-np.bincount(log.judged.source, minlength=len(log.judged.names)), kind="stable")[:keys]
    source = np.arange(count) % keys
    time = np.full(count, SPAN_DAYS) - rng.random(count)
    if history:
        own = rng.integers(len(world.train), size=history)
        honest_model = rng.integers(len(world.train.models), size=history)
        said = np.nan_to_num(world.train.quality[own, honest_model], nan=0.5)
        if standing == "masked":
            honest_model, said = np.full(history, target.model), np.full(history, float(target.kind == "down"))
        X = np.concatenate([X, world.X_train[own]])
        model = np.concatenate([model, honest_model])
        quality = np.concatenate([quality, said])
        source = np.concatenate([source, np.arange(history) % keys])
        time = np.concatenate([time, SPAN_DAYS / 2 * rng.random(history)])
    judged, known = log.judged, len(log.judged.names)
    code, names = source + known, tuple(f"attacker-{i}" for i in range(keys))
    if standing == "stolen":
        code, names = taken[source], ()
    return Log(
        Judgements(
            X=np.concatenate([judged.X, X]),
            model=np.concatenate([judged.model, model]).astype(np.int64),
            source=np.concatenate([judged.source, code]).astype(np.int64),
            quality=np.concatenate([judged.quality, quality]),
            time=np.concatenate([judged.time, time * DAY_S]),
            weight=np.concatenate([judged.weight, np.ones(total)]),
            names=(*judged.names, *names),
        ),
        np.concatenate([log.honest, np.zeros(total)]),
    )


def _false(
    world: World, target: Target, count: int, rng: np.random.Generator
) -> tuple[FloatArray, IntArray, FloatArray]:
    """Return so many false outcomes: embeddings, models and qualities."""
    rows = rng.integers(len(target.X), size=count)
    X, model, quality = target.X[rows], np.full(count, target.model), np.ones(count)
    if target.kind == "down":
        quality[:] = 0.0
    elif target.kind == "degrade":
        spread = rng.integers(len(world.train), size=count)
        X, model = world.X_train[spread], rng.integers(len(world.train.models), size=count)
        quality = 1.0 - np.nan_to_num(world.train.quality[spread, model], nan=0.5)
    else:
        against = rng.random(count) < _DOWN_PART
        model[against], quality[against] = target.incumbent, 0.0
    return X, model, quality
