"""What may be done to a model's experts when it is loaded; values only, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from llmrouter.exceptions import CheckpointError

Allocation = Literal["uniform", "global", "learned"]
_GROUP = 32


@dataclass(frozen=True, slots=True)
class Pruning:
    """Leave experts out of every layer for good.

    Attributes
    ----------
    rate : float
        Part of the model's experts that is removed, above 0 and below 1.
    prompts : sequence of str
        What the model is used for: experts are judged on these prompts and the model's own answers to them. Some
        hundred are better than ten; take them from your log, never from what you measure quality on.
    allocation : {"uniform", "global", "learned"}
        Which experts go. "uniform": from every layer the same number, those of the smallest router-weighted activation.
        "global": the smallest shares of their layer's activation, in whatever layers. "learned": as "uniform", but how
        many go from each layer is read from gates on the experts that are trained to keep the model's next-token
        distributions (after DiEP, arXiv:2509.16105); takes gradients, so memory and time of a small fine-tuning.
    seed : int
        Of the order of the prompts in training the gates.

    Raises
    ------
    CheckpointError
        If a value is out of its range.
    """

    rate: float
    prompts: Sequence[str]
    allocation: Allocation = "uniform"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            raise CheckpointError(f"the pruning rate is {self.rate}; it must be above 0 and below 1, e.g. 0.25")
        if self.allocation not in get_args(Allocation):
            raise CheckpointError(
                f"the pruning allocation is {self.allocation!r}; one of {', '.join(get_args(Allocation))}"
            )
        if isinstance(self.prompts, str) or not any(prompt.strip() for prompt in self.prompts):
            raise CheckpointError("pruning has no calibration prompts; give a list of prompts that the model is for")


@dataclass(frozen=True, slots=True)
class Quantization:
    """Store the weights of experts as integers.

    Attributes
    ----------
    bits : {8, 4}
        Of a weight.
    group : int, optional
        Columns of a row that share a scale; None is the whole row, one scale for each output channel. It must divide
        the hidden and the inner size of the experts.

    Raises
    ------
    CheckpointError
        If a value is out of its range.
    """

    bits: int = 8
    group: int | None = None

    def __post_init__(self) -> None:
        if self.bits not in (8, 4):
            raise CheckpointError(f"quantised weights of {self.bits} bits are not supported; take 8 or 4")
        if self.group is not None and (self.group < 2 or self.group % 2):
            raise CheckpointError(f"the group of quantised weights is {self.group}; it must be an even number from 2")

    @property
    def kind(self) -> str:
        """int8 or int4."""
        return f"int{self.bits}"

    @property
    def name(self) -> str:
        """For example ``int4:32``."""
        return self.kind if self.group is None else f"{self.kind}:{self.group}"

    @classmethod
    def parse(cls, text: str) -> Quantization:
        """Read ``int8`` (a scale a row), ``int4`` (a scale for 32 columns) or either with ``:GROUP``."""
        kind, separator, group = text.partition(":")
        if kind not in ("int8", "int4") or (separator and not group.isdecimal()):
            raise CheckpointError(f"quantisation is {text!r}; write int8, int4, or a group of columns as in int4:16")
        if kind == "int8":
            return cls(8, int(group) if separator else None)
        return cls(4, int(group) if separator else _GROUP)


@dataclass(frozen=True, slots=True)
class SelfContrast:
    """Decode by the contrast of a model with its own weaker choice of experts (SCMoE, arXiv:2405.14507).

    The next token's score is ``(1 + beta) log p - beta log q``, where p is the model's distribution and q that of the
    model with one expert a token, the one of rank `rank`; tokens less probable than ``alpha`` times the most probable
    one are ruled out. Two forward passes and two caches a token.

    Attributes
    ----------
    beta : float
        Strength, above 0; the paper has 0.5.
    alpha : float
        In (0, 1]; the paper has 0.1.
    rank : int
        Which of the chosen experts the weak side computes, 1 for the one of the largest weight.

    Raises
    ------
    CheckpointError
        If a value is out of its range.
    """

    beta: float = 0.5
    alpha: float = 0.1
    rank: int = 2

    def __post_init__(self) -> None:
        if not 0 < self.beta <= 10:
            raise CheckpointError(f"the strength of the self-contrast is {self.beta}; it must be above 0 and up to 10")
        if not 0 < self.alpha <= 1:
            raise CheckpointError(f"alpha of the self-contrast is {self.alpha}; it must be above 0 and up to 1")
        if self.rank < 1:
            raise CheckpointError(f"the rank of the self-contrast is {self.rank}; it must be at least 1")
