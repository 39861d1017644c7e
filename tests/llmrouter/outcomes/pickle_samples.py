"""Pickles written name by name: tables as any version of pandas writes them, without it, and hostile files."""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Name:
    """A global of the pickle, whether or not it exists here."""

    module: str
    name: str


@dataclass(frozen=True, eq=False)
class Call:
    """`function(*args)`, or `function.__new__(function, *args)`, with a state set on the result."""

    function: Any
    args: tuple
    state: Any = None
    new: bool = False


class Writer(pickle._Pickler):
    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, Name):
            self.write(f"c{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, Call):
            self.save(obj.function)
            self.save(obj.args)
            self.write(pickle.NEWOBJ if obj.new else pickle.REDUCE)
            if obj.state is not None:
                self.save(obj.state)
                self.write(pickle.BUILD)
        else:
            super().save(obj, save_persistent_id)


def dumps(value: Any, protocol: int = 4) -> bytes:
    buffer = io.BytesIO()
    Writer(buffer, protocol).dump(value)
    return buffer.getvalue()


def dtype(code: str, order: str = "<", flags: int = 0) -> Call:
    return Call(Name("numpy", "dtype"), (code, False, True), (3, order, None, None, None, -1, -1, flags))


def array(values: np.ndarray, core: str = "numpy.core.multiarray") -> Call:
    """An array as numpy 1 (core ``numpy.core``) or numpy 2 (``numpy._core``) writes it."""
    is_object = values.dtype == object
    kind = dtype("O8", "|", 63) if is_object else dtype(values.dtype.str[1:])
    data = values.reshape(-1).tolist() if is_object else values.tobytes()
    empty = (Name("numpy", "ndarray"), (0,), b"b")
    return Call(Name(core, "_reconstruct"), empty, (1, values.shape, kind, False, data))


def objects(*values: Any) -> np.ndarray:
    result = np.empty(len(values), dtype=object)
    result[:] = values
    return result


def index(values: np.ndarray, kind: str = "Index", module: str = "pandas.core.indexes.base") -> Call:
    fields = {"data": array(values), "name": None}
    return Call(Name("pandas.core.indexes.base", "_new_Index"), (Name(module, kind), fields))


def row_range(rows: int) -> Call:
    fields = {"name": None, "start": 0, "stop": rows, "step": 1}
    return Call(
        Name("pandas.core.indexes.base", "_new_Index"), (Name("pandas.core.indexes.range", "RangeIndex"), fields)
    )


def frame(columns: dict[str, list], *, layout: str = "2") -> Call:
    """A DataFrame as pandas 1.0 to 1.2 (layout ``1``) or later (``2``) writes it; one block a column."""
    rows = len(next(iter(columns.values())))
    blocks = []
    for values in columns.values():
        cells = np.array(values) if all(isinstance(value, float) for value in values) else objects(*values)
        blocks.append(array(cells.reshape(1, -1)))
    slices = [Call(Name("builtins", "slice"), (i, i + 1, 1)) for i in range(len(blocks))]
    axes = [index(objects(*columns)), row_range(rows)]
    manager = Name("pandas.core.internals.managers", "BlockManager")
    if layout == "1":
        parts = [{"values": block, "mgr_locs": place} for block, place in zip(blocks, slices)]
        state = (axes, [], [], {"0.14.1": {"axes": axes, "blocks": parts}})
        content, key = Call(manager, (), state, new=True), "_mgr"
    else:
        unpickle = Name("pandas._libs.internals", "_unpickle_block")
        made = tuple(Call(unpickle, (block, place, 2)) for block, place in zip(blocks, slices))
        content, key = Call(manager, (made, axes)), "_mgr"
    state = {key: content, "_typ": "dataframe", "_metadata": [], "attrs": {}}
    return Call(Name("pandas.core.frame", "DataFrame"), (), state, new=True)
