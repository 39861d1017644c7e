"""What flows learn from and are replayed on: outcomes of every model beside what a router expected of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmrouter.exceptions import DataError
from llmrouter.types import FloatArray


@dataclass(frozen=True)
class FlowTable:
    """Outcomes and estimates of n prompts and m models.

    Attributes
    ----------
    models : tuple of str, length m
        Their names.
    quality, cost : array of shape (n, m)
        What happened; NaN where not observed.
    expected_quality, expected_std, expected_cost : array of shape (n, m)
        What the router below expected, and the standard error of its quality. On training prompts they must be held
        out (from a router that did not see the prompt), or a flow learns to trust them too much.
    output_tokens, expected_tokens : array of shape (n, m) or None
        Completion tokens, where known.
    extra : array of shape (n, m, f) or None
        More features of each answer, from the same function as the flow's hook `features`.
    verdict : array of shape (n, m), bool, or None
        What a judge says of each answer.

    Raises
    ------
    DataError
        If shapes disagree.
    """

    models: tuple[str, ...]
    quality: FloatArray
    cost: FloatArray
    expected_quality: FloatArray
    expected_std: FloatArray
    expected_cost: FloatArray
    output_tokens: FloatArray | None = None
    expected_tokens: FloatArray | None = None
    extra: FloatArray | None = None
    verdict: npt.NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        shape = (len(self.quality), len(self.models))
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name != "models" and value is not None and value.shape[:2] != shape:
                raise DataError(f"{field.name} has shape {value.shape}; it must be {shape} like quality and models")
        if (self.output_tokens is None) != (self.expected_tokens is None):
            raise DataError("output_tokens and expected_tokens go together; give both or neither")

    def __len__(self) -> int:
        """Return the number of prompts."""
        return len(self.quality)

    def select(self, rows: npt.NDArray[np.int64]) -> FlowTable:
        """Return the table of some prompts."""
        chosen = {
            field.name: value[rows]
            for field in dataclasses.fields(self)
            if field.name != "models" and (value := getattr(self, field.name)) is not None
        }
        return dataclasses.replace(self, **chosen)


@dataclass(frozen=True)
class FlowTrace:
    """What a flow did on n prompts at p operating points.

    Attributes
    ----------
    kept : array of shape (p, n), int16
        Column of the model whose answer was kept.
    called : array of shape (p, n, m), bool
        The models that were called.
    """

    kept: npt.NDArray[np.int16]
    called: npt.NDArray[np.bool_]

    @property
    def mean_calls(self) -> FloatArray:
        """Calls a prompt at each operating point, shape (p,)."""
        return np.asarray(self.called.sum(axis=2).mean(axis=1))
