"""A change of the pool on its way: what is wanted, what it starts from, what it comes to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmrouter.learning import Placement, ProfilePlan, ProfileSettings, PublicCard
from llmrouter.outcomes import OutcomeTable
from llmrouter.routers.descriptors import ModelDescriptor
from llmrouter.types import FloatArray
from service.models.overlay import Overlay
from service.settings import ModelSettings, Settings

UPGRADE_STD = 0.1
"""How far a new version is presumed to lie from the old one, in quality."""


@dataclass(frozen=True)
class Wanted:
    """What is to change.

    Attributes
    ----------
    action : str
        ``add``, ``remove``, ``replace`` or ``reprice``.
    name : str
        The model; with ``replace`` the old one.
    entry : mapping or None
        The new model's entry of the pool; None where the configuration has it already.
    how : str
        How a new model becomes known: ``profile``, ``zero-shot``, ``scores`` or ``log``.
    profile : ProfileSettings
        Of a profile.
    card : PublicCard or None
        What is known of it beforehand.
    rows : sequence
        Given scores.
    std : float
        With ``replace`` and ``zero-shot``: how far the new version may lie from the old one.
    price : mapping or None
        With ``reprice``.
    descriptor : ModelDescriptor or None
        With ``zero-shot``: what the new model was seen to say to a set of probes.
    known : mapping of str to ModelDescriptor
        The same of models of the artifact, for routers that hold no descriptors themselves.
    """

    action: str
    name: str
    entry: Mapping[str, Any] | None = None
    how: str = "profile"
    profile: ProfileSettings = field(default_factory=ProfileSettings)
    card: PublicCard | None = None
    rows: Sequence[Any] = ()
    std: float = UPGRADE_STD
    price: Mapping[str, Any] | None = None
    descriptor: ModelDescriptor | None = None
    known: Mapping[str, ModelDescriptor] = field(default_factory=dict)

    @property
    def new_name(self) -> str:
        """The name that the model has afterwards."""
        return str(self.entry["name"]) if self.entry is not None else self.name


@dataclass(frozen=True)
class Prepared:
    """What a change starts from.

    Attributes
    ----------
    wanted : Wanted
        What is to change.
    before, after : Settings
        The configuration without and with it.
    overlay : Overlay
        What is to be in the overlay.
    table : OutcomeTable or None
        Prompts.
    plan : ProfilePlan or None
        What would be asked.
    """

    wanted: Wanted
    before: Settings
    after: Settings
    overlay: Overlay
    table: OutcomeTable | None = None
    X: FloatArray | None = None
    plan: ProfilePlan | None = None

    @property
    def model(self) -> ModelSettings:
        """The changed model's entry, as checked."""
        return next(model for model in self.after.pool if model.name == self.wanted.new_name)


@dataclass(frozen=True)
class Change:
    """What a change comes to.

    Attributes
    ----------
    base_id : str
        The artifact that it builds on.
    folder : Path or None
        The new artifact; None where the artifact stays.
    place : Placement or None
        Where it puts the router; None without prompts.
    facts : mapping
        What is known of the model now, for people and JSON.
    """

    base_id: str
    folder: Path | None
    place: Placement | None
    facts: Mapping[str, Any]
