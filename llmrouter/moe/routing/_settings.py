"""What a checkpoint's configuration says of its router; values only, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from llmrouter.exceptions import CheckpointError

FIELD = "llmrouter_routing"
"""Of config.json; without it a checkpoint has the router of its class."""

RoutingKind = Literal["null", "relu", "loss-free"]

_NULL_FIELDS = ("null_experts", "slots")


@dataclass(frozen=True, slots=True)
class RoutingSettings:
    """A router other than the model class's own.

    Attributes
    ----------
    kind : {"null", "relu", "loss-free"}
        Null experts (AdaMoE, arXiv:2406.13233), ReLU routing (ReMoE, arXiv:2412.14711), or top-k by biased scores
        (loss-free balancing, arXiv:2408.15664), whose biases are among the weights.
    null_experts : int, optional
        For "null": how many experts there are that compute nothing, at least 1.
    slots : int, optional
        For "null": how many experts, null ones among them, a token chooses.

    Raises
    ------
    CheckpointError
        If a value is out of its range, missing, or of another kind.
    """

    kind: RoutingKind
    null_experts: int | None = None
    slots: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(RoutingKind):
            raise CheckpointError(
                f"{FIELD}.kind is {self.kind!r}; this version knows {', '.join(get_args(RoutingKind))}. "
                "Leave the field out for the router of the model's class"
            )
        for name in _NULL_FIELDS:
            value = getattr(self, name)
            if self.kind == "null":
                if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                    raise CheckpointError(
                        f"{FIELD}.{name} is {value!r}; null experts need a whole number of at least 1 there"
                    )
            elif value is not None:
                raise CheckpointError(f"{FIELD}.{name} is {value!r}; only kind 'null' has it. Leave it out")

    @classmethod
    def parse(cls, value: Any) -> RoutingSettings:
        """Read the field's value.

        Raises
        ------
        CheckpointError
            If it is not an object of known fields with values in their ranges.
        """
        if not isinstance(value, Mapping):
            raise CheckpointError(f"{FIELD} is {value!r}; it must be an object such as {{'kind': 'relu'}}")
        known = ("kind", *_NULL_FIELDS)
        if unknown := sorted(map(str, set(value) - set(known))):
            raise CheckpointError(f"{FIELD} has the field {unknown[0]!r}; this version knows {', '.join(known)}")
        if "kind" not in value:
            raise CheckpointError(f"{FIELD} has no kind; one of {', '.join(get_args(RoutingKind))}")
        return cls(**value)

    def check_sizes(self, *, experts: int) -> None:
        """Raise CheckpointError if a token has more slots than there are experts, null ones included."""
        if self.kind == "null" and (self.slots or 0) > experts + (self.null_experts or 0):
            raise CheckpointError(
                f"{FIELD}.slots is {self.slots}, above the {experts} experts and {self.null_experts} null experts "
                "that a token can choose"
            )

    @property
    def rows(self) -> int:
        """Rows of router weights beyond those of the experts."""
        return self.null_experts or 0

    @property
    def fixed(self) -> bool:
        """Whether every token uses the same number of experts."""
        return self.kind == "loss-free"

    def as_field(self) -> dict[str, Any]:
        """Return the field's value, without what is not set."""
        return {name: value for name, value in asdict(self).items() if value is not None}
