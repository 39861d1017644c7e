"""What fitting an encoder to traffic is worth, by cross-validation on a train split: AIQ before and after.

``python -m training.traffic compare --data DIR --work DIR --out FILE``

The train split is dealt into folds. Per fold, encoders are fitted and tables made on the other folds' prompts alone,
routers are fitted on these, and the fold is judged; so no judged prompt has touched encoder, table or router. Intervals
are of a paired bootstrap over the judged prompts of each fold, averaged over the folds; they say how sure the figures
are for these fitted encoders, not how much another seed of the training would change. No test split is looked at.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmrouter._files import read_json_object, write_atomically
from llmrouter.encoders import Encoder, StaticEncoder, encode_cached, load_encoder
from llmrouter.encoders._form import with_form
from llmrouter.encoders._sources import ModelSource, resolve_source
from llmrouter.evaluation import Curve, ZeroRouter, aiq, bootstrap_aiq, percentile_interval, replay, sweep_weights
from llmrouter.evaluation._crossfit import make_folds
from llmrouter.evaluation._provenance import table_hash, versions
from llmrouter.evaluation._replay import cheapest_model
from llmrouter.exceptions import ConfigError, DataError
from llmrouter.outcomes import OutcomeTable
from llmrouter.registry import parse_spec
from llmrouter.routers import fit_pair
from llmrouter.types import FloatArray, IntArray
from training.contrastive._runs import train_rows
from training.contrastive._trainer import TrainingSettings
from training.distill import distill, write_table
from training.traffic._fit import Objective, Say, read_weights, train_weights
from training.traffic._runs import train_head
from training.traffic.tables import write_carried

ROUTERS = ("knn:k=100,shrinkage=20.0", "ridge", "carrot:estimator=linear")
"""Their parameters are fixed; ridge and carrot choose their penalty in `fit`, on what they are fitted on."""
PAIRS = (
    ("full, fitted", "full encoder"),
    ("distilled, fitted", "static table"),
    ("carried, fitted", "static table"),
    ("carried, fitted", "carried, not fitted"),
    ("head over the table", "static table"),
    ("head over the encoder", "full encoder"),
)
"""What is compared with what: the second is the first without the fitting."""
_FORM_WEIGHT = 0.12


@dataclass(frozen=True)
class Plan:
    """What is fitted in every fold.

    Attributes
    ----------
    encoder : str
        ``minilm``, a folder or a hub id.
    settings, head_settings : TrainingSettings
        Of the fine-tuning and of the heads.
    objective, longest, dimension
        As `training.traffic._runs.fit_encoder` takes them.
    seed : int
        Of the folds, the tables and the bootstrap; trainings have their own.
    """

    encoder: str
    settings: TrainingSettings
    head_settings: TrainingSettings
    objective: Objective
    longest: int
    dimension: int = 256
    seed: int = 0


def compare(
    table: OutcomeTable, work: Path, plan: Plan, *, folds: int = 2, resamples: int = 1000, say: Say = print
) -> dict[str, Any]:
    """Return AIQ of every encoder and router, and paired differences, on the train split of `table`.

    Parameters
    ----------
    table : OutcomeTable
        Outcomes with logged costs of every model.
    work : Path
        Gets ``fold-N/`` with checkpoints, weights and tables; what is finished there is not trained again.
    plan : Plan
        What is fitted.
    folds : int
        Two or more.
    resamples : int
        Of the bootstrap.
    say : callable
        Takes one line of progress.

    Raises
    ------
    ConfigError
        If there are fewer than two folds.
    DataError
        If an outcome or cost of the train split is not observed.
    """
    if folds < 2:
        raise ConfigError(f"folds must be >= 2; got {folds!r}")
    train = table.select(train_rows(table))
    if not (np.isfinite(train.quality).all() and np.isfinite(train.cost_usd).all()):
        raise DataError(f"{train.name or 'the table'}: comparing needs quality and cost_usd of every model and prompt")
    _distilled(resolve_source(plan.encoder), work / "static", plan.dimension)
    fitting = _Fitting(train, plan, StaticEncoder(work / "static"), load_encoder(plan.encoder), say)
    figures: dict[tuple[str, str], list[float]] = {}
    samples: dict[tuple[str, str], list[FloatArray]] = {}
    trainings = []
    dealt = make_folds(fitting.static, np.ones(len(train), dtype=bool), seed=plan.seed, folds=folds)
    for number, fold in enumerate(dealt):
        spaces, progress = fitting.spaces(fold.rest, work / f"fold-{number}")
        trainings.append({key: progress[key] for key in ("epoch", "best_epoch", "best", "history")})
        curves, zero = _curves(train, fold.rest, fold.held_out, spaces)
        interval = float(zero.hull.cost[0]), float(zero.hull.cost[-1])
        by_name = {str(key): curve for key, curve in curves.items()}
        drawn = bootstrap_aiq(by_name, zero, resamples=resamples, seed=plan.seed + number)
        for key, curve in curves.items():
            figures.setdefault(key, []).append(aiq(curve.hull, interval))
            samples.setdefault(key, []).append(drawn[str(key)])
        means = {name: float(np.mean([figures[name, spec][-1] for spec in ROUTERS])) for name in spaces}
        judged = ", ".join(f"{name} {value:.4f}" for name, value in means.items())
        say(f"fold {number + 1}/{folds}, {len(fold.held_out)} prompts judged; mean AIQ over routers: {judged}")
    return {"rows": _rows(figures), "differences": _differences(figures, samples), "trainings": trainings}


class _Fitting:
    """All ways to place the prompts of `train`, fitted on some of its rows."""

    def __init__(self, train: OutcomeTable, plan: Plan, table: StaticEncoder, full: Encoder, say: Say) -> None:
        self._train, self._plan, self._table, self._say = train, plan, table, say
        self._texts = train.router_texts()
        self._fingerprints = table.fingerprint, full.fingerprint
        self.static, self.full = (encode_cached(encoder, self._texts) for encoder in (table, full))

    def spaces(self, rest: IntArray, out: Path) -> tuple[dict[str, FloatArray], Mapping[str, Any]]:
        """Return vectors (n, d) of all prompts by every encoder, with and without form, and how the fine-tuning went.

        Encoders, heads and tables learn from the rows `rest` alone and are kept in `out`.
        """
        plan, learned = self._plan, self._train.select(rest)
        weights, progress = train_weights(
            learned, out, encoder=plan.encoder, settings=plan.settings, objective=plan.objective, longest=plan.longest,
            say=self._say,
        )  # fmt: skip
        made = {"static table": self.static, "full encoder": self.full, **self._fitted(weights, rest, out)}
        bases = (("head over the table", self.static), ("head over the encoder", self.full))
        for (name, X), fingerprint in zip(bases, self._fingerprints, strict=True):
            head, _ = train_head(
                learned, X[rest], out / name.replace(" ", "-"), fingerprint=fingerprint, settings=plan.head_settings,
                objective=plan.objective, say=_silent,
            )  # fmt: skip
            made[name] = np.asarray(head.project(X.astype(np.float64)), dtype=np.float32)
        with_forms = {f"{name} + form": with_form(X, self._texts, _FORM_WEIGHT) for name, X in made.items()}
        return made | with_forms, progress

    def _fitted(self, weights: Path, rest: IntArray, out: Path) -> dict[str, FloatArray]:
        plan, texts = self._plan, self._texts
        source, _ = read_weights(weights)
        full = encode_cached(load_encoder(weights), texts)
        kept = [texts[row] for row in rest.tolist()]
        _distilled(source, out / "static", plan.dimension)
        carried = ((out / "static", full, "carried"), (self._table.path, self.full, "carried-before"))
        for table, vectors, name in carried:
            write_carried(table, kept, vectors[rest], out / name, about={"source": source.name}, seed=plan.seed)
        tables = {"distilled, fitted": "static", "carried, fitted": "carried", "carried, not fitted": "carried-before"}
        encoded = {name: StaticEncoder(out / folder).encode(texts) for name, folder in tables.items()}
        return {"full, fitted": full, **encoded}


def _distilled(source: ModelSource, folder: Path, dimension: int) -> None:
    if (folder / "config.json").exists():
        config = read_json_object(folder / "config.json")
        if (config.get("source_sha256"), config.get("dimension")) == (source.weights_sha256, dimension):
            return
    write_table(distill(source, dimension), source, folder)


def _curves(
    train: OutcomeTable, rest: IntArray, held_out: IntArray, spaces: Mapping[str, FloatArray]
) -> tuple[dict[tuple[str, str], Curve], Curve]:
    """Return the curve of every (encoder, router) on the held-out prompts, and the Zero router's."""
    learned, judged = train.select(rest), train.select(held_out)
    weights, cheapest = sweep_weights(learned.cost_usd), cheapest_model(learned.cost_usd, learned.quality)
    truth: dict[str, Any] = {
        "quality": judged.quality,
        "cost": judged.cost_usd,
        "weights": weights,
        "cheapest": cheapest,
    }
    zero = ZeroRouter().curve(judged.quality, judged.cost_usd, weights=weights, cheapest=cheapest)
    curves = {}
    for space, X in spaces.items():
        for spec in ROUTERS:
            name, parameters = parse_spec(spec)
            pair = fit_pair(learned, X[rest], name=name, parameters=parameters)
            curves[space, spec] = replay(pair.quality.predict(X[held_out]), pair.cost.predict(X[held_out]), **truth)
    return curves, zero


