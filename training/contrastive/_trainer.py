"""The training loop: AdamW, early stopping on held-out prompts, a checkpoint an epoch, a GPU where there is one.

Every random number hangs on the seed and the epoch alone, so that a run that was killed and resumed ends with the same
bits as one that was not (on one machine, on CPU).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llmrouter.exceptions import ConfigError, DataError, MissingExtraError
from llmrouter.types import IntArray
from training.contrastive import _checkpoint
from training.contrastive._checkpoint import Checkpoint

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

LossOf = Callable[["Module", IntArray, np.random.Generator, bool], "Tensor"]
"""From the module, rows, a generator and whether they are learned from (else judged) to the mean loss."""
_LEAST_GAIN = 1e-4
_LEARNING, _JUDGING = True, False


@dataclass(frozen=True)
class TrainingSettings:
    """How a run is made.

    Attributes
    ----------
    epochs, patience : int
        At most; epochs without a better held-out loss before stopping.
    batch, steps : int
        Prompts a step; steps an epoch at most, on prompts drawn anew (0: all prompts).
    learning_rate, decay : float
        Of AdamW.
    held_out : float
        Share of the prompts held out.
    seed : int
        Of everything that is drawn.
    """

    epochs: int = 30
    patience: int = 4
    batch: int = 256
    steps: int = 0
    learning_rate: float = 3e-3
    decay: float = 0.01
    held_out: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("patience", 1), ("batch", 1), ("steps", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be >= {least}; got {getattr(self, name)!r}")
        if not self.learning_rate > 0 or not self.decay >= 0 or not 0 < self.held_out < 1:
            raise ConfigError(
                "learning_rate must be > 0, decay >= 0 and held_out between 0 and 1; got "
                f"{self.learning_rate!r}, {self.decay!r} and {self.held_out!r}"
            )

    def split(self, prompts: int) -> tuple[IntArray, IntArray]:
        """Return rows to learn from and rows held out.

        Raises
        ------
        DataError
            If there are fewer than two prompts.
        """
        if prompts < 2:
            raise DataError(f"training holds prompts out and needs at least 2 of them; got {prompts}")
        order = np.random.default_rng([self.seed, 0]).permutation(prompts)
        count = min(max(round(self.held_out * prompts), 1), prompts - 1)
        return np.sort(order[count:]), np.sort(order[:count])


def device() -> str:
    """Return ``cuda`` where a GPU is to be had, else ``cpu``.

    Raises
    ------
    MissingExtraError
        If torch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError("torch", extra="encoders", purpose="contrastive training") from error
    return "cuda" if torch.cuda.is_available() else "cpu"


def run(
    module: Module,
    loss_of: LossOf,
    *,
    rows: tuple[IntArray, IntArray],
    settings: TrainingSettings,
    folder: Path,
    identity: Mapping[str, Any],
    say: Callable[[str], None] = print,
    rates: Mapping[str, float] | None = None,
    watch: Callable[[Module], Mapping[str, float]] | None = None,
) -> Mapping[str, Any]:
    """Train `module` in place to its best held-out loss, resuming from a checkpoint in `folder`; return the progress.

    Parameters
    ----------
    module : torch.nn.Module
        Already on its device.
    loss_of : callable
        See `LossOf`.
    rows : tuple of arrays
        Prompts to learn from, prompts to judge by.
    settings : TrainingSettings
        Of the run.
    folder : Path
        Where the checkpoint is kept.
    identity : mapping
        Encoder, data and method; with the settings it must match the checkpoint's.
    say : callable
        Takes one line of progress.
    rates : mapping, optional
        Learning rates of parameters that have one of their own, by the parameter's name.
    watch : callable, optional
        Figures of the module after an epoch, for the history and the line of progress; they stop nothing.

    Raises
    ------
    ArtifactCorruptError, FingerprintError
        If the checkpoint cannot be read, or is of another run.
    """
    import torch

    named = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
    rates = rates or {}
    groups: list[dict[str, Any]] = [{"params": [weight for name, weight in named.items() if name not in rates]}]
    groups += [{"params": [named[name]], "lr": rate} for name, rate in rates.items()]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, weight_decay=settings.decay)
    known = {**identity, **{name: value for name, value in asdict(settings).items() if name != "epochs"}}
    found = _checkpoint.read(folder, known)
    if found is None:
        best = {name: weight.detach().clone() for name, weight in named.items()}
        progress: dict[str, Any] = {"epoch": 0, "step": 0, "waited": 0, "best_epoch": 0, "history": []}
        progress["best"] = _held_out_loss(module, loss_of, rows[1], settings)
        say(f"held-out loss before training {progress['best']:.4f}")
    else:
        progress, best = dict(found.progress), _restore(found, named, optimizer)
        say(f"resumed after epoch {progress['epoch']} from {folder / _checkpoint.NAME}")
    while progress["epoch"] < settings.epochs and progress["waited"] < settings.patience:
        started = time.perf_counter()
        trained = _epoch(module, loss_of, rows[0], optimizer, settings, progress)
        loss = _held_out_loss(module, loss_of, rows[1], settings)
        better = loss < progress["best"] - _LEAST_GAIN
        if better:
            best = {name: weight.detach().clone() for name, weight in named.items()}
            progress |= {"best": loss, "best_epoch": progress["epoch"]}
        figures = _watched(module, watch)
        progress["waited"] = 0 if better else progress["waited"] + 1
        progress["history"] = [*progress["history"], {"train": trained, "held_out": loss, **figures}]
        _checkpoint.write(folder, Checkpoint(_tensors(named, best, optimizer), progress), known)
        say(
            f"epoch {progress['epoch']}/{settings.epochs}: train {trained:.4f}, held-out {loss:.4f}"
            f"{' (best)' if better else ''}{''.join(f', {name} {value:.4f}' for name, value in figures.items())}"
            f", {time.perf_counter() - started:.1f} s"
        )
    with torch.no_grad():
        for name, weight in named.items():
            weight.copy_(best[name])
    module.eval()
    return progress


