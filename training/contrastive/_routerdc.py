"""RouterDC end to end: a sentence encoder and model embeddings, trained, exported and calibrated."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from llmrouter import artifact
from llmrouter.encoders import ProjectionHead, encode_cached, load_encoder
from llmrouter.encoders._sources import resolve_source
from llmrouter.exceptions import ConfigError, DataError
from llmrouter.outcomes import OutcomeTable
from llmrouter.routers import RouterDCRouter
from llmrouter.routers._clusters import cosines, nearest_clusters, spherical_kmeans
from llmrouter.types import FloatArray, IntArray
from training.contrastive import _losses, _modules, _trainer
from training.contrastive._runs import (
    Finished,
    Say,
    data_hash,
    finish,
    mean_costs,
    plain_parameters,
    save_artifact,
    train_rows,
)
from training.contrastive._trainer import TrainingSettings

_MODEL_SPREAD = 0.78


@dataclass(frozen=True)
class EndToEnd:
    """How the encoder is trained, beyond `TrainingSettings`.

    Attributes
    ----------
    longest : int
        Tokens of a text that training sees at most.
    most_prompts : int
        Prompts to train on, drawn by the seed; 0 is all.
    tasks : sequence of str
        Tasks to train on; none is all.
    model_rate : float
        Learning rate of the model embeddings; 0 is the encoder's.
    part : int
        Texts of like length that are encoded at once; a batch is padded less so. 0 encodes it in one.
    bf16 : bool
        Matrix products in bfloat16; weights and moments stay in single precision.
    """

    longest: int = 128
    most_prompts: int = 0
    tasks: Sequence[str] = ()
    model_rate: float = 0.0
    part: int = 0
    bf16: bool = False

    def __post_init__(self) -> None:
        for name, least in (("longest", 1), ("most_prompts", 0), ("model_rate", 0), ("part", 0)):
            if not getattr(self, name) >= least:
                raise ConfigError(f"{name} must be >= {least}; got {getattr(self, name)!r}")

    def rows(self, table: OutcomeTable, *, seed: int) -> IntArray:
        """Return the rows of the train split to train on.

        Raises
        ------
        DataError
            If there is no train split, or it lacks one of the tasks.
        """
        rows = train_rows(table)
        of_rows = np.asarray(table.tasks, dtype=object)[rows]
        for task in self.tasks:
            if task not in of_rows:
                known = sorted({str(name) for name in of_rows})
                raise DataError(
                    f"tasks: the train split of {table.name or 'the table'} has no {task!r}; it has {known}"
                )
        if self.tasks:
            rows = rows[np.isin(of_rows, list(self.tasks))]
        if not self.most_prompts or self.most_prompts >= len(rows):
            return rows
        return np.sort(np.random.default_rng([seed, 5]).permutation(rows)[: self.most_prompts])

    def identity(self) -> dict[str, Any]:
        """Return what a checkpoint must agree on; what is not used is left out, so that older checkpoints go on."""
        used = {"model_rate": self.model_rate, "part": self.part, "bf16": self.bf16}
        return {"longest": self.longest, **{name: value for name, value in used.items() if value}}


def read_scores(folder: Path, table: OutcomeTable, column: str) -> FloatArray:
    """Return a column of ``outcomes.parquet`` in the order of a table, (n, m); NaN where there is none.

    RouterDC contrasts models by the probability that they gave the right option, 0 where they were wrong; the tables
    keep right or wrong as the outcome, and that probability beside it.

    Raises
    ------
    DataError
        If the file has no such column, or a cell of it is outside [0, 1].
    """
    path = folder / "outcomes.parquet"
    known = pq.read_schema(path).names
    if column not in known:
        raise DataError(f"{path} has no column {column!r}; it has {', '.join(known)}")
    read = pq.read_table(path, columns=["prompt_id", "model", column]).to_pydict()
    places = {prompt: row for row, prompt in enumerate(table.prompt_ids)}
    columns = {model: number for number, model in enumerate(table.models)}
    scores = np.full((len(table), len(table.models)), np.nan)
    for prompt, model, value in zip(read["prompt_id"], read["model"], read[column], strict=True):
        if prompt in places and model in columns and value is not None:
            scores[places[prompt], columns[model]] = value
    seen = scores[np.isfinite(scores)]
    if ((seen < 0) | (seen > 1)).any():
        raise DataError(f"{path}: {column} holds {seen.min():g} to {seen.max():g}; RouterDC needs scores in [0, 1]")
    return scores


def train_routerdc(
    table: OutcomeTable,
    out: Path,
    *,
    encoder: str,
    settings: TrainingSettings,
    parameters: Mapping[str, Any],
    way: EndToEnd | None = None,
    scores: FloatArray | None = None,
    say: Say = print,
) -> Finished:
    """Fine-tune a sentence encoder and learn model embeddings by RouterDC on the train split, end to end.

    The encoder is then exported to ONNX, checked against the fine-tuned one, and the calibrated router works on the
    exported encoder's vectors: what is served is what was calibrated.

    Parameters
    ----------
    table, out, settings, say
        As `train_cscr`.
    encoder : str
        ``minilm``, a local folder or a hub id.
    parameters : mapping
        Of `RouterDCRouter`.
    way : EndToEnd, optional
        How the encoder is trained.
    scores : array of shape (rows of `table`, m), optional
        What models are contrasted by, in place of the outcomes; calibration and progress are by outcomes all the same.
    """
    import torch

    from training.export_onnx import export

    way = way or EndToEnd()
    rows = way.rows(table, seed=settings.seed)
    train = table.select(rows)
    source = resolve_source(encoder)
    texts, y = train.router_texts(), train.quality
    learn, held_out = settings.split(len(texts))
    router = RouterDCRouter(**{**parameters, "seed": settings.seed, "members": 1, "hidden": 0})
    place = _trainer.device()
    tokens = _modules.Tokens(source, texts, longest=way.longest)
    module: Any = _modules.encoder_module(source, y.shape[1], spread=_MODEL_SPREAD, seed=settings.seed).to(place)
    say(f"{table.name}: {len(texts)} prompts, {y.shape[1]} models; {source.name} on {place}")
    frozen = encode_cached(load_encoder(encoder), texts)  # kept on disk, so that a run that goes on need not wait
    centroids = spherical_kmeans(frozen[learn], router.clusters, weight=np.ones(len(learn)), seed=router.seed)
    cluster = nearest_clusters(cosines(frozen, centroids), 1)[:, 0]
    target = y if scores is None else scores[rows]
    score = target - router.cost_rate * _normalised(mean_costs(train), y.shape[1])
    ties = np.random.default_rng([settings.seed, 3]).random(y.shape)

    def queries_of(current: Any, batch: IntArray) -> Any:
        with torch.autocast(place, dtype=torch.bfloat16, enabled=way.bf16):
            return _modules.in_parts(current, tokens, batch, place, part=way.part).float()

    def similarity_of(current: Any, queries: Any) -> Any:
        return queries @ torch.nn.functional.normalize(current.models, dim=1).T

    def loss_of(current: Any, batch: IntArray, generator: np.random.Generator, learning: bool) -> Any:
        queries = queries_of(current, batch)
        loss = _losses.sample_llm_loss(
            similarity_of(current, queries), score[batch],
            best=router.best, worst=router.worst, temperature=router.temperature, ties=ties[batch],
        )  # fmt: skip
        if not learning or not router.sample_weight_ratio:
            return loss
        return loss + router.sample_weight_ratio * _losses.sample_sample_loss(
            queries, cluster[batch], negatives=router.negatives, generator=generator
        )

    def watch(current: Any) -> dict[str, float]:
        parts = np.array_split(held_out, -(-len(held_out) // settings.batch))
        chosen = torch.cat([similarity_of(current, queries_of(current, part)).argmax(dim=1) for part in parts])
        reached = y[held_out, chosen.cpu().numpy()]
        tasks = np.asarray([train.tasks[row] for row in held_out.tolist()], dtype=object)
        by_task = [float(np.nanmean(reached[tasks == task])) for task in sorted(set(tasks.tolist()), key=str)]
        return {"accuracy": float(np.nanmean(reached)), "mean_over_tasks": float(np.mean(by_task))}

    identity = {
        "method": "routerdc", "encoder": source.weights_sha256, **way.identity(),
        "data": data_hash(train), "parameters": plain_parameters(router, y.shape[1]),
    }  # fmt: skip
    if scores is not None:
        identity["scores"] = hashlib.sha256(np.ascontiguousarray(target).tobytes()).hexdigest()[:16]
    progress = _trainer.run(
        module, loss_of, rows=(learn, held_out), settings=settings, folder=out, identity=identity, say=say,
        rates={"models": way.model_rate} if way.model_rate else {}, watch=watch,
    )  # fmt: skip
    vectors = module.models.detach().cpu().numpy().astype(np.float64)
    _modules.save_encoder(module, source, out / "weights")
    folder = out / "encoder"
    config = export(resolve_source(out / "weights"), folder)
    say(f"wrote {folder}; smallest cosine of ONNX and original {config['cosine_with_source']['min']:.6f}")
    exported = load_encoder(folder)
    spec = artifact.EncoderSpec(str(folder), {}, exported.fingerprint)
    written = None
    if mean_costs(train) is None:  # then the held-out prompts are all that need their vectors
        X = encode_cached(exported, [texts[row] for row in held_out.tolist()])
        router.adopt(X, y[held_out], (ProjectionHead(()), vectors), held_out=np.arange(len(held_out)))
        say("no artifact: the data has neither costs nor list prices")
    else:
        X = encode_cached(exported, texts)
        router.adopt(X, y, (ProjectionHead(()), vectors), held_out=held_out)
        written = save_artifact(train, X, router, "routerdc", out, spec, say)
    return finish(folder, router, written, progress, out, identity)


def _normalised(costs: list[float] | None, models: int) -> FloatArray:
    values = np.zeros(models) if costs is None else np.asarray(costs)
    span = float(values.max() - values.min())
    return np.asarray((values - values.min()) / (span or 1.0))
