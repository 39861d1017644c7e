"""The category-map policy: category of the prompt, expert of the category, a strong model where unsure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np

from llmrouter.exceptions import ConfigError
from llmrouter.policy._base import BasePolicy
from llmrouter.policy._categories import Categories, find_categories
from llmrouter.policy._checks import require, require_count
from llmrouter.policy._facts import Calibration, TrainingFacts
from llmrouter.policy._knapsack import best_assignment
from llmrouter.policy._learn_then_test import calibration_of
from llmrouter.policy._ranking import Appraisal, View
from llmrouter.policy._utility import floor_appraisal, utilities
from llmrouter.types import FloatArray, IntArray

SOURCES = ("auto", "tasks", "clusters")
_BUDGET_SHARES = (1.0, 0.9, 0.75, 0.5, 0.25)
_THRESHOLDS = 40


@dataclass(frozen=True)
class CategoryMap:
    """What binding found.

    Attributes
    ----------
    experts : mapping-like tuple of (category, model)
        The map.
    strong : str
        The model for prompts of unsure category.
    threshold : float
        Prompts whose confidence is below it go to the strong model; 0 is never.
    quality, cost_usd : float
        Means on the calibration prompts, in-sample.
    unsure_share : float
        Share of the calibration prompts that go to the strong model for lack of confidence.
    exact : bool
        Whether the map is the best there is within its budget.
    """

    experts: tuple[tuple[str, str], ...]
    strong: str
    threshold: float
    quality: float
    cost_usd: float
    unsure_share: float
    exact: bool


class CategoryMapPolicy(BasePolicy):
    """Composition of Experts (arXiv 2412.01868): a category router, then a map from category to expert.

    Bound to an artifact it (1) takes the task labels of the calibration as categories, or clusters its embeddings; (2)
    classifies by the nearest centroid; (3) gives each category the expert for which the mean quality on the calibration
    is highest within a mean-cost budget, exactly (a multiple-choice knapsack); (4) sends prompts to the strong model
    (the best single of the training) where the probability of the categories that share the chosen expert is below a
    threshold, chosen on the calibration together with the part of the budget that is left for it. Means of small
    categories are shrunk towards the model's mean. It reads `Estimates.embedding`; expected qualities only order the
    fallbacks. A request's own `cost_weight` or `quality_floor` is served by utility. A new expert needs scores on the
    calibration prompts; the categories stay.

    Parameters
    ----------
    usd_per_1k : float, optional
        Budget for the mean cost on the calibration, US dollars per 1,000 requests; None is no limit.
    categories : {"auto", "tasks", "clusters"}
        "auto" takes the labels where every calibration prompt has one.
    clusters : int
        Number of clusters where there are no labels.
    unsure_exit : bool
        Whether prompts of unsure category go to the strong model.
    shrinkage : float
        Prompts' worth of the model's overall mean in each category's, >= 0.
    temperature : float
        Of the classifier's probabilities, > 0; see `Categories`.
    seed : int
        Of the clusters.
    reference_cost_usd : float
        The unit of a request's own cost weight; `bind` sets it.
    """

    def __init__(
        self,
        usd_per_1k: float | None = None,
        *,
        categories: str = "auto",
        clusters: int = 16,
        unsure_exit: bool = True,
        shrinkage: float = 5.0,
        temperature: float = 0.05,
        seed: int = 0,
        reference_cost_usd: float = 1.0,
    ) -> None:
        self.usd_per_1k = None if usd_per_1k is None else require("usd_per_1k", usd_per_1k, above=0)
        if categories not in SOURCES:
            raise ConfigError(f"categories must be one of {', '.join(SOURCES)}; got {categories!r}")
        self.categories = categories
        self.clusters = require_count("clusters", clusters)
        self.unsure_exit = unsure_exit
        self.shrinkage = require("shrinkage", shrinkage, least=0)
        self.temperature = require("temperature", temperature, above=0)
        self.seed = require_count("seed", seed, least=0)
        self.reference_cost_usd = require("reference_cost_usd", reference_cost_usd, above=0)
        self._fitted: tuple[Categories, CategoryMap, IntArray] | None = None

    @property
    def name(self) -> str:
        """Name with settings."""
        return "category_map" if self.usd_per_1k is None else f"category_map({self.usd_per_1k:g}/1k)"

    @property
    def map(self) -> CategoryMap:
        """The category -> expert map, the threshold, and their means on the calibration.

        Raises
        ------
        ConfigError
            If the policy was bound to no artifact.
        """
        return self._bound()[1]

    def bind(self, facts: TrainingFacts, /) -> Self:
        """Return the policy with its categories, map and threshold chosen on an artifact's calibration.

        Raises
        ------
        ConfigError
            If there is no calibration, it has no labels where they are asked for, or the budget is too small.
        """
        calibration = calibration_of(facts, "category_map")
        if self.categories == "tasks" and None in calibration.tasks:
            raise ConfigError("categories=tasks needs a task label on every calibration prompt; use auto or clusters")
        categories = find_categories(
            calibration, self.categories, clusters=self.clusters, temperature=self.temperature, seed=self.seed
        )
        experts, found = self._mapped(facts, calibration, categories)
        return self._with(reference_cost_usd=facts.reference_cost_usd, _fitted=(categories, found, experts))

    def appraise(self, view: View, /) -> Appraisal:
        """Put the category's expert first, then the strong model, then the others by expected quality."""
        categories, found, experts = self._bound()
        preference = view.request.preference
        if preference.quality_floor is not None:
            return floor_appraisal(
                view,
                preference.quality_floor,
                calibrator=None,
                reference_cost_usd=self.reference_cost_usd,
                policy="category_map",
            )
        if preference.cost_weight is not None:
            weight = preference.cost_weight
            scores = utilities(view, weight, reference_cost_usd=self.reference_cost_usd)
            return Appraisal(scores, f"utility({weight:g})", weight, self.reference_cost_usd)
        embedding = view.estimates.embedding
        if embedding is None or embedding.shape != categories.centroids.shape[1:]:
            shape = None if embedding is None else embedding.shape
            raise ConfigError(
                f"category_map reads the prompt's embedding of shape {categories.centroids.shape[1:]}; the estimates "
                f"hold {shape}: route through an engine, with the encoder of the artifact"
            )
        category, confidence = _classified(categories.probabilities(embedding[None]), experts)
        expert = found.experts[int(category[0])][1]
        first = expert if confidence[0] >= found.threshold else found.strong
        names = [candidate.card.name for candidate in view.candidates]
        tiers = [0 if name == first else 1 if name == found.strong else 2 for name in names]
        return Appraisal(view.quality, self.name, 0.0, self.reference_cost_usd, tiers=tiers)

    def _bound(self) -> tuple[Categories, CategoryMap, IntArray]:
        if self._fitted is None:
            raise ConfigError(
                "category_map is fitted on the held-out estimates of an artifact, and was bound to none; "
                "load it with an artifact or call bind(facts)"
            )
        return self._fitted

    def _mapped(
        self, facts: TrainingFacts, calibration: Calibration, categories: Categories
    ) -> tuple[IntArray, CategoryMap]:
        probabilities = categories.probabilities(calibration.embeddings)
        # The classifier's own categories, not the labels: the map has to suit the prompts that will arrive there.
        labels = probabilities.argmax(axis=1)
        quality, cost, weight = self._means(calibration, labels, len(categories.names))
        observed = np.where(np.isnan(calibration.quality), quality[labels], calibration.quality)
        paid, rows = calibration.paid_usd(), np.arange(len(calibration))
        limit = math.inf if self.usd_per_1k is None else self.usd_per_1k / 1000
        strong = calibration.models.index(facts.best_single) if facts.best_single in calibration.models else None
        best: tuple[IntArray, CategoryMap] | None = None
        for share in _BUDGET_SHARES if self.unsure_exit and math.isfinite(limit) else (1.0,):
            found = best_assignment(quality * weight[:, None], cost * weight[:, None], budget=limit * share)
            if found is None:
                continue
            experts = np.array(found.options)
            chosen = experts[labels]
            count, threshold = 0, 0.0
            if self.unsure_exit and strong is not None:
                gain = observed[:, strong] - observed[rows, chosen]
                extra = paid[:, strong] - paid[rows, chosen]
                room = limit - float(paid[rows, chosen].mean())
                count, threshold = _exit(_classified(probabilities, experts)[1], gain, extra, room=room)
                unsure = _classified(probabilities, experts)[1] < threshold
                chosen = np.where(unsure, strong, chosen)
            described = CategoryMap(
                experts=tuple(
                    (name, calibration.models[j]) for name, j in zip(categories.names, found.options, strict=True)
                ),
                strong=facts.best_single,
                threshold=threshold,
                quality=float(observed[rows, chosen].mean()),
                cost_usd=float(paid[rows, chosen].mean()),
                unsure_share=count / len(calibration),
                exact=found.exact,
            )
            if best is None or described.quality > best[1].quality + 1e-9:
                best = experts, described
        if best is None:
            least = float((cost.min(axis=1) * weight).sum()) * 1000
            raise ConfigError(
                f"usd_per_1k={self.usd_per_1k:g} is less than the cheapest model of each category costs "
                f"({least:.4g} USD per 1,000 requests); raise it"
            )
        return best

    def _means(self, calibration: Calibration, labels: IntArray, k: int) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return shrunk mean quality and mean cost of shape (k, m), and each category's share of the prompts."""
        member = np.zeros((k, labels.size))
        member[labels, np.arange(labels.size)] = 1.0
        return (
            _shrunk(member, calibration.quality, self.shrinkage),
            _shrunk(member, calibration.paid_usd(), self.shrinkage),
            member.mean(axis=1),
        )