def _rows(figures: Mapping[tuple[str, str], Sequence[float]]) -> list[dict[str, Any]]:
    spaces = list(dict.fromkeys(space for space, _ in figures))
    return [
        {"encoder": space, **{spec: round(float(np.mean(figures[space, spec])), 5) for spec in ROUTERS}}
        for space in spaces
    ]


def _differences(
    figures: Mapping[tuple[str, str], Sequence[float]], samples: Mapping[tuple[str, str], Sequence[FloatArray]]
) -> list[dict[str, Any]]:
    """Return paired differences by router and on average over the routers, with 95% intervals."""
    found = []
    for form in ("", " + form"):
        for after, before in PAIRS:
            row: dict[str, Any] = {"after": after + form, "before": before + form}
            estimates, drawn = [], []
            for spec in ROUTERS:
                pair = (after + form, spec), (before + form, spec)
                estimates.append(float(np.mean(figures[pair[0]]) - np.mean(figures[pair[1]])))
                drawn.append(np.mean([a - b for a, b in zip(samples[pair[0]], samples[pair[1]], strict=True)], axis=0))
                row[spec] = _interval(drawn[-1], estimates[-1])
            row["mean"] = _interval(np.mean(drawn, axis=0), float(np.mean(estimates)))
            found.append(row)
    return found


def _interval(samples: FloatArray, estimate: float) -> list[float]:
    made = percentile_interval(samples, estimate)
    return [round(value, 5) for value in (estimate, made.low, made.high)]


def write_comparison(path: Path, table: OutcomeTable, plan: Plan, result: Mapping[str, Any]) -> dict[str, Any]:
    """Write the figures of `compare` with what they hang on; return them."""
    document = {
        "data": table.name, "sha256": table_hash(table), "split": "train", "plan": asdict(plan), **result,
        "versions": versions(),
    }  # fmt: skip
    write_atomically(path, (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode())
    return document


def format_rows(document: Mapping[str, Any]) -> str:
    """Return a comparison as two tables of text."""
    lines = [f"{'encoder':32}" + "".join(f"{spec.partition(':')[0]:>10}" for spec in ROUTERS)]
    lines += [f"{row['encoder']:32}" + "".join(f"{row[spec]:10.4f}" for spec in ROUTERS) for row in document["rows"]]
    for row in document["differences"]:
        estimate, low, high = row["mean"]
        lines.append(f"{row['after']} minus {row['before']}: {estimate:+.4f} [{low:+.4f}, {high:+.4f}]")
    return "\n".join(lines)


def _silent(line: str) -> None:
    del line
