"""A model that nothing was observed of, placed by a descriptor of what it says to a set of probes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from llmrouter.engine import TrainedRouters
from llmrouter.exceptions import ConfigError, UnknownModelError
from llmrouter.learning import CardPrior, with_prior
from llmrouter.routers import CSCRRouter
from llmrouter.routers.descriptors import MeasuredSpace, ModelDescriptor, likeness, load_descriptor
from llmrouter.types import FloatArray

_LEAST = 2


def read_descriptors(
    new: str | None, known: list[str] | None, *, zero_shot: bool
) -> tuple[ModelDescriptor | None, dict[str, ModelDescriptor]]:
    """Return the new model's descriptor and those of known ones, from ``--descriptor DIR`` and ``--known NAME=DIR``.

    Raises
    ------
    ConfigError
        If they do not go together, or with how the model becomes known.
    ArtifactError
        If a folder holds no descriptor.
    """
    if new is None:
        if known:
            raise ConfigError("says what known models are like; give the new one's as --descriptor DIR", path="--known")
        return None, {}
    if not zero_shot:
        raise ConfigError("is for --zero-shot, where nothing is asked; a scored model needs none", path="--descriptor")
    described: dict[str, ModelDescriptor] = {}
    for part in known or ():
        name, equals, folder = part.partition("=")
        if not (name and equals and folder):
            raise ConfigError(f"must be NAME=DIR; got {part!r}", path="--known")
        if name in described:
            raise ConfigError(f"{name!r} is given twice", path="--known")
        described[name] = load_descriptor(Path(folder))
    return load_descriptor(Path(new)), described


def with_described(
    trained: TrainedRouters,
    name: str,
    prior: CardPrior,
    X: FloatArray,
    descriptor: ModelDescriptor,
    known: Mapping[str, ModelDescriptor],
) -> TrainedRouters:
    """Return routers that know one more model, by its descriptor: how good it is, is the prior's; where, is read here.

    A contrastive router of measured descriptors compares it with its own. Any other needs those of `known` models of
    the artifact, and expects the new one to be good where the ones like it are.

    Raises
    ------
    ConfigError
        If descriptors of known models are needed and there are fewer than two.
    UnknownModelError
        If one is given of a model that the artifact does not know.
    FingerprintError
        If descriptors cannot be compared.
    DataError
        See `with_prior`.
    """
    quality = trained.quality
    if isinstance(quality, CSCRRouter) and isinstance(quality.fingerprint_, MeasuredSpace):
        return with_prior(trained, name, prior, X, descriptor=descriptor)
    for model in known:
        if model not in trained.models:
            raise UnknownModelError(model, known=trained.models)
    if len(known) < _LEAST:
        raise ConfigError(
            f"the artifact's router ({trained.router_name}) holds no descriptors; give those of at least {_LEAST} of "
            f"its models ({', '.join(trained.models)}) as --known NAME=DIR; got {len(known)}",
            path="--known",
        )
    return with_prior(trained, name, replace(prior, likeness=likeness(descriptor, known)), X)
