"""Write an evaluation into a folder: results.json, decisions.parquet, curve.png and report.html."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmrouter.evaluation._page import render_page
from llmrouter.evaluation._plain import plain
from llmrouter.evaluation._plot import save_plot
from llmrouter.evaluation._protocol_result import ProtocolResult
from llmrouter.evaluation._result import EvaluationResult, OperatingPoint, RouterResult
from llmrouter.exceptions import DataError, MissingExtraError

FORMAT = "llmrouter-evaluation/1"


def write_report(result: EvaluationResult, folder: Path, *, protocols: Sequence[ProtocolResult] = ()) -> list[Path]:
    """Write all files of a report; an existing report in the folder is replaced.

    Returns
    -------
    list of Path
        ``results.json``, ``decisions.parquet``, ``curve.png`` and ``report.html``.

    Raises
    ------
    DataError
        If the folder cannot be written.
    MissingExtraError
        If pyarrow or matplotlib is not installed.
    """
    paths = [folder / name for name in ("results.json", "decisions.parquet", "curve.png", "report.html")]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(results_as_json(result), indent=2, allow_nan=False, ensure_ascii=False)
        paths[0].write_text(text + "\n", encoding="utf-8")
        write_decisions(result, paths[1])
        save_plot(result, paths[2])
        paths[3].write_text(render_page(result, protocols=protocols), encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot write the report into {folder}: {error}") from error
    return paths


def results_as_json(result: EvaluationResult) -> dict[str, Any]:
    """Return the result as JSON values; what is NaN or infinite becomes null, and the router's notes say which."""
    raw = {
        "format": FORMAT,
        "data": result.data,
        "cost": {
            "axis": result.cost_axis,
            "unit": result.cost_unit,
            "interval": result.cost_interval,
            "reference_cost": result.reference_cost,
        },
        "models": [
            {
                "name": name,
                "mean_cost": result.model_cost[column],
                "mean_quality": result.model_quality[column],
                "train_quality_mean": None if result.train_quality_mean is None else result.train_quality_mean[column],
            }
            for column, name in enumerate(result.models)
        ],
        "best_single": result.best_single,
        "cheapest": result.cheapest,
        "dearest": result.dearest,
        "routers": {name: _router_as_json(router, result) for name, router in result.routers.items()},
        "settings": result.settings,
        "versions": result.versions,
        "notes": result.notes,
    }
    document: dict[str, Any] = plain(raw)
    return document


def _router_as_json(router: RouterResult, result: EvaluationResult) -> dict[str, Any]:
    scale = result.reference_cost if result.reference_cost > 0 else 1.0
    curve = router.curve
    return {
        "kind": router.kind,
        "parameters": router.parameters,
        "aiq": router.aiq,
        "aiq_code": router.aiq_code,
        "qnc": router.qnc,
        "dearest_share": router.dearest_share,
        "peak_quality": router.peak_quality,
        "peak_cost": router.peak_cost,
        "intervals": {name: dataclasses.asdict(interval) for name, interval in router.intervals.items()},
        "metrics": router.metrics,
        "undefined": router.undefined,
        "reliability": _reliability_as_json(router),
        "operating_points": [dataclasses.asdict(point) for point in router.operating_points],
        "curve": {"cost_weight": curve.weights * scale, "cost": curve.mean_cost, "quality": curve.mean_quality},
        "hull": {"cost": curve.hull.cost, "quality": curve.hull.quality},
        "cost_from": router.cost_from,
        "fit_s": router.fit_s,
        "decide_us": router.decide_us,
        "tuning": router.tuning,
        "notes": router.notes,
    }


def _reliability_as_json(router: RouterResult) -> dict[str, Any] | None:
    pooled = router.calibration
    if pooled is None:
        return None
    return {
        "predicted": pooled.predicted,
        "observed": pooled.observed,
        "count": pooled.count,
        "standard_error": pooled.standard_error,
        "models": router.model_calibration,
    }


def write_decisions(result: EvaluationResult, path: Path) -> None:
    """Write which model each router chose for each prompt at its reported operating points.

    Columns: prompt_id (never the prompt), router, cost_weight (inf = everything to the cheapest model), model,
    expected_quality and expected_cost (null for baselines and bounds), quality and cost as they turned out.

    Raises
    ------
    MissingExtraError
        If pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError("pyarrow", extra="train", purpose="writing decisions.parquet") from error
    schema = pa.schema(
        [
            ("prompt_id", pa.string()),
            ("router", pa.string()),
            ("cost_weight", pa.float64()),
            ("model", pa.string()),
            ("expected_quality", pa.float64()),
            ("expected_cost", pa.float64()),
            ("quality", pa.float64()),
            ("cost", pa.float64()),
        ]
    )
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for router in result.routers.values():
            if router.curve.choices is None or not router.operating_points:
                continue
            points = [_decision_columns(router, point, result) for point in router.operating_points]
            columns = {name: [value for point in points for value in point[name]] for name in schema.names}
            writer.write_table(pa.table(columns, schema=schema))


def _decision_columns(router: RouterResult, point: OperatingPoint, result: EvaluationResult) -> dict[str, list[Any]]:
    n = len(result.prompt_ids)
    chosen = np.asarray(router.curve.choices)[point.index].astype(np.int64)
    rows = np.arange(n)
    unknown: list[Any] = [None] * n
    return {
        "prompt_id": list(result.prompt_ids),
        "router": [router.name] * n,
        "cost_weight": [None if math.isnan(point.cost_weight) else point.cost_weight] * n,
        "model": [result.models[column] for column in chosen.tolist()],
        "expected_quality": unknown
        if router.expected_quality is None
        else _nan_to_none(router.expected_quality[rows, chosen]),
        "expected_cost": unknown if router.expected_cost is None else _nan_to_none(router.expected_cost[rows, chosen]),
        "quality": router.curve.quality[point.index].tolist(),
        "cost": router.curve.cost[point.index].tolist(),
    }


def _nan_to_none(values: np.ndarray[Any, Any]) -> list[Any]:
    return [None if math.isnan(value) else value for value in values.tolist()]
