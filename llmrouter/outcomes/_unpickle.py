"""A pickle reader that runs nothing: every name in the file becomes a record of what it was called with.

Unpickling calls whatever the file names, so an allow-list of real functions is only as safe as each of them: numpy's
own array and dtype constructors can be talked into reading memory as object pointers (a dtype whose flags deny that
it holds objects). Here not even those are called. Names on the list stand for `Stored` classes that keep their
arguments and state; any other name is refused; and the program is read through before it is executed, so that what
cannot occur in a pickled table (persistent ids, extension codes, sets, a memo that jumps ahead to make the reader
allocate gigabytes) is refused too.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import warnings
from pathlib import Path
from typing import Any

from llmrouter.exceptions import DataError

MAX_BYTES = 4 * 2**30

# Nested tuples are hashed recursively, in C and without a limit, where one is the key of a dictionary.
_MAX_TUPLES = 10_000

# Persistent ids, extension codes, old classes, keyword arguments, out-of-band buffers and sets.
_REFUSED_OPCODES = frozenset(
    {"PERSID", "BINPERSID", "EXT1", "EXT2", "EXT4", "INST", "OBJ", "NEWOBJ_EX", "NEXT_BUFFER", "READONLY_BUFFER"}
    | {"EMPTY_SET", "ADDITEMS", "FROZENSET"}
)
_NEWEST_PROTOCOL = 5
_OPCODES = frozenset(code.name for code in pickletools.opcodes if code.proto <= _NEWEST_PROTOCOL) - _REFUSED_OPCODES
_TUPLES = frozenset({"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"})
_MEMO_AT = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})


class UnsafePickleError(DataError):
    """A pickle asks for something that no table of numbers and texts needs; nothing of it was run."""


class Stored:
    """What a name of a pickle was called with (`args`) and the state that was set on it (`state`)."""

    __slots__ = ("args", "state")

    role = ""
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> Stored:
        """Keep the arguments; nothing is computed."""
        stored = super().__new__(cls)
        stored.args = args
        stored.state = None
        return stored

    def __setstate__(self, state: Any) -> None:
        """Keep the state; without this method the reader would write attributes into objects and functions."""
        self.state = state


def _names(role: str, *modules: str, name: str = "") -> dict[tuple[str, str], str]:
    return {(module, name or role): role for module in modules}


_CORE = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMERIC = ("numpy.core.numeric", "numpy._core.numeric")
_INDEXES = "pandas.core.indexes"

# (module, name) -> what it stands for, over pandas 1.0 to 3.1 (1.3 alone writes functools.partial, which is refused),
# numpy 1 and 2, and the Arrow buffers behind the texts of pandas 3.
_ROLES: dict[tuple[str, str], str] = {
    **_names("DataFrame", "pandas", "pandas.core.frame"),
    **_names("BlockManager", "pandas.core.internals.managers", "pandas.core.internals"),
    **_names("_unpickle_block", "pandas._libs.internals"),
    **_names("_new_Index", f"{_INDEXES}.base"),
    **_names("Index", "pandas", f"{_INDEXES}.base"),
    **_names("RangeIndex", "pandas", f"{_INDEXES}.range"),
    **_names("Index", f"{_INDEXES}.numeric", name="Int64Index"),
    **_names("Index", f"{_INDEXES}.numeric", name="UInt64Index"),
    **_names("Index", f"{_INDEXES}.numeric", name="Float64Index"),
    **_names("NA", "pandas", "pandas._libs.missing"),
    **_names("StringDtype", "pandas", "pandas.core.arrays.string_"),
    **_names("StringArray", "pandas.arrays", "pandas.core.arrays.string_"),
    **_names("StringArray", "pandas.core.arrays.string_", name="StringArrayNumpySemantics"),
    **_names("StringArray", "pandas.arrays", "pandas.core.arrays.string_arrow", name="ArrowStringArray"),
    **_names("StringArray", "pandas.core.arrays.string_arrow", name="ArrowStringArrayNumpySemantics"),
    **_names("StringArray", "pandas._libs.arrays", name="__pyx_unpickle_NDArrayBacked"),
    **_names("_reconstruct", *_CORE),
    **_names("scalar", *_CORE),
    **_names("_frombuffer", *_NUMERIC),
    **_names("ndarray", "numpy"),
    **_names("dtype", "numpy"),
    **_names("_restore_array", "pyarrow.lib"),
    **_names("chunked_array", "pyarrow.lib"),
    **_names("type_for_alias", "pyarrow.lib"),
    **_names("py_buffer", "pyarrow.lib"),
    **_names("slice", "builtins", "__builtin__"),
    **_names("bytearray", "builtins", "__builtin__"),
    **_names("encode", "_codecs"),
}
_STAND_INS: dict[tuple[str, str], type[Stored]] = {
    names: type(names[1], (Stored,), {"__slots__": (), "role": role}) for names, role in _ROLES.items()
}


class _InertUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type[Stored]:
        """Return the stand-in of a name; the module is never imported."""
        stand_in = _STAND_INS.get((module, name))
        if stand_in is None:
            raise UnsafePickleError(f"it asks for {module}.{name}, which no table needs")
        return stand_in

    def persistent_load(self, pid: Any) -> Any:
        """Refuse references to things outside the file."""
        raise UnsafePickleError(f"it refers to something outside itself ({type(pid).__name__} as a persistent id)")


def read_pickle(path: Path, *, max_bytes: int = MAX_BYTES) -> Any:
    """Return the object of a pickle, with a `Stored` for whatever is not a plain value or container.

    Parameters
    ----------
    path : Path
        The file.
    max_bytes : int
        Larger files are refused unread: all of it is held in memory.

    Raises
    ------
    UnsafePickleError
        If the file asks for a name that is not on the list, or uses what a pickled table never does. The message
        names the first such thing; nothing was imported or called.
    DataError
        If it is too large, truncated, or no pickle.
    """
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise DataError(f"{path} has {size:,} bytes, more than {max_bytes:,}; raise max_bytes to read it")
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; check the path and its permissions") from error
    try:
        _check_program(data)
        return _InertUnpickler(io.BytesIO(data)).load()
    except UnsafePickleError as error:
        raise UnsafePickleError(
            f"{path} is refused: {error}. Nothing of it was run. Do not open it with pickle or pandas; get the file "
            "from its publisher again"
        ) from None
    except Exception as error:  # a broken program of opcodes fails in any way it likes
        raise DataError(
            f"{path} is not a whole pickle ({type(error).__name__}: {str(error)[:200]}); it may be truncated: download "
            "it again"
        ) from error


def _check_program(data: bytes) -> None:
    """Refuse a program with opcodes, memo places or a number of tuples that no pickled table has."""
    executed = tuples = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in text opcodes of foreign files
        for opcode, argument, position in pickletools.genops(data):
            executed += 1
            if opcode.name not in _OPCODES:
                raise UnsafePickleError(f"it uses the opcode {opcode.name} at byte {position}, which no table needs")
            if opcode.name in _MEMO_AT and int(argument or 0) > executed:
                raise UnsafePickleError(f"it jumps ahead to memo place {argument} at byte {position}")
            if opcode.name in _TUPLES:
                tuples += 1
                if tuples > _MAX_TUPLES:
                    raise UnsafePickleError(f"it holds more than {_MAX_TUPLES:,} tuples; a table has a few a column")
