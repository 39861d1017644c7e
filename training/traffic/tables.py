"""Token tables that carry what was learned, for a gateway without torch.

Three ways, from the weakest to the strongest tie to the prompts at hand:

* Model2Vec's way (`training.distill`): every token is encoded by itself by the fitted encoder.
* *Carried*: the table of the first way is moved, as little as needed, so that the mean over a prompt's tokens comes
  near the fitted encoder's vector of the whole prompt. Prompts are needed, outcomes are not. The aim is that of
  Model2Vec's later "Tokenlearn" pre-training; here it is a ridge regression, solved in closed form.
* *Folded*: a head of one layer over a static table is multiplied into the table, which is exact up to half precision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmrouter.encoders import ProjectionHead, StaticEncoder
from llmrouter.encoders._windows import read_tokenizer
from llmrouter.exceptions import DataError, EncoderError
from llmrouter.types import FloatArray
from training.distill import write_static

MOST_PROMPTS = 4000
"""Prompts a table is carried by at most: the work grows with their cube."""
STRENGTHS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Penalties tried, in units of the mean diagonal of the prompts' kernel."""


@dataclass(frozen=True)
class Carried:
    """A carried table.

    Attributes
    ----------
    table : array of shape (v, d)
        One vector a token.
    strength : float
        The penalty with the least leave-one-out error.
    before, after : float
        Mean cosine between prompts' table vectors and the fitted encoder's, as distilled (turned to the same axes) and
        as carried, the latter leave-one-out.
    prompts : int
        How many were used.
    """

    table: FloatArray
    strength: float
    before: float
    after: float
    prompts: int


def carry(encoder: StaticEncoder, texts: Sequence[str], vectors: FloatArray, *, seed: int = 0) -> Carried:
    """Return the table of `encoder`, moved towards another encoder's vectors of whole prompts.

    Parameters
    ----------
    encoder : StaticEncoder
        The distilled table, of d dimensions.
    texts : sequence of str
        n prompts; at most `MOST_PROMPTS` of them are used, drawn by the seed.
    vectors : array of shape (n, D)
        What the fitted encoder makes of them; D >= d. They are centred and reduced to their d first principal axes.
    seed : int
        Of the draw.

    Raises
    ------
    DataError
        If there are fewer than d prompts with known tokens, or texts and vectors differ in number, or D < d.

    Notes
    -----
    With A (n, v) the prompts' token counts, each row scaled so that the row of A T has unit length, and Z the reduced
    vectors at unit length: T is first turned (orthogonal Procrustes) so that A T lies nearest Z, then moved by
    A' (A A' + penalty)^-1 (Z - A T). Tokens that no prompt has stay where they were.
    """
    dimension = encoder.dimension
    if len(texts) != len(vectors) or vectors.shape[1] < dimension:
        raise DataError(
            f"carrying needs one vector of at least {dimension} dimensions a prompt; got {len(texts)} prompts and "
            f"vectors of shape {vectors.shape}"
        )
    rows = np.sort(np.random.default_rng([seed, 7]).permutation(len(texts))[:MOST_PROMPTS])
    ids = encoder.token_ids([texts[row] for row in rows.tolist()])
    filled = [number for number, tokens in enumerate(ids) if tokens]
    if len(filled) < dimension:
        raise DataError(
            f"carrying a table of {dimension} dimensions needs as many prompts with known tokens; got {len(filled)}; "
            "give more prompts or a smaller --dimension"
        )
    table = encoder.table.astype(np.float64)
    columns, counts = _counts([ids[number] for number in filled])
    used = table[columns]
    lengths = np.linalg.norm(counts @ used, axis=1, keepdims=True)
    counts /= np.where(lengths > 0, lengths, 1.0)
    goal = _reduced(np.asarray(vectors[rows[filled]], dtype=np.float64), dimension)
    left, _, right = np.linalg.svd((counts @ used).T @ goal, full_matrices=False)
    turned = table @ (left @ right)
    missing = goal - counts @ turned[columns]
    kernel = counts @ counts.T
    values, basis = np.linalg.eigh(kernel)
    rotated = basis.T @ missing
    unit = float(values.mean())
    errors = []
    for strength in STRENGTHS:
        left_out, _ = _left_out(values, basis, rotated, strength * unit)
        errors.append(float((left_out * left_out).sum()))
    best = STRENGTHS[int(np.argmin(errors))]
    left_out, dual = _left_out(values, basis, rotated, best * unit)
    moved = turned.copy()
    moved[columns] += counts.T @ dual
    return Carried(
        moved,
        best,
        before=_mean_cosine(goal - missing, goal),
        after=_mean_cosine(goal - left_out, goal),
        prompts=len(filled),
    )


