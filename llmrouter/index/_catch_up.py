"""What was changed while a segment was built, applied to the state that has the segment."""

from __future__ import annotations

import numpy as np

from llmrouter.index._state import State


def caught_up(sealed: State, before: State, now: State) -> State:
    """Return `sealed` with the changes that led from `before` to `now`.

    Parameters
    ----------
    sealed : State
        What `State.sealed` made of `before`.
    before : State
        What a rebuild began with.
    now : State
        What became of `before` by `State.with_added` and `State.without` alone.
    """
    gone = []
    for segment, old, new in zip(before.segments, before.alive, now.alive, strict=True):
        if new is not None and new is not old:
            gone.append(segment.ids[~new if old is None else old & ~new])
    size = before.tail.size
    living = now.tail.living()
    lost = np.setdiff1d(before.tail.living(), living[living < size], assume_unique=True)
    gone.append(before.tail.ids[lost])
    ids = np.concatenate(gone)
    state = sealed.without(ids) if len(ids) else sealed
    fresh = living[living >= size]
    if len(fresh):
        state = state.with_added(now.tail.ids[fresh], now.tail.times[fresh], now.tail.rows[fresh])
    return state
