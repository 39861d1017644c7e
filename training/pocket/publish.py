"""Gathering the models' own records into one file for the product."""

from __future__ import annotations

import json
from pathlib import Path

from training.pocket.specifications import OUTPUT_RATIO, SPECIFICATIONS, USD_PER_MILLION_ACTIVE

CAPABILITIES = ("json_schema", "logprobs", "tools")
"""What the server of local models offers for each of them; how well they use it is another matter."""


def publish(assets: Path) -> Path:
    """Write ``pool.json`` from the ``pocket.json`` of every checkpoint that is there; return its path."""
    models = [
        {**json.loads((assets / name / "pocket.json").read_text()), "capabilities": list(CAPABILITIES)}
        for name in SPECIFICATIONS
        if (assets / name / "pocket.json").exists()
    ]
    pool = {
        "pricing": {
            "unit": "USD per million tokens",
            "rule": "price follows active parameters, at one rate for all models",
            "input_usd_per_million_active_parameters": USD_PER_MILLION_ACTIVE,
            "output_to_input_ratio": OUTPUT_RATIO,
        },
        "models": models,
    }
    path = assets / "pool.json"
    path.write_text(json.dumps(pool, indent=2) + "\n")
    return path