def _epoch(
    module: Module,
    loss_of: LossOf,
    rows: IntArray,
    optimizer: Any,
    settings: TrainingSettings,
    progress: dict[str, Any],
) -> float:
    import torch

    progress["epoch"] += 1
    generator = np.random.default_rng([settings.seed, 1, progress["epoch"]])
    torch.manual_seed(settings.seed * 100_003 + progress["epoch"])  # of dropout
    order = generator.permutation(rows)
    if settings.steps:
        order = order[: settings.steps * settings.batch]
    module.train()
    total = 0.0
    for begin in range(0, len(order), settings.batch):
        batch = order[begin : begin + settings.batch]
        optimizer.zero_grad()
        loss = loss_of(module, batch, generator, _LEARNING)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise DataError(
                f"epoch {progress['epoch']}: the loss is {value}; lower learning_rate={settings.learning_rate!r}"
            )
        if loss.requires_grad:
            loss.backward()
            optimizer.step()
        progress["step"] += 1
        total += value * len(batch)
    return total / max(len(order), 1)


def _held_out_loss(module: Module, loss_of: LossOf, rows: IntArray, settings: TrainingSettings) -> float:
    import torch

    module.eval()
    generator = np.random.default_rng([settings.seed, 2])
    total = 0.0
    with torch.no_grad():
        for begin in range(0, len(rows), settings.batch):
            batch = rows[begin : begin + settings.batch]
            total += float(loss_of(module, batch, generator, _JUDGING)) * len(batch)
    return total / len(rows)


def _watched(module: Module, watch: Callable[[Module], Mapping[str, float]] | None) -> Mapping[str, float]:
    import torch

    if watch is None:
        return {}
    module.eval()
    with torch.no_grad():
        return watch(module)


def _tensors(named: Mapping[str, Any], best: Mapping[str, Any], optimizer: Any) -> dict[str, Any]:
    tensors = {f"now.{name}": weight for name, weight in named.items()}
    tensors |= {f"best.{name}": weight for name, weight in best.items()}
    for name, weight in named.items():
        state = optimizer.state.get(weight)
        if state:
            tensors |= {
                f"first.{name}": state["exp_avg"],
                f"second.{name}": state["exp_avg_sq"],
                f"step.{name}": state["step"],
            }
    return tensors


def _restore(found: Checkpoint, named: Mapping[str, Any], optimizer: Any) -> dict[str, Any]:
    """Bring weights and optimizer to where the checkpoint left them; return the best weights so far."""
    import torch

    with torch.no_grad():
        for name, weight in named.items():
            weight.copy_(found.tensors[f"now.{name}"])
            if f"first.{name}" in found.tensors:
                optimizer.state[weight] = {
                    "step": found.tensors[f"step.{name}"].clone(),
                    "exp_avg": found.tensors[f"first.{name}"].to(weight.device),
                    "exp_avg_sq": found.tensors[f"second.{name}"].to(weight.device),
                }
    return {name: found.tensors[f"best.{name}"].to(weight.device) for name, weight in named.items()}


def log_line(path: Path, entry: Mapping[str, Any]) -> None:
    """Append one JSON line about a run to the experiments' log at `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(dict(entry), ensure_ascii=False) + "\n")