def _shrunk(member: FloatArray, values: FloatArray, shrinkage: float) -> FloatArray:
    seen = ~np.isnan(values)
    count = member @ seen
    filled = np.where(seen, values, 0.0)
    overall = filled.sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
    least = max(shrinkage, 1e-9)  # an empty category has the overall mean
    means: FloatArray = (member @ filled + least * overall) / (count + least)
    return means


def _classified(probabilities: FloatArray, experts: IntArray) -> tuple[IntArray, FloatArray]:
    """Return the nearest category, and the probability of all categories that have the same expert."""
    category = probabilities.argmax(axis=1)
    same = experts[None, :] == experts[category][:, None]
    return category, (probabilities * same).sum(axis=1)


def _exit(confidence: FloatArray, gain: FloatArray, extra: FloatArray, *, room: float) -> tuple[int, float]:
    """Return how many of the least confident prompts should go to the strong model, and the threshold for that.

    The number is the one with the largest sum of gains among `_THRESHOLDS` evenly spaced ones whose mean extra cost
    fits into `room`; none where no gain is positive.
    """
    order = np.argsort(confidence, kind="stable")
    n = order.size
    gained = np.concatenate(([0.0], np.cumsum(gain[order])))
    spent = np.concatenate(([0.0], np.cumsum(extra[order]))) / n
    sorted_confidence = confidence[order]
    best, threshold = 0, 0.0
    for count in np.unique(np.linspace(0, n, _THRESHOLDS + 1).astype(int)).tolist():
        limit = float(sorted_confidence[count]) if count < n else math.inf
        actual = int(np.searchsorted(sorted_confidence, limit, side="left"))  # equal confidences stay together
        if spent[actual] <= room + 1e-15 and gained[actual] > gained[best] + 1e-9:
            best, threshold = actual, limit
    return best, threshold
