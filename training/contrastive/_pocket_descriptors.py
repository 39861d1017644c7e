"""Descriptors of the pocket models, whose logits and answers can be read: what the ablation of descriptors needs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from llmrouter.outcomes import OutcomeTable
from llmrouter.routers.descriptors import (
    LocalModel,
    ModelDescriptor,
    ProbeSet,
    TokenList,
    perplexity_fingerprint,
    save_descriptor,
)
from training.pocket.evaluate import ANSWER_TOKENS
from training.pocket.tasks import balanced

PROBE_SEED = 101
SCORERS = (("pocket-mini", True), ("pocket-mini", False), ("pocket-max", True))
"""Scorers, and whether they read the probe before the answer."""


def pocket_probes(table: OutcomeTable, *, count: int) -> ProbeSet:
    """Return probes of every task and level, from the train phrasings; no prompt of the log is among them."""
    logged = set(table.router_texts())
    fresh = [example.prompt for example in balanced(PROBE_SEED, "train", each=4) if example.prompt not in logged]
    return ProbeSet.drawn(fresh, count=count, seed=PROBE_SEED)


def describe_pool(models: Mapping[str, LocalModel], probes: ProbeSet) -> dict[str, list[ModelDescriptor]]:
    """Return each way to describe the models, by name: a descriptor a model, in their order.

    ``random`` is the control: directions that know nothing of the models. What is as good as that has learned nothing
    from its descriptors.
    """
    answers = {name: model.answers(probes.prompts, max_tokens=ANSWER_TOKENS) for name, model in models.items()}
    first = next(iter(models.values()))
    often = TokenList.most_frequent(probes.prompts, first)
    said = TokenList.most_frequent([text for own in answers.values() for text in own], first)
    ways = {
        "logit": (often, 10),
        "logit, first place": (often, 1),
        "logit, tokens of answers": (said, 10),
    }
    found = {
        way: [model.logit_footprint(probes, tokens, model=name, places=places) for name, model in models.items()]
        for way, (tokens, places) in ways.items()
    }
    for name, with_prompt in SCORERS:
        way = f"perplexity, {name}{'' if with_prompt else ', answer alone'}"
        found[way] = [
            perplexity_fingerprint(probes, own, models[name], model=model, with_prompt=with_prompt)
            for model, own in answers.items()
        ]
    generator = np.random.default_rng(PROBE_SEED)
    for way in ("random", "random, second draw", "random, third draw"):
        found[way] = [
            ModelDescriptor(generator.normal(size=256), probes.id, "logit", {}, {"model": name}) for name in models
        ]
    return found


def write_pool(found: Mapping[str, list[ModelDescriptor]], out: Path) -> dict[str, str]:
    """Write the descriptors and return what `CSCRRouter` calls each way: its folders in the order of the models."""
    named = {}
    for number, (way, descriptors) in enumerate(found.items()):
        folders = [out / f"way-{number}" / str(descriptor.provenance["model"]) for descriptor in descriptors]
        for folder, descriptor in zip(folders, descriptors, strict=True):
            save_descriptor(folder, descriptor)
        named[way] = "|".join(map(str, folders))
    return named