def write_carried(
    distilled: Path, texts: Sequence[str], vectors: FloatArray, folder: Path, *, about: Mapping[str, Any], seed: int = 0
) -> Carried:
    """Carry the table in `distilled` and write it into `folder`; see `carry`. `about` is what its config records."""
    made = carry(StaticEncoder(distilled), texts, vectors, seed=seed)
    carried = {
        "strength": made.strength, "prompts": made.prompts, "cosine_before": round(made.before, 4),
        "cosine_left_out": round(made.after, 4),
    }  # fmt: skip
    tokenizer = read_tokenizer(distilled / "tokenizer.json")
    write_static(
        made.table, tokenizer, folder, name=f"fitted-{made.table.shape[1]}", about={**about, "carried": carried}
    )
    return made


def fold_head(base: StaticEncoder, head: ProjectionHead, folder: Path, *, about: Mapping[str, Any]) -> dict[str, Any]:
    """Multiply a head of one layer into the table it stands on and write the table; return its config.

    Raises
    ------
    EncoderError
        If the head has another number of layers than one, or takes other vectors than the table gives.
    """
    if len(head.layers) != 1 or head.layers[0].shape[0] != base.dimension:
        raise EncoderError(
            f"only a head of one layer over {base.dimension} dimensions can be multiplied into this table; got layers "
            f"of {[layer.shape for layer in head.layers]}; serve it as a head, or train one with --hidden 0"
        )
    table = base.table.astype(np.float64) @ np.asarray(head.layers[0], dtype=np.float64)
    scale = float(np.abs(table).max())
    if scale > 0:  # unit length is taken last: any common factor may go, and half precision wants values near 1
        table = table / scale
    tokenizer = read_tokenizer(base.path / "tokenizer.json")
    return write_static(table, tokenizer, folder, name=f"fitted-{table.shape[1]}", about=about)


def _counts(ids: Sequence[Sequence[int]]) -> tuple[Any, FloatArray]:
    """Return the tokens that occur, (u,), and how often in each prompt, (n, u)."""
    found = [np.unique(np.asarray(tokens, dtype=np.int64), return_counts=True) for tokens in ids]
    columns = np.unique(np.concatenate([tokens for tokens, _ in found]))
    counts = np.zeros((len(ids), len(columns)))
    for row, (tokens, often) in enumerate(found):
        counts[row, np.searchsorted(columns, tokens)] = often
    return columns, counts


def _reduced(vectors: FloatArray, dimension: int) -> FloatArray:
    """Return centred vectors (n, D) on their first principal axes, (n, dimension), unit rows."""
    centred = vectors - vectors.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    reduced = centred @ axes[:dimension].T
    lengths = np.linalg.norm(reduced, axis=1, keepdims=True)
    return np.asarray(reduced / np.where(lengths > 0, lengths, 1.0))


def _left_out(
    values: FloatArray, basis: FloatArray, rotated: FloatArray, penalty: float
) -> tuple[FloatArray, FloatArray]:
    """Return the leave-one-out residuals of the ridge regression and its dual weights, (n, d) each."""
    inverse = 1.0 / (np.maximum(values, 0.0) + penalty)
    dual = basis @ (inverse[:, None] * rotated)
    diagonal = (basis * basis) @ inverse
    return dual / diagonal[:, None], dual


def _mean_cosine(rows: FloatArray, unit: FloatArray) -> float:
    lengths = np.linalg.norm(rows, axis=1)
    return float(((rows * unit).sum(axis=1) / np.where(lengths > 0, lengths, 1.0)).mean())
