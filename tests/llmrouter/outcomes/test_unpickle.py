"""Pickled tables are read whatever wrote them, and no pickle, however hostile, runs anything."""

from __future__ import annotations

import math
import pickle
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pickle_samples import Call, Name, array, dtype, dumps, frame, index, objects, row_range

from llmrouter.exceptions import DataError
from llmrouter.outcomes import UnsafePickleError, import_benchmark
from llmrouter.outcomes._pickle_frame import PickledFrame
from llmrouter.outcomes._unpickle import _STAND_INS, Stored, read_pickle

COLUMNS = {
    "sample_id": ["a", "b"],
    "prompt": ["['one']", "['two', 'more']"],
    "eval_name": ["t", "t"],
    "m": [1.0, 0.25],
    "n": [0.0, math.nan],
    "m|total_cost": [0.5, 0.125],
    "n|total_cost": [0.25, 0.0],
}


def write(tmp_path: Path, content: Any, protocol: int = 4) -> Path:
    path = tmp_path / "table.pkl"
    path.write_bytes(content if isinstance(content, bytes) else dumps(content, protocol))
    return path


def same(left: list, right: list) -> bool:
    return len(left) == len(right) and all(a == b or (a != a and b != b) for a, b in zip(left, right))


# What pandas writes


@pytest.mark.parametrize("layout", ["1", "2"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_the_layouts_of_pandas_1_and_2(tmp_path: Path, layout: str, protocol: int) -> None:
    read = PickledFrame(write(tmp_path, frame(COLUMNS, layout=layout), protocol))
    assert (read.columns, len(read)) == (tuple(COLUMNS), 2)
    for name, values in COLUMNS.items():
        assert same(read.values(name), values), name


def test_a_table_of_this_pandas(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    data = pandas.DataFrame({**COLUMNS, "k": [3, -4], "right": [True, False], "small": np.array([0.5, 1], "f4")})
    texts = ["sample_id", "prompt", "eval_name"]
    python = pandas.StringDtype("python", na_value=math.nan)
    variants = {
        "default": data,
        "objects": data.astype(dict.fromkeys(texts, object)),
        "python strings": data.astype(dict.fromkeys(texts, python)),
        "renumbered": data.set_axis([7, 3]),
        "twice turned": data.T.T,
        "sliced": pandas.concat([data, data])[::2],
        "a missing text": data.assign(prompt=["['one']", None]),
    }
    for name, variant in variants.items():
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            path = tmp_path / "table.pkl"
            path.write_bytes(pickle.dumps(variant, protocol))
            read = PickledFrame(path)
            assert read.columns == tuple(variant.columns), (name, protocol)
            for column in variant.columns:
                expected = [None if pandas.isna(value) else value for value in variant[column].tolist()]
                actual = [None if value is None or value != value else value for value in read.values(column)]
                assert actual == expected, (name, protocol, column)


def test_numpy_2_names_protocol_5_buffers_and_scalars(tmp_path: Path) -> None:
    data = np.array([[1.0, 0.5], [0.25, 0.75]])
    buffer = Call(Name("numpy._core.numeric", "_frombuffer"), (bytearray(data.tobytes()), dtype("f8"), (2, 2), "F"))
    scalar = Call(Name("numpy._core.multiarray", "scalar"), (dtype("f8"), struct.pack("<d", 0.125)))
    cells = array(objects(scalar, Name("pandas", "NA")).reshape(1, 2), "numpy._core.multiarray")
    block = Name("pandas._libs.internals", "_unpickle_block")
    places = array(np.array([2, 0], dtype=np.int64))
    blocks = (Call(block, (buffer, places, 2)), Call(block, (cells, Call(Name("builtins", "slice"), (1, 2, 1)), 2)))
    axes = [index(objects("a", "b", "c")), row_range(2)]
    manager = Call(Name("pandas.core.internals.managers", "BlockManager"), (blocks, axes))
    read = PickledFrame(write(tmp_path, Call(Name("pandas", "DataFrame"), (), {"_mgr": manager}, new=True), 5))
    assert read.values("c") == [1.0, 0.25], "first line of a block in Fortran order"
    assert read.values("a") == [0.5, 0.75]
    assert read.values("b") == [0.125, None]
    with pytest.raises(DataError, match=r"has the column 'd' not; it has: a, b, c"):
        read.values("d")


def test_neither_pandas_nor_anything_else_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pandas", "pandas._libs.internals", "pandas.core.frame", "numpy.core.multiarray"):
        monkeypatch.setitem(sys.modules, name, None)
    table, _ = import_benchmark(write(tmp_path, frame(COLUMNS)))
    np.testing.assert_array_equal(table.quality, [[1.0, 0.0], [0.25, np.nan]])


# What nobody should load


def attacks(canary: Path) -> dict[str, Any]:
    shell = f"touch {canary}"
    code = f"open({str(canary)!r}, 'w').close()"
    system = Call(Name("os", "system"), (shell,))
    fetch = Call(Name("builtins", "getattr"), (Name("os", "path"), "os"))
    return {
        "os.system": system,
        "posix.system": Call(Name("posix", "system"), (shell,)),
        "subprocess.Popen": Call(Name("subprocess", "Popen"), (["touch", str(canary)],)),
        "builtins.eval": Call(Name("builtins", "eval"), (code,)),
        "builtins.exec": Call(Name("builtins", "exec"), (code,)),
        "__builtin__.eval": Call(Name("__builtin__", "eval"), (code,)),
        "builtins.__import__": Call(Name("builtins", "__import__"), ("os",)),
        "builtins.getattr": Call(fetch, (shell,)),
        "functools.partial": Call(Call(Name("functools", "partial"), (Name("os", "system"), shell)), ()),
        "operator.attrgetter": Call(Name("operator", "attrgetter"), ("system",)),
        "codecs.decode": Call(Name("codecs", "decode"), (b"x", "zip")),
        "_codecs.decode": Call(Name("_codecs", "decode"), (b"x", "unicode_escape")),
        "copyreg._reconstructor": Call(Name("copyreg", "_reconstructor"), (Name("builtins", "object"),)),
        "pandas.read_pickle": Call(Name("pandas", "read_pickle"), (str(canary),)),
        "pandas.eval": Call(Name("pandas", "eval"), (code,)),
        "numpy.load": Call(Name("numpy", "load"), (str(canary), None, True)),
        "numpy.f2py.compile": Call(Name("numpy.f2py", "compile"), (code,)),
        "numpy.ndarray.tofile": Call(Name("numpy", "ndarray.tofile"), (str(canary),)),
        "llmrouter._files.write_atomically": Call(Name("llmrouter._files", "write_atomically"), (canary.name, b"x")),
        "types.FunctionType": Call(Name("types", "FunctionType"), ()),
        "pickle.loads": Call(Name("pickle", "loads"), (b"cos\nsystem\n.",)),
    }


ATTACKS = tuple(attacks(Path("x")))


@pytest.mark.parametrize("place", ["alone", "in an array", "in the state", "as a column", "set as a state"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_hostile_names_are_refused_by_name_wherever_they_stand(tmp_path: Path, attack: str, place: str) -> None:
    canary = tmp_path / "canary"
    hostile = attacks(canary)[attack]
    table = frame(COLUMNS)
    content = {
        "alone": hostile,
        "in an array": frame({**COLUMNS, "extra": [hostile, "x"]}),
        "in the state": Call(table.function, (), {**table.state, "attrs": {"x": hostile}}, new=True),
        "as a column": Call(table.function, (), {"_mgr": hostile}, new=True),
        "set as a state": Call(Name("numpy", "dtype"), ("f8",), hostile),
    }[place]
    for protocol in (2, 4):
        with pytest.raises(UnsafePickleError) as caught:
            import_benchmark(write(tmp_path, content, protocol))
        named = "os.path" if attack == "builtins.getattr" and "os.path" in str(caught.value) else attack
        named = "os.system" if attack == "functools.partial" and "os.system" in str(caught.value) else named
        assert f"it asks for {named}" in str(caught.value)
        assert "Nothing of it was run" in str(caught.value)
    assert not canary.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"(S'touch x'\nios\nsystem\n.", "the opcode INST"),
        (b"(cos\nsystem\nS'touch x'\no.", "the opcode OBJ"),
        (b"Pid\n.", "the opcode PERSID"),
        (b"\x80\x02K\x01Q.", "the opcode BINPERSID"),
        (b"\x80\x02\x82\x01.", "the opcode EXT1"),
        (b"\x80\x04\x8f(K\x01\x90.", "the opcode EMPTY_SET"),
        (b"\x80\x05\x97.", "the opcode NEXT_BUFFER"),
        (b"\x80\x04cnumpy\ndtype\n)}\x92.", "the opcode NEWOBJ_EX"),
        (b"\x80\x02K\x01r\xff\xff\xff\x7f.", "jumps ahead to memo place 2147483647"),
        (b"K\x01p2000000000\n.", "jumps ahead to memo place 2000000000"),
        (b"\x80\x02)" + b"\x85" * 20_000 + b".", "more than 10,000 tuples"),
    ],
)
def test_hostile_opcodes_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(UnsafePickleError, match=message):
        read_pickle(write(tmp_path, content))


def test_state_reaches_no_class_and_no_function(tmp_path: Path) -> None:
    stand_in = _STAND_INS["numpy", "dtype"]
    before = dict(vars(stand_in))
    for target in (Name("numpy", "dtype"), Name("_codecs", "encode"), [], "text", 1):
        for state in ({"role": "DataFrame", "args": ()}, (None, {"role": "x", "__setstate__": 1})):
            tail = dumps(state, 2)[2:-1]
            path = write(tmp_path, dumps(target, 2)[:-1] + tail + b"b.")
            with pytest.raises(DataError, match="is not a whole pickle"):
                read_pickle(path)
    assert dict(vars(stand_in)) == before
    assert Stored.role == ""


def test_calls_are_recorded_not_made(tmp_path: Path) -> None:
    stored = read_pickle(write(tmp_path, Call(Name("builtins", "bytearray"), (10**12,))))
    assert (stored.role, stored.args) == ("bytearray", (10**12,))
    with pytest.raises(DataError, match="'BlockManager' object is not callable|not a whole pickle"):
        read_pickle(write(tmp_path, Call(Call(Name("pandas.core.internals", "BlockManager"), ()), ())))


def test_an_object_array_that_claims_to_hold_no_objects(tmp_path: Path) -> None:
    # numpy itself would take the eight bytes for a pointer.
    lying = Call(
        Name("numpy.core.multiarray", "_reconstruct"),
        (Name("numpy", "ndarray"), (0,), b"b"),
        (1, (1, 2), dtype("O8", "|", 0), False, b"A" * 16),
    )
    block = Call(
        Name("pandas._libs.internals", "_unpickle_block"), (lying, Call(Name("builtins", "slice"), (0, 1, 1)), 2)
    )
    manager = Call(
        Name("pandas.core.internals.managers", "BlockManager"), ((block,), [index(objects("m")), row_range(2)])
    )
    read = PickledFrame(write(tmp_path, Call(Name("pandas", "DataFrame"), (), {"_mgr": manager}, new=True)))
    with pytest.raises(DataError, match="bytes for an array of O8"):
        read.values("m")


def lied(shape: Any = (1, 2), code: str = "f8", data: Any = b"\0" * 16, order: Any = "C") -> Call:
    buffer = Call(Name("numpy.core.numeric", "_frombuffer"), (data, dtype(code), shape, order))
    place = Call(Name("builtins", "slice"), (0, 1, 1))
    block = Call(Name("pandas._libs.internals", "_unpickle_block"), (buffer, place, 2))
    axes = [index(objects("m")), row_range(2)]
    manager = Call(Name("pandas.core.internals.managers", "BlockManager"), ((block,), axes))
    return Call(Name("pandas", "DataFrame"), (), {"_mgr": manager}, new=True)


def laughs() -> list:
    bomb: list = ["ha"]
    for _ in range(60):
        bomb = [bomb, bomb]
    return bomb


@pytest.mark.parametrize(
    "content",
    [
        lied(shape=(10**9, 10**9)),
        lied(shape=(1, -2)),
        lied(shape=(1, 2, 1)),
        lied(shape=(1, 3)),
        lied(shape=(laughs(), 2)),
        lied(code="V16"),
        lied(code="O8"),
        lied(data="text"),
        lied(data=laughs()),
        lied(data=Call(Name("_codecs", "encode"), ("é" * 8, laughs()))),
        lied(data=Call(Name("_codecs", "encode"), ("é" * 8, "unicode_escape"))),
    ],
)
def test_lying_arrays_are_errors_and_cheap(tmp_path: Path, content: Call) -> None:
    with pytest.raises(DataError, match="is not a pickled DataFrame of texts and numbers .column 'm'"):
        PickledFrame(write(tmp_path, content)).values("m")


def arrow(offsets: list[int], text: bytes, length: int, valid: bytes | None = None) -> Call:
    def buffer(data: bytes | None) -> Call | None:
        return None if data is None else Call(Name("pyarrow.lib", "py_buffer"), (data,))

    kind = Call(Name("pyarrow.lib", "type_for_alias"), ("string",))
    places = np.array(offsets, "<i4").tobytes()
    parts = (kind, length, -1, 0, [buffer(valid), buffer(places), buffer(text)], [], None)
    texts = Call(Name("pyarrow.lib", "_restore_array"), (parts,))
    chunked = Call(Name("pyarrow.lib", "chunked_array"), ([texts], kind))
    values = Call(
        Name("pandas.core.arrays.string_arrow", "ArrowStringArray"),
        (),
        {"_pa_array": chunked, "_dtype": None},
        new=True,
    )
    block = Call(
        Name("pandas._libs.internals", "_unpickle_block"), (values, Call(Name("builtins", "slice"), (0, 1, 1)), 2)
    )
    axes = [index(objects("m")), row_range(length)]
    manager = Call(Name("pandas.core.internals.managers", "BlockManager"), ((block,), axes))
    return Call(Name("pandas", "DataFrame"), (), {"_mgr": manager}, new=True)


def test_arrow_texts(tmp_path: Path) -> None:
    read = PickledFrame(write(tmp_path, arrow([0, 1, 1, 4], "aß!".encode(), 3, valid=b"\x05")))
    assert read.values("m") == ["a", None, "ß!"]
    for bad, message in [
        (arrow([0, 4, 0, 4], b"long", 3), "texts that overlap"),
        (arrow([0, 2, 5], b"four", 2), "texts that overlap"),
        (arrow([0, 1], b"ab", 2), "offsets for fewer than 2 texts"),
    ]:
        with pytest.raises(DataError, match=message):
            PickledFrame(write(tmp_path, bad)).values("m")


def test_files_that_are_no_table(tmp_path: Path) -> None:
    whole = dumps(frame(COLUMNS))
    for content, message in [
        (whole[: len(whole) // 2], "is not a whole pickle .*; it may be truncated: download it again"),
        (whole[:-1], "is not a whole pickle"),
        (b"", "is an empty file"),
        (b"PK\x03\x04 no pickle", "is not a whole pickle"),
        (b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7fN.", "is not a whole pickle"),
        (dumps([1, 2]), r"is not a pickled DataFrame .*\(list where DataFrame belongs\)"),
        (dumps(Call(Name("numpy", "dtype"), ("f8",))), "dtype where DataFrame belongs"),
        (
            dumps(frame({"sample_id": ["a"], "prompt": ["x"]})),
            "lacks eval_name. Expected columns: .*; found: sample_id",
        ),
        (
            dumps(frame({"sample_id": ["a"], "prompt": ["x"], "eval_name": ["t"], "m": [1.0]})),
            r"lacks <model>, <model>\|total_cost",
        ),
    ]:
        with pytest.raises(DataError, match=message):
            import_benchmark(write(tmp_path, content), format="routerbench")
    with pytest.raises(DataError, match=r"bytes, more than 10; raise max_bytes"):
        read_pickle(write(tmp_path, frame(COLUMNS)), max_bytes=10)
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_pickle(tmp_path / "nowhere.pkl")


VALID = dumps(frame(COLUMNS))


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_mutation_escapes_the_error_tree(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(VALID)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = write(tmp_path, bytes(content))
    try:
        table, _ = import_benchmark(path)
    except DataError:
        return
    assert len(table) <= 2


OPCODES = st.sampled_from(
    [opcode.encode("latin1") for opcode in "().0FNIJKLMSTUVX]}abcdeghjlpqrstu\x80\x81\x85\x86\x87\x93\x94"]
)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(OPCODES | st.binary(max_size=6) | st.just(b"cos\nsystem\n") | st.just(b"R"), max_size=30))
def test_no_program_escapes_the_error_tree(tmp_path: Path, parts: list[bytes]) -> None:
    try:
        read = read_pickle(write(tmp_path, b"".join(parts) + b"."))
    except DataError:
        return
    assert not callable(read) or issubclass(read, Stored)
