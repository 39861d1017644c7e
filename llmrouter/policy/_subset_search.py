"""The search for the best subset of models: branch and bound, or greedy."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from llmrouter.exceptions import ConfigError
from llmrouter.types import FloatArray, IntArray


@dataclass(frozen=True)
class Limits:
    """Budgets; None is no limit. Costs, latencies and energies are means over the prompts."""

    models: int | None = None
    cost_usd: float | None = None
    latency_s: float | None = None
    energy_j: float | None = None


@dataclass(frozen=True)
class SubsetChoice:
    """A subset, and what the choices within it come to on the calibration.

    Attributes
    ----------
    models : tuple of str
        The subset, in the order of the columns.
    exact : bool
        Whether no better subset exists; False for the greedy search.
    utility : float
        Mean expected utility of the choices: what was maximised.
    quality, cost_usd, latency_s, energy_j : float
        Means of the choices: observed quality (where observed), cost, latency and energy (NaN without a budget on it).
    evaluated : int
        Subsets that were looked at.
    """

    models: tuple[str, ...]
    exact: bool
    utility: float
    quality: float
    cost_usd: float
    latency_s: float
    energy_j: float
    evaluated: int


def search(
    models: tuple[str, ...],
    utility: FloatArray,
    *,
    quality: FloatArray,
    cost_usd: FloatArray,
    latency_s: FloatArray,
    energy_j: FloatArray,
    limits: Limits,
    exact: bool,
) -> SubsetChoice:
    """Return the subset with the highest mean of the best utility among those within the limits.

    Parameters
    ----------
    models : tuple of str, length m
        Columns.
    utility, quality, cost_usd : array of shape (n, m)
        Expected utility, observed quality (NaN allowed), cost.
    latency_s, energy_j : array of shape (m,)
        Of a request, by model.
    limits : Limits
        What the choices may come to.
    exact : bool
        Branch and bound, exponential in m; otherwise greedy.

    Raises
    ------
    ConfigError
        If no subset (that the search looks at) keeps to the limits.
    """
    looked = _Search(utility, cost_usd, latency_s, energy_j, limits)
    (looked.branch_and_bound if exact else looked.greedy)()
    if looked.best is None:
        raise ConfigError(f"subset: no subset of the models keeps to the budgets: {looked.shortfall()}; raise them")
    chosen = looked.choices(looked.best)
    rows = np.arange(len(utility))
    seen = quality[rows, chosen]
    cost, latency, energy = looked.means(chosen)
    return SubsetChoice(
        models=tuple(models[j] for j in sorted(looked.best)),
        exact=exact,
        utility=looked.best_value,
        quality=float(np.nanmean(seen)) if not np.isnan(seen).all() else math.nan,
        cost_usd=cost,
        latency_s=latency,
        energy_j=energy,
        evaluated=looked.evaluated,
    )


class _Search:
    def __init__(
        self, utility: FloatArray, cost: FloatArray, latency: FloatArray, energy: FloatArray, limits: Limits
    ) -> None:
        self.utility, self.cost, self.latency, self.energy, self.limits = utility, cost, latency, energy, limits
        self.most = min(limits.models or utility.shape[1], utility.shape[1])
        self.best: tuple[int, ...] | None = None
        self.best_value = -math.inf
        self.evaluated = 0
        self._rows = np.arange(len(utility))

    def choices(self, members: tuple[int, ...]) -> IntArray:
        """Return the column with the best utility among the members, for each prompt."""
        columns = np.array(sorted(members))
        chosen: IntArray = columns[self.utility[:, columns].argmax(axis=1)]
        return chosen

    def means(self, chosen: IntArray) -> tuple[float, float, float]:
        """Return mean cost, latency and energy of choices."""
        return (
            float(self.cost[self._rows, chosen].mean()),
            float(self.latency[chosen].mean()),
            float(self.energy[chosen].mean()),
        )

    def feasible(self, members: tuple[int, ...]) -> bool:
        """Return whether the choices within a subset keep to the limits."""
        limits = (self.limits.cost_usd, self.limits.latency_s, self.limits.energy_j)
        means = self.means(self.choices(members))
        return all(limit is None or mean <= limit for limit, mean in zip(limits, means, strict=True))

    def consider(self, members: tuple[int, ...], value: float) -> None:
        """Keep a subset if it is better than the best known and feasible; of equal ones the smaller."""
        self.evaluated += 1
        better = value > self.best_value + 1e-12
        smaller = self.best is not None and value > self.best_value - 1e-12 and len(members) < len(self.best)
        if (better or smaller) and self.feasible(members):
            self.best, self.best_value = members, value

    def branch_and_bound(self) -> None:
        """Look at every subset that could be better than the best known.

        The mean of the best utility never falls when a model is added (and each addition adds the less the more are
        there), which bounds what the models still open can bring. The budgets are not monotone: they only decide which
        subsets count.
        """
        order = np.argsort(-self.utility.mean(axis=0), kind="stable").tolist()
        # Row t: the best utility among the models from position t on.
        suffix = np.full((len(order) + 1, len(self.utility)), -np.inf)
        for t in range(len(order) - 1, -1, -1):
            suffix[t] = np.maximum(suffix[t + 1], self.utility[:, order[t]])
        stack: list[tuple[int, tuple[int, ...], FloatArray]] = [(0, (), suffix[-1])]
        while stack:
            start, members, height = stack.pop()
            if start == len(order) or len(members) == self.most:
                continue
            if self._bound(members, height, suffix[start], order[start:]) < self.best_value - 1e-12:
                continue
            stack.append((start + 1, members, height))
            with_next = (*members, order[start])
            raised = np.maximum(height, self.utility[:, order[start]])
            self.consider(with_next, float(raised.mean()))
            stack.append((start + 1, with_next, raised))

    def _bound(self, members: tuple[int, ...], height: FloatArray, rest: FloatArray, still_open: list[int]) -> float:
        bound = float(np.maximum(height, rest).mean())
        room = self.most - len(members)
        if members and room < len(still_open):
            gains = np.maximum(self.utility[:, still_open] - height[:, None], 0.0).mean(axis=0)
            bound = min(bound, float(height.mean() + np.sort(gains)[::-1][:room].sum()))
        return bound

    def greedy(self) -> None:
        """Add the model that brings most and keeps to the limits, until none does."""
        while len(self.best or ()) < self.most:
            before = self.best
            for members in list(self._extensions(before or ())):
                self.consider(members, float(self.utility[:, list(members)].max(axis=1).mean()))
            if self.best == before:
                return

    def _extensions(self, members: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        for j in range(self.utility.shape[1]):
            if j not in members:
                yield (*members, j)

    def shortfall(self) -> str:
        """Return the least that single models come to, beside the limits."""
        singles = [self.means(np.full(len(self.utility), j)) for j in range(self.utility.shape[1])]
        parts = []
        for k, (label, limit) in enumerate(
            (
                ("mean cost (USD)", self.limits.cost_usd),
                ("latency_s", self.limits.latency_s),
                ("energy_j", self.limits.energy_j),
            )
        ):
            if limit is not None:
                parts.append(
                    f"{label} is limited to {limit:.4g} and the least of a single model is "
                    f"{min(single[k] for single in singles):.4g}"
                )
        return "; ".join(parts)
