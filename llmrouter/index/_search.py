"""Search over one state of an index."""

from __future__ import annotations

import numpy as np

from llmrouter.index._base import Neighbors
from llmrouter.index._ranking import BoolArray, exact_candidates, rank
from llmrouter.index._rows import MemoryRows
from llmrouter.index._segment import Segment
from llmrouter.index._state import State
from llmrouter.types import FloatArray

# Similarities held at once: bounds memory at 32 MB however many queries come.
_BLOCK_VALUES = 8_000_000


def search_state(state: State, queries: FloatArray, k: int) -> Neighbors:
    """Return the `k` most similar living rows of each of the (n, d) queries, ties by smaller id.

    Every part of the index names candidates; their similarities are computed anew, one like the other, and ranked.
    Scans on a device do so themselves, for all queries at once. Where an approximate structure names fewer than asked,
    missing places are filled from a scan.
    """
    k = min(k, state.size)
    found = Neighbors(np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32))
    if k == 0:
        return found
    longest = max([len(segment.ids) for segment in state.segments if segment.structure is None] + [state.tail.size, 1])
    block = max(1, _BLOCK_VALUES // longest)
    for start in range(0, len(queries), block):
        _search_block(state, queries[start : start + block], found, start)
    return found


def _search_block(state: State, queries: FloatArray, found: Neighbors, start: int) -> None:
    k, tail = found.ids.shape[1], state.tail
    known, others = _ranked(state, queries, k)
    if not others and not tail.size:
        part = slice(start, start + len(queries))
        found.ids[part], found.similarities[part] = known
        return
    parts = [(segment.rows, segment.ids, segment.candidates(queries, k, alive)) for segment, alive in others]
    if tail.size:
        tail_rows = tail.rows[: tail.size]
        last = exact_candidates(queries, tail_rows, k, tail.alive, tail.max_length)
        parts.append((MemoryRows(tail_rows), tail.ids, last))
    for number, query in enumerate(queries):
        chosen = [(rows.take(places[number]), ids[places[number]]) for rows, ids, places in parts]
        if len(chosen) == 1:
            near, names = chosen[0]
        else:
            near, names = (np.concatenate(column) for column in zip(*chosen, strict=True))
        best = Neighbors(known.ids[number], known.similarities[number])
        if len(names) + len(best.ids) < k:
            near, names = _all(state)
            best = Neighbors(best.ids[:0], best.similarities[:0])
        found.ids[start + number], found.similarities[start + number] = rank(query, near, names, k, known=best)


def _ranked(state: State, queries: FloatArray, k: int) -> tuple[Neighbors, list[tuple[Segment, BoolArray | None]]]:
    """Return the nearest rows of the segments that rank by themselves, and the other segments."""
    answers, others = [], []
    for segment, alive in zip(state.segments, state.alive, strict=True):
        nearest = segment.nearest(queries, k, alive)
        if nearest is None:
            others.append((segment, alive))
        else:
            answers.append(nearest)
    if not answers:
        none = Neighbors(np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32))
        return none, others
    if len(answers) == 1:
        return answers[0], others
    ids = np.concatenate([answer.ids for answer in answers], axis=1)
    similarities = np.concatenate([answer.similarities for answer in answers], axis=1)
    order = np.lexsort((ids, -similarities), axis=1)[:, :k]
    return Neighbors(np.take_along_axis(ids, order, axis=1), np.take_along_axis(similarities, order, axis=1)), others


def _all(state: State) -> tuple[FloatArray, FloatArray]:
    """Return all living rows and their ids: for a structure that names too few, as inverted lists may."""
    ids, _, rows = state.content()
    return rows, ids


def search_decayed(state: State, queries: FloatArray, k: int, *, now: float, half_life_s: float) -> Neighbors:
    """Return the `k` rows of the highest similarity after decay: halved every `half_life_s` seconds of age.

    Decay never raises a similarity, so whatever is not among the nearest can at most have the similarity of the last
    of them: more are fetched until the k-th after decay is above that. Negative similarities are left as they are.
    Exact where the search is.
    """
    k = min(k, state.size)
    found = Neighbors(np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32))
    pending, asked = np.arange(len(queries)), min(2 * k, state.size)
    while k and len(pending):
        ids, similarities = search_state(state, queries[pending], asked)
        weights = np.exp2(-np.maximum(now - state.times_of(ids), 0.0) / half_life_s)
        decayed = np.minimum(similarities, similarities * weights).astype(np.float32)
        order = np.lexsort((ids, -decayed), axis=1)[:, :k]
        best = np.take_along_axis(decayed, order, axis=1)
        done = (best[:, -1] > similarities[:, -1]) | (asked == state.size)
        found.ids[pending[done]] = np.take_along_axis(ids, order, axis=1)[done]
        found.similarities[pending[done]] = best[done]
        pending, asked = pending[~done], min(4 * asked, state.size)
    return found
