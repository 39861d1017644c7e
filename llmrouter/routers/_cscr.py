"""CSCR: models described by what they get right, prompts projected to where such models are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np

from llmrouter.encoders._head import ProjectionHead, unit
from llmrouter.exceptions import ConfigError, DataError
from llmrouter.index import VectorIndex
from llmrouter.routers._base import Learned
from llmrouter.routers._contrastive import ContrastiveRouter, Sign, Split, checked_choice
from llmrouter.routers._contrastive_fit import Objective, Trained
from llmrouter.routers._contrastive_loss import CostSpectrum
from llmrouter.routers.descriptors import (
    Anchors,
    MeasuredSpace,
    ModelDescriptor,
    OutcomeFingerprint,
    load_descriptors,
)
from llmrouter.types import FloatArray, IntArray

Start = Literal["probes", "random"]
Fingerprint = OutcomeFingerprint | MeasuredSpace


class CSCRRouter(ContrastiveRouter):
    """Cosine of the projected prompt with each model's fixed descriptor, read as quality.

    "Cost-Spectrum Contrastive Routing" (arXiv 2508.12491): models are described once, over a set of probes; a head
    over the frozen encoder is trained so that a prompt lies near the models that answer it right. Models fall into
    percentile bands of cost; the loss of a prompt is the mean over the bands with correct models P_k of::

        -log sum_(p in P_k) exp(q.e_p / tau_k) / sum_m exp((q.e_m - gamma c_m) / tau_k),   tau_k = tau_min + alpha c_k

    with c min-max normalised and c_k its mean in the band. The paper's formula and its authors' program subtract
    gamma c in the denominator, by which dear models weigh less among the wrong ones; its prose says the contrary,
    which is ``cost_sign="plus"``.

    Ours: the default descriptor is the outcome fingerprint (`llmrouter.routers.descriptors`), since public outcomes
    have neither logits nor answers; `descriptors` names measured ones (logit footprints, perplexity fingerprints) to
    be used in its place; partial credit counts as a part of a correct model; heads are trained on folds and
    their cosines calibrated to quality (`ContrastiveRouter`), where the paper compares the raw cosine, less a price,
    among the k nearest models. The policy does the pricing here, so the cost in the loss is counted twice and may be
    worth nothing: see the ablation in ``docs/contrastive.md``.

    A prompt teaches the head something only where several models were observed on it; on a log of one model a prompt
    this router falls back to each model's mean.

    A new model needs N scored prompts and no gradient: its descriptor is computed from them and its level and slope
    calibrated on them, each half described by the other; or only a descriptor of the same probe set
    (`add_described`). Nothing else is touched. Where descriptors are measured, scored prompts without one stand in for
    it: the direction in which prompts that it gets right lie from the others.

    Parameters
    ----------
    probes : int
        N, the length of outcome fingerprints.
    descriptors : sequence of str or str, optional
        Folders of measured descriptors (`save_descriptor`), one a model in the order of the columns; as text
        ``a|b|c``. They are read by `fit`; what is learned holds what is needed of them. None: outcome fingerprints.
    anchors : {"centroids", "prompts"}
        What the probes are: k-means centroids of the training prompts, or prompts drawn at random.
    shrinkage : float
        Weight of a model's mean outcome at each probe, in prompts.
    centred : bool
        Whether the pool's mean profile is taken off descriptors, measured ones too.
    spread : bool
        Whether measured descriptors of known models are set equally far apart (`MeasuredSpace`).
    costs : sequence of float or str, optional
        Costs of the models in the order of the columns, in any unit; as text ``0.2|1|30``. None: all alike.
    bands : int
        K, cut to what differs.
    gamma : float
        Size of the cost term, >= 0.
    cost_sign : {"minus", "plus"}
        Its sign in the denominator.
    alpha, tau_min : float
        Of the temperatures; .05 in the paper for the latter.
    start : {"probes", "random"}
        Whether the head starts as the prompt's cosines with the probes, or at random weights as in the paper. Where a
        model is new, only the former says something about what no known model has taught it. Measured descriptors have
        no place among the embeddings: their heads start at random.
    hidden : int
        Width of the hidden layer (that of the descriptors where the head starts at the probes); 0 is a linear head.
    members : int
        Heads, each without another fold.
    epochs, patience, batch, learning_rate, decay : int, int, int, float, float
        Of AdamW and early stopping.
    seed : int
        Of probes, folds, first weights and batches.
    """

    grid: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"tau_min": 0.2},
        {"tau_min": 1.0},
        {"start": "random", "hidden": 64, "tau_min": 0.05},
        {"start": "random", "hidden": 64, "tau_min": 0.2},
    )

    def __init__(
        self,
        probes: int = 64,
        *,
        descriptors: Sequence[str] | str | None = None,
        anchors: Anchors = "centroids",
        shrinkage: float = 5.0,
        centred: bool = True,
        spread: bool = False,
        costs: Sequence[float] | str | None = None,
        bands: int = 5,
        gamma: float = 0.2,
        cost_sign: Sign = "minus",
        alpha: float = 0.25,
        tau_min: float = 0.2,
        start: Start = "probes",
        hidden: int = 0,
        members: int = 5,
        epochs: int = 30,
        patience: int = 3,
        batch: int = 256,
        learning_rate: float = 3e-3,
        decay: float = 0.01,
        seed: int = 0,
    ) -> None:
        self.probes = probes
        self.descriptors = descriptors
        self.anchors = anchors
        self.shrinkage = shrinkage
        self.centred = centred
        self.spread = spread
        self.costs = costs
        self.bands = bands
        self.gamma = gamma
        self.cost_sign = cost_sign
        self.alpha = alpha
        self.tau_min = tau_min
        self.start = start
        self.hidden = hidden
        self.members = members
        self.epochs = epochs
        self.patience = patience
        self.batch = batch
        self.learning_rate = learning_rate
        self.decay = decay
        self.seed = seed

    fingerprint_: Fingerprint

    def add_described(
        self, descriptor: ModelDescriptor, *, level: float | None = None, std: float | None = None
    ) -> Self:
        """Take in a model by its descriptor alone: where it is good is read from that, by the slopes usual here.

        Parameters
        ----------
        descriptor : ModelDescriptor
            Of the kind, the probes and the settings of the present models' ones.
        level : float, optional
            Its expected mean outcome over the prompts of `fit`, from a model card for instance; by default the present
            models' mean.
        std : float, optional
            Standard error of an expectation at the mean prompt; by default that of one outcome.

        Raises
        ------
        FingerprintError
            If the descriptor is of another kind or probe set, or was read otherwise.
        DataError
            If `level` is out of bounds or `std` is not above 0.
        """
        vector = self.fingerprint_.checked(descriptor)
        if level is not None and not self.lower_ <= level <= self.upper_:
            raise DataError(f"level must lie in [{self.lower_:g}, {self.upper_:g}]; got {level!r}")
        if std is not None and not (np.isfinite(std) and std > 0):
            raise DataError(f"std must be a finite number > 0; got {std!r}")
        self._append(vector)
        usual = float(np.nanmean(self.map_.noise)) if np.isfinite(self.map_.noise).any() else 0.25
        self.map_ = self.map_.with_typical_model(
            self.map_.levels()[0] if level is None else level,
            noise=usual if std is None else std**2,
            at=self._mean_cosines(vector),
        )
        self._fitted_models += 1
        self.columns_ = np.append(self.columns_, self._fitted_models - 1)
        self.n_models_ += 1
        return self

    def adopt_described(
        self, X: FloatArray, y: FloatArray, trained: Trained, *, held_out: IntArray, fingerprint: Fingerprint
    ) -> Self:
        """Take a head trained elsewhere, as `adopt`, with the probes that its models were described over."""
        self.fingerprint_, self._base = fingerprint, y.shape[1]
        self.adopt(X, y, trained, held_out=held_out)
        self._note_queries(X, np.ones(len(X)))
        return self

    # Hooks

    def _check_parameters(self, models: int) -> None:
        super()._check_parameters(models)
        checked_choice("anchors", self.anchors, Anchors)
        checked_choice("cost_sign", self.cost_sign, Sign)
        checked_choice("start", self.start, Start)
        for name in ("probes", "bands"):
            if not isinstance(getattr(self, name), int | np.integer) or getattr(self, name) < 1:
                raise ConfigError(f"{name} must be a whole number >= 1; got {getattr(self, name)!r}")
        for name in ("shrinkage", "gamma", "alpha"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} must be >= 0; got {getattr(self, name)!r}")
        if not self.tau_min > 0:
            raise ConfigError(f"tau_min must be > 0; got {self.tau_min!r}")

    def _learn(self, X: FloatArray, y: FloatArray, weight: FloatArray) -> None:
        self._check_parameters(y.shape[1])
        keep = weight > 0
        self._base = y.shape[1]
        if self.descriptors is not None:
            described = load_descriptors(self.descriptors, y.shape[1])
            self.fingerprint_ = MeasuredSpace.over(described, centred=self.centred, spread=self.spread)
            self.measured_ = self.fingerprint_.described(described)
            super()._learn(X, y, weight)
            self._note_queries(X, weight)
            return
        plain = OutcomeFingerprint.over(
            X[keep], weight[keep], probes=int(self.probes), anchors=self.anchors, shrinkage=self.shrinkage,
            seed=self.seed,
        )  # fmt: skip
        relevance = self._relevance(y)
        self.fingerprint_ = plain.centred(X[keep], relevance[keep], weight[keep]) if self.centred else plain
        super()._learn(X, y, weight)
        self._note_queries(X, weight)

    def _start(
        self, X: FloatArray, y: FloatArray, weight: FloatArray, split: Split, generator: np.random.Generator
    ) -> tuple[Trained, Objective]:
        relevance = self._relevance(y)
        rest = split.rest
        if isinstance(self.fingerprint_, MeasuredSpace):
            described = self.measured_.copy()
        else:
            described = self.fingerprint_.describe(X[rest], relevance[rest], weight[rest])
            described[~np.isfinite(y[rest]).any(axis=0)] = 0.0
        shift = self.gamma if self.cost_sign == "plus" else -self.gamma
        spectrum = CostSpectrum.make(
            self._costs_of(y.shape[1]), bands=int(self.bands), alpha=self.alpha, tau_min=self.tau_min, shift=shift
        )

        def objective(
            queries: FloatArray, vectors: FloatArray, rows: IntArray, learning: bool
        ) -> tuple[float, FloatArray, None]:
            del learning
            loss, slope = spectrum.loss(queries @ vectors.T, relevance[rows], weight[rows])
            return loss, slope.astype(np.float32) @ vectors, None

        return (self.first_head(X.shape[1], described.shape[1], generator), described), objective

    def first_head(self, inputs: int, probes: int, generator: np.random.Generator) -> ProjectionHead:
        """Return the head that training starts from: the cosines with the probes, or random weights."""
        if self.start == "random" or isinstance(self.fingerprint_, MeasuredSpace):
            return ProjectionHead.first(self._sizes(inputs, probes), generator)
        near = np.ascontiguousarray(self.fingerprint_.anchors.T, dtype=np.float32)
        return ProjectionHead((near, np.eye(probes, dtype=np.float32)) if self.hidden else (near,))

    def _new_column(self, X: FloatArray, y: FloatArray, weight: FloatArray, own: FloatArray) -> None:
        del own
        relevance = self._relevance(y)
        half = np.arange(len(X)) % 2 == 0
        known = self._usual(self._cosines(X))
        similarity = np.zeros(len(X))
        for judged in (half, ~half) if len(X) > 1 else ():
            similarity[judged] = self._query(X[judged]) @ self._described(
                X[~judged], relevance[~judged], weight[~judged]
            )
        self._append(self._described(X, relevance, weight))
        self.map_ = self.map_.with_model(
            similarity[:, None], known, y, weight, upper=self.upper_, level=self.map_.levels()
        )
        self._fitted_models += 1

    def _described(self, X: FloatArray, y: FloatArray, weight: FloatArray) -> FloatArray:
        if isinstance(self.fingerprint_, OutcomeFingerprint):
            return self.fingerprint_.one(X, y, weight).vector
        above = weight * (y - np.average(y, weights=weight))
        return np.asarray(unit((above @ self._query(X))[None])[0][0])

    def _query(self, X: FloatArray) -> FloatArray:
        """Return the mean query of the members, (n, N)."""
        return np.asarray(np.mean([head.project(X.astype(np.float64)) for head in self.heads_], axis=0))

    def _note_queries(self, X: FloatArray, weight: FloatArray) -> None:
        """Keep each member's mean query, (members, D): by it the mean cosine of any model is known."""
        rows = X.astype(np.float64)
        self.queries_: FloatArray | None = np.stack(
            [np.average(head.project(rows), axis=0, weights=weight) for head in self.heads_]
        )

    def _mean_cosines(self, vector: FloatArray) -> tuple[float, float] | None:
        """Return the mean cosine of the prompts of `fit` with a new model, and with all known at `fit`."""
        if self.queries_ is None:
            return None
        known = np.einsum("kd,kmd->m", self.queries_, self.vectors_[:, : self._known_at_fit]) / len(self.queries_)
        return float((self.queries_ @ vector).mean()), float(known.mean())

    def _append(self, vector: FloatArray) -> None:
        everywhere = np.broadcast_to(vector, (len(self.vectors_), 1, len(vector)))
        self.vectors_ = np.concatenate([self.vectors_, everywhere], axis=1)

    @property
    def _known_at_fit(self) -> int:
        return int(self._base)

    def _learned(self) -> Learned:
        arrays, values = super()._learned()
        own = self.fingerprint_.values() if isinstance(self.fingerprint_, MeasuredSpace) else None
        if self.queries_ is not None:
            arrays["queries.mean"] = self.queries_
        return arrays | self.fingerprint_.arrays(), values | {"base": self._base, "measured": own}

    def _restore(self, arrays: Mapping[str, FloatArray], values: Mapping[str, Any], index: VectorIndex | None) -> None:
        super()._restore(arrays, values, index)
        self._base = values["base"]
        self.queries_ = arrays.get("queries.mean")
        measured = values.get("measured")  # none in artifacts of before there were measured ones
        self.fingerprint_ = (
            OutcomeFingerprint.from_arrays(arrays, shrinkage=self.shrinkage)
            if measured is None
            else MeasuredSpace.from_parts(arrays, measured)
        )
