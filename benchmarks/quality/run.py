"""Run one data set with one encoder, or one protocol, and write its results."""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import time
from pathlib import Path
from typing import Any

from benchmarks.quality.sets import FLOWS, LEARNED, PLAIN, POLICIES, SHORT, DataSet
from llmrouter.encoders import encode_cached, load_encoder
from llmrouter.evaluation import (
    evaluate,
    format_protocol,
    format_result,
    protocol_as_json,
    results_as_json,
    run_protocol,
    write_report,
)
from llmrouter.outcomes import OutcomeTable, load_table
from llmrouter.types import FloatArray

RESULTS = Path(__file__).parents[1] / "results"
LOOKS = RESULTS / "test_looks.jsonl"
NO_ENCODER = "none"
_DIGITS = 6
_INSTRUCTIONS = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_vnni": "VNNI", "amx_int8": "AMX"}
"""By their name among the flags of ``/proc/cpuinfo``."""


def run_set(data: DataSet, encoder: str, *, seed: int, resamples: int, report: Path | None = None) -> str:
    """Evaluate one data set with one encoder, write its results, and return them as text.

    `report` is a folder for the page, the plot and the decisions of every prompt, which are not kept in the repository.
    """
    started = time.perf_counter()
    table, X, fingerprint = _encoded(data, encoder)
    first = X is not None and encoder == data.encoders[0]
    routers = () if X is None else (*LEARNED, *PLAIN) if first else SHORT
    result = evaluate(
        table,
        X,
        routers=routers,
        policies=POLICIES if first and data.policies else (),
        flows=FLOWS if first and data.flows else (),
        against=("stack",),
        cost=data.cost,
        seed=seed,
        resamples=resamples,
        context={"encoder": encoder, "encoder_fingerprint": fingerprint, "machine": machine()},
        look_log=LOOKS,
    )
    document = results_as_json(result)
    document["wall_s"] = time.perf_counter() - started
    _write(RESULTS / "quality" / f"{data.name}-{encoder}.json", document)
    if report is not None:
        write_report(result, report / f"{data.name}-{encoder}")
    return format_result(result)


def run_one_protocol(data: DataSet, protocol: dict[str, Any], *, label: str) -> str:
    """Run a protocol, write it under ``results/quality/protocols`` and return it as text."""
    table, X, _ = _encoded(data, data.encoders[0])
    if X is None:
        raise ValueError(f"{data.name} has no prompt texts; protocols need them")
    result = run_protocol(table=table, X=X, cost=data.cost, look_log=LOOKS, **protocol)
    _write(RESULTS / "quality" / "protocols" / f"{data.name}-{label}.json", protocol_as_json(result))
    return format_protocol(result)


def say_what_is_done() -> None:
    """Print a line for each router that is done; called once in each process."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)


def machine() -> str:
    """Return the machine in words, without its name."""
    return f"{_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def _processor() -> str:
    """Return the architecture and, where Linux tells them, the widest instructions that speed depends on."""
    try:
        flags = set(re.findall(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.M)[0].split())
    except (OSError, IndexError):
        return platform.machine()
    known = [word for flag, word in _INSTRUCTIONS.items() if flag in flags]
    return f"{platform.machine()} ({', '.join(known)})" if known else platform.machine()


def _encoded(data: DataSet, encoder: str) -> tuple[OutcomeTable, FloatArray | None, str]:
    if data.folder is None:
        raise FileNotFoundError(f"{data.name} is not on this machine; set LLMROUTER_DATA to the folder that holds it")
    table = load_table(data.folder)
    if encoder == NO_ENCODER:
        return table, None, ""
    loaded = load_encoder(encoder)
    return table, encode_cached(loaded, table.router_texts()), loaded.fingerprint


def _write(path: Path, document: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_rounded(document), allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")


def _rounded(value: Any) -> Any:
    """Return JSON values with six significant digits: what the figures are worth, and half the size."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value
