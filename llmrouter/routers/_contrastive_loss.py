"""The losses of CSCR and RouterDC and their gradients, in numpy.

`training.contrastive` has the same losses in torch, for end-to-end training; a test holds the two together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmrouter.exceptions import ConfigError
from llmrouter.routers._axes import BoolArray
from llmrouter.types import FloatArray, IntArray

Priced = tuple[float, FloatArray]
"""A loss and its gradient."""


@dataclass(frozen=True)
class CostSpectrum:
    """What the cost-spectrum loss of CSCR (arXiv 2508.12491) knows of the pool.

    Attributes
    ----------
    costs : array of shape (m,)
        Costs of the models, min-max normalised over the pool to [0, 1].
    band : array of shape (m,)
        The percentile band of each model, from 0.
    temperatures : array of shape (bands,)
        ``tau_min + alpha * mean cost of the band``.
    shift : float
        What is multiplied with the costs and added to the similarities in the denominator: ``-gamma`` as the paper's
        formula and the authors' program have it, ``+gamma`` as its prose does.
    """

    costs: FloatArray
    band: IntArray
    temperatures: FloatArray
    shift: float

    @classmethod
    def make(cls, costs: FloatArray, *, bands: int, alpha: float, tau_min: float, shift: float) -> CostSpectrum:
        """Divide models of these costs (m,), in any unit, into at most `bands` percentile bands.

        Raises
        ------
        ConfigError
            If a temperature would not be positive.
        """
        span = float(costs.max() - costs.min())
        scaled = (costs - costs.min()) / span if span > 0 else np.zeros(len(costs))
        edges = np.quantile(scaled, np.linspace(0.0, 1.0, bands + 1)[1:-1])
        _, band = np.unique(np.searchsorted(edges, scaled, side="right"), return_inverse=True)
        means = np.bincount(band, weights=scaled) / np.bincount(band)
        temperatures = tau_min + alpha * means
        if not (temperatures > 0).all():
            raise ConfigError(
                f"tau_min must be > 0; with tau_min={tau_min!r}, alpha={alpha!r} a band has {temperatures}"
            )
        return cls(scaled, band, temperatures, shift)

    def loss(self, similarity: FloatArray, relevance: FloatArray, weight: FloatArray) -> Priced:
        """Return the mean loss of n prompts and its gradient by their similarities, shape (n, m).

        Of a prompt and a band with correct models it is the negative logarithm of the share that these have of all
        models in the softmax at the band's temperature; the mean over such bands, then over the prompts that have any.

        Parameters
        ----------
        similarity : array of shape (n, m)
            Of prompts and models.
        relevance : array of shape (n, m)
            1 where the model is right, 0 where wrong, in between for partial credit, NaN where unobserved; an
            unobserved model is in neither sum.
        weight : array of shape (n,)
            Of the prompts.
        """
        seen = np.isfinite(relevance)
        right = np.where(seen, relevance, 0.0)
        rows = np.zeros(len(similarity))
        slope = np.zeros_like(similarity)
        filled = np.zeros(len(similarity))
        for number, temperature in enumerate(self.temperatures):
            positive = right * (self.band == number)
            valid = positive.sum(axis=1) > 0
            if not valid.any():
                continue
            whole, of_all = _softmax((similarity + self.shift * self.costs) / temperature, seen * 1.0)
            part, of_right = _softmax(similarity / temperature, positive)
            rows += np.where(valid, whole - part, 0.0)
            slope += np.where(valid[:, None], of_all - of_right, 0.0) / temperature
            filled += valid
        share = weight * (filled > 0)
        scale = share / np.maximum(filled, 1.0) / max(float(share.sum()), 1e-12)
        return float(scale @ rows), scale[:, None] * slope


def sample_llm_loss(
    similarity: FloatArray,
    score: FloatArray,
    weight: FloatArray,
    *,
    best: int,
    worst: int,
    temperature: float,
    ties: FloatArray,
) -> Priced:
    """Return RouterDC's sample-LLM loss (arXiv 2409.19886) of n prompts and its gradient by similarity, (n, m).

    Each of the `best` models of highest score (above 0 only) is set, by a softmax, against the `worst` models of lowest
    score (at most 0.5 only); the sum over the former, the weighted mean over the prompts that have any of both.

    Parameters
    ----------
    similarity : array of shape (n, m)
        Cosines of prompts and model embeddings.
    score : array of shape (n, m)
        Outcomes, less the priced cost in the cost-aware variant; NaN where unobserved.
    weight : array of shape (n,)
        Of the prompts.
    best, worst : int
        K+ and K-.
    temperature : float
        Of the softmax, 1 in the paper.
    ties : array of shape (n, m)
        By which equal scores are put in order, see `contrasted`.
    """
    positive, negative = contrasted(score, best=best, worst=worst, ties=ties)
    valid = positive.any(axis=1) & negative.any(axis=1)
    share = weight * valid
    scale = share / max(float(share.sum()), 1e-12)
    logits = similarity / temperature
    rows = np.zeros(len(similarity))
    slope = np.zeros_like(similarity)
    for model in range(similarity.shape[1]):
        chosen = positive[:, model] & valid
        if not chosen.any():
            continue
        against = negative.copy()
        against[:, model] = True
        whole, of_all = _softmax(logits, against * 1.0)
        of_all[:, model] -= 1.0
        rows += np.where(chosen, whole - logits[:, model], 0.0)
        slope += np.where(chosen[:, None], of_all, 0.0) / temperature
    return float(scale @ rows), scale[:, None] * slope


def contrasted(score: FloatArray, *, best: int, worst: int, ties: FloatArray) -> tuple[BoolArray, BoolArray]:
    """Return which models are RouterDC's positives and which its negatives, each (n, m), bool.

    Outcomes are often 0 or 1, so that more than `best` models are equally good: the random numbers `ties` (n, m) say
    which are taken. By the order of the columns the first models would be drawn to nearly every prompt. A model is
    never both: where best and worst overlap, it stays a positive.
    """
    seen = np.isfinite(score)
    downward = np.argsort(np.lexsort((ties, np.where(seen, -score, np.inf)), axis=1), axis=1)
    upward = np.argsort(np.lexsort((ties, np.where(seen, score, np.inf)), axis=1), axis=1)
    filled = np.where(seen, score, 0.0)
    positive = seen & (downward < best) & (filled > 0)
    return positive, seen & (upward < worst) & (filled <= 0.5) & ~positive


def sample_sample_loss(
    queries: FloatArray, cluster: IntArray, *, negatives: int, generator: np.random.Generator
) -> Priced:
    """Return RouterDC's sample-sample loss of a batch and its gradient by the queries, (n, D).

    Each prompt is set, by a softmax of cosines without temperature, near one prompt of its cluster (maybe itself) and
    away from some of other clusters, all drawn from the batch (the authors draw them from the whole training set:
    the same distribution, for five times the forward passes).

    Parameters
    ----------
    queries : array of shape (n, D)
        Unit vectors.
    cluster : array of shape (n,)
        Cluster of each prompt.
    negatives : int
        H.
    generator : Generator
        Draws them.
    """
    n = len(queries)
    keys = generator.random((n, n))
    same = cluster[:, None] == cluster[None, :]
    near = np.argmin(np.where(same, keys, 2.0), axis=1)
    count = min(negatives, max(n - 1, 0))
    far = np.argsort(np.where(same, 2.0, keys), axis=1)[:, :count]
    usable = ~np.take_along_axis(same, far, axis=1)
    chosen = np.concatenate([near[:, None], far], axis=1)
    present = np.concatenate([np.ones((n, 1)), usable], axis=1)
    logits = np.einsum("nd,nhd->nh", queries, queries[chosen])
    whole, shares = _softmax(logits, present)
    shares[:, 0] -= 1.0
    shares /= n
    slope = np.einsum("nh,nhd->nd", shares, queries[chosen])
    np.add.at(slope, chosen, shares[:, :, None] * queries[:, None, :])
    return float((whole - logits[:, 0]).mean()), slope


def _softmax(logits: FloatArray, presence: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return log(sum presence * exp(logits)) (n,) and each term's share of the sum (n, k); 0 where nothing is there."""
    present = presence > 0
    top = np.where(present, logits, -np.inf).max(axis=1, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    terms = presence * np.exp(np.where(present, logits - top, 0.0))
    total = terms.sum(axis=1, keepdims=True)
    filled = total > 0
    total = np.where(filled, total, 1.0)
    return np.where(filled, np.log(total) + top, 0.0)[:, 0], terms / total
