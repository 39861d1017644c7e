"""One training run of LLM Bandit: identities, supervised policy, PPO, each with its checkpoint, and the export."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmrouter import artifact
from llmrouter._files import json_bytes, write_atomically
from llmrouter.encoders import encode_cached, load_encoder
from llmrouter.exceptions import ConfigError, DataError
from llmrouter.outcomes import OutcomeTable
from llmrouter.routers import LLMBanditRouter, weighted_mean
from llmrouter.types import FloatArray, IntArray
from training.bandit import _modules, _objectives
from training.bandit._modules import Coordinates, PolicySize
from training.bandit._objectives import PolicyData, Preferences
from training.bandit.weights import write_bandit
from training.contrastive import _trainer
from training.contrastive._trainer import TrainingSettings
from training.train import fit

Say = Callable[[str], None]
STAGES = ("identity", "supervised", "ppo")


@dataclass(frozen=True)
class BanditSettings:
    """How a run is made.

    Attributes
    ----------
    rank : int
        Length of the identities.
    penalty : float
        Of slopes and identities, as in `LLMBanditRouter`.
    preferences : {"log", "paper"}
        How weights of cost are drawn: log-uniform over five decades, or uniform in [0, 2].
    sharpness : float
        First weight of the expected utility in the policy's logits, learned from there; 0 leaves the term out, as the
        paper does.
    ppo : bool
        Whether the supervised policy is improved by PPO.
    entropy : float
        Weight of the entropy in PPO.
    held_out : float
        Share of the prompts held out, the same in all stages.
    identity_epochs, policy_epochs, steps : int
        At most; steps of an epoch of the policy (the paper has 500 in all).
    patience : int
        Epochs without a better held-out loss before a stage stops.
    learning_rate : float
        Of the policy's stages.
    seed : int
        Of everything that is drawn.
    """

    rank: int = 8
    penalty: float = 10.0
    preferences: Preferences = "log"
    sharpness: float = 10.0
    ppo: bool = True
    entropy: float = 0.01
    held_out: float = 0.2
    identity_epochs: int = 80
    policy_epochs: int = 40
    steps: int = 10
    patience: int = 6
    learning_rate: float = 3e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.preferences not in ("log", "paper"):
            raise ConfigError(f"preferences must be log or paper; got {self.preferences!r}")
        if not isinstance(self.rank, int) or self.rank < 1 or not self.penalty > 0:
            raise ConfigError(f"rank must be >= 1 and penalty > 0; got {self.rank!r} and {self.penalty!r}")
        for name in ("entropy", "sharpness"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} must be >= 0; got {getattr(self, name)!r}")
        self.of("ppo")

    def of(self, stage: str) -> TrainingSettings:
        """Return the settings of a stage."""
        common: dict[str, Any] = {"patience": self.patience, "held_out": self.held_out, "seed": self.seed, "decay": 0.0}
        if stage == "identity":
            return TrainingSettings(epochs=self.identity_epochs, batch=256, learning_rate=0.03, **common)
        batch = 512 if stage == "supervised" else 256
        return TrainingSettings(
            epochs=self.policy_epochs, batch=batch, steps=self.steps, learning_rate=self.learning_rate, **common
        )


@dataclass(frozen=True)
class Finished:
    """A finished run: routers of both kinds of estimates, the artifact, the course of each stage."""

    response: LLMBanditRouter
    policy: LLMBanditRouter
    artifact: Path
    progress: Mapping[str, Mapping[str, Any]]


def train_bandit(
    table: OutcomeTable, X: FloatArray, out: Path, *, encoder: artifact.EncoderSpec, settings: BanditSettings,
    say: Say = print,
) -> Finished:  # fmt: skip
    """Train on every row of `table` and write weights, history and an artifact under `out`.

    Each stage stops early on the same held-out prompts and resumes from its own checkpoint; a stage that is done is
    read from it.

    Parameters
    ----------
    table : OutcomeTable
        n train prompts with costs.
    X : array of shape (n, d)
        Their embeddings.
    out : Path
        Holds a checkpoint in each of ``identity/``, ``supervised/`` and ``ppo/``, the weights, and ``artifacts/``.
    encoder : EncoderSpec
        What made X.
    settings : BanditSettings
        Of the run.
    say : callable
        Takes one line of progress.

    Raises
    ------
    DataError
        If there are no costs: the policy has nothing to weigh quality against.
    FingerprintError
        If a checkpoint is of another encoder, other data or other settings.
    """
    learn, held_out = settings.of("identity").split(len(X))
    cost = _relative_costs(table)
    identity_of_run: dict[str, Any] = {"encoder": encoder.fingerprint, "data": _hash(table), "method": "llm-bandit"}
    identity_of_run |= {"rank": settings.rank, "penalty": settings.penalty}
    coordinates = Coordinates.fit(X[learn], models=len(table.models), penalty=settings.penalty)
    identity, first = _identities(table, X, coordinates, settings, (learn, held_out), out, identity_of_run, say)
    parameters: dict[str, Any] = {"rank": settings.rank, "penalty": settings.penalty}
    response = LLMBanditRouter(**parameters).adopt(X, table.quality, identity, held_out=held_out)
    data = _policy_data(table, X, cost, coordinates, response)
    policy, rest = _policy(data, coordinates, settings, (learn, held_out), out, identity_of_run, say)
    costs = weighted_mean(cost, np.ones(len(cost)))
    made = [
        LLMBanditRouter(**parameters, estimates=estimates).adopt(
            X, table.quality, identity, held_out=held_out, policy=policy, costs=costs
        )
        for estimates in ("response", "policy")
    ]
    write_bandit(out, made[1], encoder=encoder, settings=asdict(settings), models=table.models)
    written = _artifact(table, X, made[0], out, encoder, say)
    progress = {"identity": first, **rest}
    summary = {
        "stages": progress, "identity": identity_of_run, "settings": asdict(settings),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }  # fmt: skip
    write_atomically(out / "history.json", json_bytes(summary))
    _trainer.log_line(out.parent / "experiments.jsonl", {"run": out.name, **summary})
    return Finished(made[0], made[1], written, progress)


def _identities(
    table: OutcomeTable, X: FloatArray, coordinates: Coordinates, settings: BanditSettings,
    rows: tuple[IntArray, IntArray], out: Path, identity: Mapping[str, Any], say: Say,
) -> tuple[dict[str, FloatArray], Mapping[str, Any]]:  # fmt: skip
    import torch

    y = table.quality
    seen = torch.as_tensor(np.isfinite(y))
    target = torch.as_tensor(np.nan_to_num(y), dtype=torch.float32)
    inputs = torch.as_tensor(coordinates.of_response(X))
    cells = float(np.isfinite(y[rows[0]]).sum()) or 1.0
    scale = torch.as_tensor(coordinates.scale, dtype=torch.float32)
    length = min(settings.rank, *X.shape[1:], len(table.models))

    def loss_of(module: Any, batch: IntArray, generator: np.random.Generator, learning: bool) -> Any:
        shape = tuple(module.mean.shape)
        drawn = generator.standard_normal(shape) if learning else np.zeros(shape)
        chosen = torch.as_tensor(batch)
        logit = module(inputs[chosen], torch.as_tensor(drawn, dtype=torch.float32))
        each = torch.nn.functional.binary_cross_entropy_with_logits(logit, target[chosen], reduction="none")
        present = seen[chosen]
        loss = (each * present).sum() / present.sum().clamp(min=1)
        if not learning:
            return loss
        slopes = settings.penalty * ((module.maps * scale[:, None]) ** 2).sum()  # with a standard normal on identities
        common = ((module.difficulty * scale) ** 2).sum()
        return loss + (module.divergence() + 0.5 * settings.penalty * (slopes + common)) / cells

    module = _modules.response_module(X.shape[1], len(table.models), length, seed=settings.seed)
    say(f"identities: {len(rows[0])} prompts to learn from, {len(rows[1])} held out, {len(table.models)} models")
    progress = _trainer.run(
        module, loss_of, rows=rows, settings=settings.of("identity"), folder=out / "identity",
        identity=identity, say=say,
    )  # fmt: skip
    return _modules.identity_of(module, coordinates, penalty=settings.penalty), progress


def _policy(
    data: PolicyData, coordinates: Coordinates, settings: BanditSettings,
    rows: tuple[IntArray, IntArray], out: Path, identity: Mapping[str, Any], say: Say,
) -> tuple[Any, dict[str, Mapping[str, Any]]]:  # fmt: skip
    known = {**identity, "preferences": settings.preferences, "sharpness": settings.sharpness}
    module: Any = _modules.policy_module(
        data.prompts.shape[1], data.identities.shape[1], PolicySize(), sharpness=settings.sharpness, seed=settings.seed
    )
    progress: dict[str, Mapping[str, Any]] = {}
    for stage in STAGES[1 : 3 if settings.ppo else 2]:
        of_stage = settings.of(stage)
        many = np.tile(rows[0], -(-of_stage.steps * of_stage.batch // len(rows[0])))  # an epoch draws from these
        loss: Any = _objectives.SupervisedLoss(data, settings.preferences)
        if stage == "ppo":
            loss = _objectives.PPOLoss(data, settings.preferences, rows=rows[0], entropy=settings.entropy)
            known = {**known, "entropy": settings.entropy}
        say(f"policy, {stage}")
        progress[stage] = _trainer.run(
            module, loss, rows=(many, rows[1]), settings=of_stage, folder=out / stage, identity=known, say=say
        )
    return _modules.policy_of(module, coordinates), progress


def _policy_data(
    table: OutcomeTable, X: FloatArray, cost: FloatArray, coordinates: Coordinates, response: LLMBanditRouter
) -> PolicyData:
    means = weighted_mean(cost, np.ones(len(cost)))
    unknown = [
        model
        for model, known in zip(
            table.models, np.isfinite(response.vectors_).all(axis=1) & np.isfinite(means), strict=True
        )
        if not known
    ]
    if unknown:
        raise DataError(
            f"{', '.join(unknown)}: no outcome or no cost on the train prompts, so no identity or nothing to weigh; "
            "leave them out of the table, or add them from scored prompts afterwards"
        )
    return PolicyData(
        coordinates.of_policy(X), response.vectors_, response.predict(X), table.quality,
        np.where(np.isfinite(cost), cost, means), means,
    )  # fmt: skip


def _relative_costs(table: OutcomeTable) -> FloatArray:
    """Return logged costs (n, m) in units of the dearest model's mean cost."""
    means = weighted_mean(table.cost_usd, np.ones(len(table)))
    if not np.isfinite(means).any() or not np.nanmax(means) > 0:
        raise DataError(
            f"{table.name or 'the table'} has no costs (cost_usd): a policy has nothing to weigh quality against"
        )
    return np.asarray(table.cost_usd / np.nanmax(means))


def _artifact(
    table: OutcomeTable, X: FloatArray, router: LLMBanditRouter, out: Path, encoder: artifact.EncoderSpec, say: Say
) -> Path:
    trained = dataclasses.replace(fit(table, X, name="ridge", parameters={}), quality=router, router_name="llm-bandit")
    folder = artifact.save(
        trained, out / "artifacts", encoder=encoder, training={"data": table.name, "router": "llm-bandit"}
    )
    say(f"wrote {folder}")
    return folder


def encoded(table: OutcomeTable, encoder: str) -> tuple[FloatArray, artifact.EncoderSpec]:
    """Return embeddings of a table's prompts and what made them."""
    loaded = load_encoder(encoder)
    return encode_cached(loaded, table.router_texts()), artifact.EncoderSpec(encoder, {}, loaded.fingerprint)


def _hash(table: OutcomeTable) -> str:
    digest = hashlib.sha256("\n".join([*table.models, *table.prompt_ids]).encode())
    for values in (table.quality, table.cost_usd):
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()[:16]
