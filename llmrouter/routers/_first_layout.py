"""Router states as artifacts of layout 1 hold them: kNN and the baselines, before columns could be added."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from llmrouter.exceptions import DataError
from llmrouter.index import VectorIndex
from llmrouter.types import FloatArray


def upgraded_state(
    arrays: Mapping[str, FloatArray], values: Mapping[str, Any], index: VectorIndex | None
) -> dict[str, Any]:
    """Return the JSON values of today's layout for a state of layout 1; the arrays have stayed as they were.

    Raises
    ------
    DataError
        If it is not such a state.
    """
    outcomes = arrays.get("y", arrays.get("mean"))
    dimension = values.get("n_features_in", None if index is None else index.dimension)
    if outcomes is None or dimension is None:
        raise DataError(f"not a router's state: it holds {sorted(arrays)} and {sorted(values)}; train the router again")
    observed = outcomes[np.isfinite(outcomes)]
    least, most = (float(observed.min()), float(observed.max())) if observed.size else (0.0, 1.0)
    models = int(outcomes.shape[-1])
    return {
        "n_features_in": dimension,
        "fitted_models": models,
        "bounds": [0.0 if least >= 0 else None, 1.0 if least >= 0 and most <= 1 else None],
        "columns": list(range(models)),
        "added": [],
        "learned": {},
    }
