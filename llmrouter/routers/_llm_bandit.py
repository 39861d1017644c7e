"""LLM Bandit: identity vectors of models learned from outcomes, and a policy that is told how much cost matters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np

from llmrouter.exceptions import ConfigError, DataError
from llmrouter.index import VectorIndex
from llmrouter.routers._axes import sigmoid
from llmrouter.routers._base import Learned
from llmrouter.routers._contrastive import checked_choice
from llmrouter.routers._irt import MIRTRouter
from llmrouter.routers._llm_bandit_policy import PreferencePolicy, softmax
from llmrouter.routers._llm_bandit_prompts import greedy, stratified
from llmrouter.routers._logistic_fit import LogisticProblem
from llmrouter.routers._similarity_map import SimilarityMap
from llmrouter.types import FloatArray, IntArray

Estimates = Literal["response", "policy"]
Rule = Literal["discrimination", "information"]
IDENTITY = ("projection", "shift", "prompt", "prompt_shift", "vectors")
SCORE_WEIGHTS = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Weights of cost over which the policy's logits are averaged to be read as quality."""


class LLMBanditRouter(MIRTRouter):
    """Item response model with an identity vector for each model, and a policy over identities told the weight of cost.

    LLM Bandit (arXiv 2502.02743): every model has an identity vector I_k, learned from outcomes; a response model
    expects success from prompt and identity; a policy ``pi(k | x, C, w)`` over the candidates C (identities, costs,
    expected success) is told the preference w at run time, taught the best arm of the response model first
    (supervised), then improved on outcomes by one-step PPO.

    Ours. The response is bilinear, ``sigmoid(a(x) . I_k - b(x))``, where the paper has two layers over prompt and
    identity, which did worse here (see ``training/LOG.md``). `fit` learns identities and response alone, by L-BFGS,
    and is then the same estimator as `MIRTRouter`; what the policy of the gateway does with its estimates is what the
    paper's supervised stage imitates. `training.bandit` trains all three stages in torch (variational identities, set
    transformer, PPO) and hands them over by `adopt`; from there on everything is numpy.

    `preferences` is the policy itself. As a regressor, the router gives what its response model expects, or, with
    ``estimates="policy"``, the policy's logits averaged over weights of cost and calibrated to quality on prompts the
    policy has not seen, so that it stands on the same curve as the rest.

    A new model needs N scored prompts, 20 to 50 of them chosen by `scoring_prompts`: they fit its identity, drawn
    towards the known ones, and slopes of its own (`LatentRouter`); nothing else is touched. The policy can choose the
    model by that identity once told its cost; measured, it hardly does before it is trained again (``docs/bandit.md``),
    so what `predict` says of a model that joined comes from the response model always.

    Parameters
    ----------
    rank : int
        Length of the identity vectors; cut to the number of models.
    penalty : float
        Of slopes and identities; on embeddings of unit length 5 to 20 is usual.
    estimates : {"response", "policy"}
        What `predict` is made of; the latter needs a trained policy.
    """

    grid: ClassVar[tuple[Mapping[str, Any], ...]] = tuple(
        {"rank": rank, "penalty": penalty} for rank in (4, 8) for penalty in (7.0, 14.0)
    )

    policy_: PreferencePolicy | None
    costs_: FloatArray
    map_: SimilarityMap | None

    def __init__(self, rank: int = 8, *, penalty: float = 10.0, estimates: Estimates = "response") -> None:
        super().__init__(rank, penalty=penalty)
        self.estimates = estimates

    # The policy

    def preferences(
        self,
        X: FloatArray,
        cost_weight: float,
        *,
        costs: FloatArray | None = None,
        available: Sequence[int] | None = None,
    ) -> FloatArray:
        """Return the policy's probabilities ``pi(k | x, C, w)``, (n, m); 0 for a model that is not available.

        Parameters
        ----------
        X : array of shape (n, d)
            Embeddings.
        cost_weight : float
            w, in the unit of the utility policy: quality given up for the dearest training model's mean cost.
        costs : array of shape (m,), optional
            Costs of the models in that unit; by default those of the training. Needed once a model has joined.
        available : sequence of int, optional
            Columns to choose from; by default all.

        Raises
        ------
        ConfigError
            If there is no policy, or the weight is below 0.
        DataError
            If costs are missing or wrong, no model is left, or one to choose from has no identity.
        """
        X = self._check_predict(X)
        policy = self._needed_policy()
        if not np.isfinite(cost_weight) or not cost_weight >= 0:
            raise ConfigError(f"cost_weight must be a finite number >= 0; got {cost_weight!r}")
        columns = np.arange(self.n_models_) if available is None else np.asarray(available, dtype=np.int64)
        if not len(columns) or columns.min() < 0 or columns.max() >= self.n_models_:
            raise DataError(f"available must be columns of 0..{self.n_models_ - 1}, one at least; got {available!r}")
        places = self.columns_[columns]
        without = columns[~np.isfinite(self.vectors_[places]).all(axis=1)]
        if without.size:
            raise DataError(
                f"column(s) {without.tolist()} have no identity, as they were never observed; leave them out of "
                "available, or add them from scored prompts with add_column"
            )
        own = self._costs_of(costs)[columns]
        expected = self._expected(X)[:, places]
        found = np.zeros((len(X), self.n_models_))
        weights = np.array([float(cost_weight)])
        found[:, columns] = softmax(policy.logits(X, self.vectors_[places], expected, own, weights)[0])
        return found

    def _needed_policy(self) -> PreferencePolicy:
        if self.policy_ is None:
            raise ConfigError(
                "this router has no policy: fit learns identities alone. Train one with python -m training.bandit, or "
                "choose by predict and a utility policy"
            )
        return self.policy_

    def _costs_of(self, costs: FloatArray | None) -> FloatArray:
        """Return the costs of the present columns, (m,)."""
        own = self.costs_[self.columns_] if costs is None else np.asarray(costs, dtype=np.float64)
        if own.shape != (self.n_models_,) or not np.isfinite(own).all() or (own < 0).any():
            why = "a model that joined has none yet: " if costs is None else ""
            raise DataError(
                f"{why}costs must be {self.n_models_} finite numbers >= 0, in units of the dearest training model's "
                f"mean cost; got {own!r}"
            )
        return own

    def scoring_prompts(self, X: FloatArray, n: int, *, rule: Rule = "information", seed: int = 0) -> IntArray:
        """Return n rows of X (N, d) on which to score a new model, ascending.

        ``discrimination``: evenly over the levels of discrimination ``p (1 - p) |a(x)|^2``, as the paper stratifies;
        ``information``: those that together say most about an identity, given what is known of identities already.

        Raises
        ------
        ConfigError
            If the rule is unknown or there are fewer than n prompts.
        """
        X = self._check_predict(X)
        checked_choice("rule", rule, Rule)
        features, _ = self._features(X)
        expected = self._expected(X)
        bend = np.nanmean(expected * (1.0 - expected), axis=1)
        if rule == "discrimination":
            return stratified(features - features.mean(axis=0), bend, n, seed=seed)
        return greedy(features, bend, self._vector_prior()[1], n)

    # Taking what was trained elsewhere

    def adopt(
        self,
        X: FloatArray,
        y: FloatArray,
        identity: Mapping[str, FloatArray],
        *,
        held_out: IntArray,
        policy: PreferencePolicy | None = None,
        costs: FloatArray | None = None,
        sample_weight: FloatArray | None = None,
    ) -> Self:
        """Take identities, response model and policy that were trained elsewhere, such as by `training.bandit`.

        Parameters
        ----------
        X, y : arrays of shape (n, d) and (n, m)
            Embeddings and outcomes, as for `fit`; qualities in [0, 1].
        identity : mapping
            ``projection`` (d, q), ``shift`` (q,), ``prompt`` (d,), ``prompt_shift`` () and ``vectors`` (m, q); see
            `LatentRouter`.
        held_out : array of row numbers
            Prompts that the training has not seen; the policy's logits are calibrated on them alone.
        policy : PreferencePolicy, optional
            With the `costs` (m,) of the models, in units of the dearest one's mean cost.
        costs : array of shape (m,), optional
        sample_weight : array of shape (n,), optional
            Weight of each prompt.

        Raises
        ------
        DataError
            If an array is missing, has the wrong shape or values that are no numbers, a model that was observed has no
            identity, or nothing is held out.
        """
        X, y, weight = self._check_fit(X, y, sample_weight)
        self._check_parameters()
        if not np.isfinite(self.upper_):
            raise DataError("y must lie in [0, 1]: identities are learned from qualities; fit learns amounts")
        self._take_identity(identity, X, y)
        self.offset_, self.unit_ = np.zeros(y.shape[1]), np.ones(y.shape[1])
        self.own_ = np.zeros((X.shape[1], y.shape[1]))
        self.policy_, self.map_, self.costs_ = None, None, np.full(y.shape[1], np.nan)
        self._fit_uncertainty(LogisticProblem.make(X, y, weight), X)
        if policy is not None:
            self.policy_ = policy.checked(dimension=X.shape[1], length=self.vectors_.shape[1])
            self.costs_ = self._costs_of(np.full(y.shape[1], np.nan) if costs is None else costs)
            if not len(held_out):
                raise DataError("held_out is empty; hold some prompts out of the training to calibrate on")
            scores = self._scores(X[held_out])
            self.map_ = SimilarityMap.fit(scores, y[held_out], weight[held_out], upper=self.upper_)
        elif self.estimates == "policy":
            self._needed_policy()
        return self

    def _take_identity(self, identity: Mapping[str, FloatArray], X: FloatArray, y: FloatArray) -> None:
        missing = [name for name in IDENTITY if name not in identity]
        if missing:
            raise DataError(f"identity lacks {', '.join(missing)}; export it again with python -m training.bandit")
        length = np.shape(identity["shift"])[0] if np.ndim(identity["shift"]) else 0
        dimension, models = X.shape[1], y.shape[1]
        shapes = ((dimension, length), (length,), (dimension,), (), (models, length))
        for name, shape in zip(IDENTITY, shapes, strict=True):
            found = np.asarray(identity[name], dtype=np.float64)
            if found.shape != shape:
                raise DataError(
                    f"identity: {name} has the shape {found.shape}, expected {shape} for embeddings of {dimension} "
                    f"dimensions and {models} models; use the encoder and the models it was trained with"
                )
            if name != "vectors" and not np.isfinite(found).all():
                raise DataError(f"identity: {name} has NaN or infinite values; train again with a lower learning rate")
            setattr(self, f"{name}_", found)
        without = np.asarray(~np.isfinite(self.vectors_).all(axis=1))
        observed = np.asarray(np.isfinite(y).any(axis=0))
        if (without & observed).any():
            raise DataError(
                f"model(s) {np.flatnonzero(without & observed).tolist()} have outcomes and no identity; train with "
                "them, or adopt without them and add them with add_column"
            )
        self.vectors_ = np.where((without | ~observed)[:, None], np.nan, self.vectors_)

    # Hooks of the bases

    def _check_parameters(self) -> None:
        super()._check_parameters()
        checked_choice("estimates", self.estimates, Estimates)

    def _learn(self, X: FloatArray, y: FloatArray, weight: FloatArray) -> None:
        self._check_parameters()
        self.policy_, self.map_, self.costs_ = None, None, np.full(y.shape[1], np.nan)
        if self.estimates == "policy":
            self._needed_policy()
        super()._learn(X, y, weight)

    def _expected(self, X: FloatArray) -> FloatArray:
        """Return what the response model expects of all columns it has, (n, m), in [0, 1] for qualities."""
        features, offset = self._features(X)
        return sigmoid(self._logit(features, offset, self.vectors_) + self._centred(X) @ self.own_)

    def _scores(self, X: FloatArray) -> FloatArray:
        """Return the policy's logits, averaged over weights of cost, (n, m)."""
        policy, expected = self._needed_policy(), self._expected(X)
        known = np.isfinite(self.vectors_).all(axis=1) & np.isfinite(self.costs_)
        scores = np.zeros((len(X), len(self.vectors_)))
        logits = policy.logits(X, self.vectors_[known], expected[:, known], self.costs_[known], np.array(SCORE_WEIGHTS))
        scores[:, known] = logits.mean(axis=0)
        return scores

    def _estimate(self, X: FloatArray) -> tuple[FloatArray, FloatArray]:
        if self.estimates == "response" or self.map_ is None:
            return super()._estimate(X)
        known = len(self.map_.noise)
        scores = np.ascontiguousarray(self._scores(X)[:, :known])
        own, own_std = self.map_.expected(scores, scores.mean(axis=1))
        own = np.clip(own, self.lower_, self.upper_)
        if known == len(self.vectors_):
            return own, own_std
        mean, std = super()._estimate(X)  # a model that joined has no cost here: the response model speaks for it
        return np.column_stack([own, mean[:, known:]]), np.column_stack([own_std, std[:, known:]])

    def _new_column(self, X: FloatArray, y: FloatArray, weight: FloatArray, own: FloatArray) -> None:
        super()._new_column(X, y, weight, own)
        self.costs_ = np.append(self.costs_, np.nan)

    def _learned(self) -> Learned:
        arrays, values = super()._learned()
        arrays["costs"] = self.costs_
        if self.policy_ is not None and self.map_ is not None:
            arrays |= self.policy_.arrays() | self.map_.arrays()
        return arrays, values | {"policy": self.policy_ is not None}

    def _restore(self, arrays: Mapping[str, FloatArray], values: Mapping[str, Any], index: VectorIndex | None) -> None:
        super()._restore(arrays, values, index)
        self.costs_, self.policy_, self.map_ = arrays["costs"], None, None
        if values["policy"]:
            length = self.vectors_.shape[1]
            self.policy_ = PreferencePolicy.from_arrays(arrays).checked(dimension=self.n_features_in_, length=length)
            self.map_ = SimilarityMap.from_arrays(arrays)
