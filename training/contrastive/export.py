"""Export a trained head to ONNX and hold it to the numpy head: ``python -m training.contrastive export --out DIR``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from llmrouter._files import json_bytes, read_json_object, sha256_of, write_atomically
from llmrouter.encoders import ProjectionHead
from llmrouter.encoders._head import read_head
from llmrouter.exceptions import EncoderError, MissingExtraError
from llmrouter.types import FloatArray

NAME = "head.onnx"
MOST_DIFFERENCE = 1e-5
_OPSET = 17
_IR_VERSION = 9
_CHECKED = 64


def export_head(folder: Path) -> float:
    """Write ``head.onnx`` beside a head that `save_head` wrote; return its largest difference from the numpy head.

    Raises
    ------
    MissingExtraError
        If onnx or onnxruntime is not installed.
    EncoderError
        If the two differ by more than 1e-5 in any coordinate, on random unit vectors.
    """
    head, _ = read_head(folder)
    write_atomically(folder / NAME, _graph(head).SerializeToString())
    difference = largest_difference(folder, head)
    if difference > MOST_DIFFERENCE:
        (folder / NAME).unlink()
        raise EncoderError(f"{folder / NAME} differs from head.safetensors by {difference:.2e}; it was deleted")
    config = read_json_object(folder / "config.json")
    config["files"][NAME] = sha256_of(folder / NAME)
    config["onnx_largest_difference"] = difference
    write_atomically(folder / "config.json", json_bytes(config))
    return difference


def largest_difference(folder: Path, head: ProjectionHead, *, seed: int = 0) -> float:
    """Return the largest difference between ``head.onnx`` in `folder` and a head, on random unit vectors."""
    X = np.random.default_rng(seed).normal(size=(_CHECKED, head.layers[0].shape[0]))
    X = (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)
    return float(np.abs(run_onnx(folder, X) - head.project(X.astype(np.float64))).max())


def run_onnx(folder: Path, X: FloatArray) -> FloatArray:
    """Return what ``head.onnx`` makes of float32 rows X (n, d), shape (n, D')."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("onnxruntime", extra="onnx", purpose="running an exported head") from error
    session = onnxruntime.InferenceSession(str(folder / NAME), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"embedding": X})[0])


def _graph(head: ProjectionHead) -> Any:
    try:
        from onnx import TensorProto, checker, helper, numpy_helper
    except ImportError as error:
        raise MissingExtraError("onnx", extra="encoders", purpose="exporting a head to ONNX") from error
    nodes, weights, last = [], [], "embedding"
    for number, layer in enumerate(head.layers):
        weights.append(numpy_helper.from_array(np.ascontiguousarray(layer, dtype=np.float32), f"layer.{number}"))
        nodes.append(helper.make_node("MatMul", [last, f"layer.{number}"], [f"value.{number}"]))
        last = f"value.{number}"
        if number < len(head.layers) - 1:
            nodes.append(helper.make_node("Relu", [last], [f"active.{number}"]))
            last = f"active.{number}"
    weights.append(numpy_helper.from_array(np.array(1e-12, dtype=np.float32), "least"))
    nodes += [
        helper.make_node("ReduceL2", [last], ["length"], axes=[1], keepdims=1),
        helper.make_node("Max", ["length", "least"], ["divisor"]),  # a zero row stays zero
        helper.make_node("Div", [last, "divisor"], ["query"]),
    ]
    sizes = head.layers[0].shape[0], head.layers[-1].shape[1]
    inputs, outputs = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])]
        for name, size in zip(("embedding", "query"), sizes, strict=True)
    )
    graph = helper.make_graph(nodes, "head", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])
    model.ir_version = _IR_VERSION
    checker.check_model(model)
    return model
