"""What kind of index: a name with parameters, and the table by which ``auto`` chooses one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

from llmrouter.exceptions import ConfigError
from llmrouter.registry import parse_spec

KINDS = ("flat", "hnsw", "ivf-flat", "ivf-int8", "ivf-pq", "fp16", "int8", "torch")
DTYPES = ("auto", "bf16", "fp16", "fp32")
_OF_KINDS = {
    "m": ("hnsw",),
    "ef_construction": ("hnsw",),
    "lists": ("ivf-flat", "ivf-int8", "ivf-pq"),
    "code_bytes": ("ivf-pq",),
    "effort": ("hnsw", "ivf-flat", "ivf-int8", "ivf-pq"),
    "recall": ("hnsw", "ivf-flat", "ivf-int8", "ivf-pq", "fp16", "int8"),
}
"""Parameters that only some kinds look at."""
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
# Fewer rows than this are scanned: as fast, exact, and there is too little to train a quantiser on.
MIN_STRUCTURE_ROWS = 4096
MIN_PQ_ROWS = 10_000
# A scan of so few rows takes a millisecond or two on one core at 256 dimensions.
AUTO_SCAN_ROWS = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexKind:
    """One kind of index and its parameters.

    Parameters
    ----------
    name : str
        ``flat`` (exact scan), ``hnsw`` (graph; Malkov and Yashunin, 2016), ``ivf-flat`` (inverted lists),
        ``ivf-int8`` (inverted lists of rows in one byte a value), ``ivf-pq`` (inverted lists of product codes; Jégou et
        al., 2011), ``fp16`` or ``int8`` (scan of scalar-quantised rows), ``torch`` (exact scan by torch, on a GPU where
        there is one).
    m : int
        Links of a row in the graph (`hnsw`).
    ef_construction : int
        Candidates kept while a row is linked (`hnsw`).
    lists : int, optional
        Inverted lists (`ivf-flat`, `ivf-int8`, `ivf-pq`); by default twice the root of the number of rows.
    code_bytes : int, optional
        Bytes of a product code, a divisor of the dimension (`ivf-pq`); by default the largest up to an eighth of it.
    recall : float
        Recall of the k = 100 nearest that a structure is set to, by trial on some of its own rows, in (0, 1).
    effort : int, optional
        Candidates of the graph search or lists looked into, instead of what `recall` asks for.
    keep : bool, optional
        Keep the rows beside the codes and re-rank by them. Without, similarities are those of the decoded rows.
        By default every kind keeps them but ``ivf-flat``, whose lists hold them unchanged.
    threads : int
        Threads that build a structure; with more than one, a graph's links depend on their timing.
    device : str, optional
        Where the rows are scanned: ``cuda``, ``cuda:1``, ``cpu`` or ``auto`` (`torch`, which means ``auto`` where
        nothing is said; `flat`, by FAISS). Without a GPU to be had, the CPU, which a warning tells.
    dtype : str
        What the rows are scanned in (`torch`): ``bf16``, ``fp16``, ``fp32``, or ``auto``: ``bf16`` on a GPU, ``fp32``
        on a CPU. The neighbours are the same, since they are ranked by the rows themselves.
    background : bool
        Seal full tails in a thread of its own, so that no change waits for a structure to be built.

    Raises
    ------
    ConfigError
        If a value is out of range; the message names the parameter.
    """

    name: str = "flat"
    m: int = 32
    ef_construction: int = 80
    lists: int | None = None
    code_bytes: int | None = None
    recall: float = 0.95
    effort: int | None = None
    keep: bool | None = None
    threads: int = 1
    device: str | None = None
    dtype: str = "auto"
    background: bool = False

    def __post_init__(self) -> None:
        if self.name not in KINDS:
            raise ConfigError(f"unknown kind of index {self.name!r}; one of {', '.join(KINDS)}")
        for name, least in (("m", 2), ("ef_construction", 1), ("threads", 1)):
            _check_integer(name, getattr(self, name), least)
        for name in ("lists", "code_bytes", "effort"):
            if getattr(self, name) is not None:
                _check_integer(name, getattr(self, name), 1)
        if isinstance(self.recall, bool) or not isinstance(self.recall, int | float) or not 0.0 < self.recall < 1.0:
            raise ConfigError(f"recall must be above 0 and below 1, not {self.recall!r}; 'flat' is exact")
        if not (self.keep is None or isinstance(self.keep, bool)):
            raise ConfigError(f"keep must be True or False, not {self.keep!r}")
        if self.keep is False and self.name in ("flat", "hnsw", "torch"):
            raise ConfigError(f"keep=False: {self.name!r} has no codes and needs the rows; choose int8 or ivf-pq")
        if not isinstance(self.background, bool):
            raise ConfigError(f"background must be True or False, not {self.background!r}")
        self._check_device()

    def _check_device(self) -> None:
        if self.device is not None:
            if not isinstance(self.device, str) or not _DEVICE.fullmatch(self.device):
                raise ConfigError(f"device must be auto, cpu, cuda or cuda:N, not {self.device!r}")
            if self.name not in ("flat", "torch"):
                raise ConfigError(f"device={self.device}: {self.name!r} is searched on the CPU; choose torch or flat")
        if self.dtype not in DTYPES:
            raise ConfigError(f"dtype must be one of {', '.join(DTYPES)}, not {self.dtype!r}")
        if self.dtype != "auto" and self.name != "torch":
            raise ConfigError(f"dtype={self.dtype} is of the kind 'torch', not of {self.name!r}")

    @classmethod
    def of(cls, name: str, parameters: Mapping[str, Any]) -> Self:
        """Return the kind `name` with `parameters`; one that is unknown, or does nothing for it, is refused."""
        known = {field.name for field in fields(cls)} - {"name"}
        unknown = sorted(set(parameters) - known)
        if unknown:
            raise ConfigError(f"index {name!r} has no parameter {unknown[0]!r}; one of {', '.join(sorted(known))}")
        for parameter, kinds in _OF_KINDS.items():
            if parameter in parameters and name not in kinds:
                raise ConfigError(
                    f"{parameter}={parameters[parameter]!r} does nothing for the index {name!r}; it is of "
                    f"{', '.join(kinds)}"
                )
        return cls(name=name, **parameters)

    def for_dimension(self, dimension: int) -> Self:
        """Return the kind with the size of its codes filled in.

        Raises
        ------
        ConfigError
            If `code_bytes` does not divide `dimension`.
        """
        if self.name != "ivf-pq":
            return self
        if self.code_bytes is not None and dimension % self.code_bytes:
            raise ConfigError(f"code_bytes={self.code_bytes} must divide the dimension {dimension}")
        most = max(1, dimension // 8)
        fitting = self.code_bytes or max(size for size in range(1, most + 1) if dimension % size == 0)
        return replace(self, code_bytes=fitting)

    @property
    def inverted(self) -> bool:
        """Whether rows lie in inverted lists, of which the nearest few are looked into."""
        return self.name.startswith("ivf-")

    @property
    def exact(self) -> bool:
        """Whether searches look at every row, and rank all that matter by the rows themselves."""
        return self.name in ("flat", "torch")

    @property
    def resident(self) -> bool:
        """Whether sealed rows are copied to a device, anew when an index on disk is opened."""
        return self.name == "torch" or (self.name == "flat" and self.device not in (None, "cpu"))

    @property
    def coded(self) -> bool:
        """Whether a structure holds rows as codes, which do not tell all of them."""
        return self.name in ("fp16", "int8", "ivf-int8", "ivf-pq")

    @property
    def keeps_rows(self) -> bool:
        """Whether the rows themselves are kept."""
        return self.keep if self.keep is not None else self.name != "ivf-flat"

    @property
    def least_rows(self) -> int:
        """Rows from which a structure is built."""
        return MIN_PQ_ROWS if self.name == "ivf-pq" else MIN_STRUCTURE_ROWS

    def bytes_per_row(self, dimension: int) -> float:
        """Return about how much memory a row takes, in bytes, with the rows themselves where they are kept.

        Of ``torch``, that of the device is counted too.
        """
        code = {
            "flat": 0.0,
            "hnsw": 8.0 * self.m + 16.0,
            "ivf-flat": 4.0 * dimension + 16.0,
            "ivf-int8": 1.0 * dimension + 16.0,
            "ivf-pq": (self.code_bytes or max(1, dimension // 8)) + 16.0,
            "fp16": 2.0 * dimension,
            "int8": 1.0 * dimension,
            "torch": (6.0 if self.dtype == "fp16" else 4.0) * dimension,
        }[self.name]
        return code + 16.0 + (4.0 * dimension if self.keeps_rows else 0.0)

    def to_json(self) -> dict[str, Any]:
        """Return name and parameters as plain values."""
        return asdict(self)


def choose_kind(rows: int, dimension: int, *, memory_gib: float | None = None, recall: float = 1.0) -> IndexKind:
    """Return the kind that suits `rows` rows, a budget of memory and a recall target.

    ================================================  =============  ============================================
    where                                             kind           why
    ================================================  =============  ============================================
    recall 1, rows fit                                ``flat``       nothing else promises it
    up to 20,000 rows that fit                        ``flat``       a scan takes a millisecond or two
    rows and a byte a value fit                       ``ivf-int8``   fastest, from 100,000 to a million rows
    rows fit                                          ``ivf-flat``   no more memory than the rows
    a byte a value fits                               ``ivf-int8``   a quarter of the rows; they are not kept
    int8 codes fit                                    ``int8``       16 bytes a row less, but a scan
    else                                              ``ivf-pq``     d / 8 bytes a row; they are not kept
    ================================================  =============  ============================================

    Parameters
    ----------
    rows : int
        About how many rows are to come.
    dimension : int
        Length d of the rows.
    memory_gib : float, optional
        Memory the index may take, in GiB; by default it is no matter.
    recall : float
        Wanted recall of the nearest, in (0, 1]; 1 asks for exact search.

    Raises
    ------
    ConfigError
        If a value is out of range, or no kind fits: the message says what the smallest needs.
    """
    if isinstance(recall, bool) or not isinstance(recall, int | float) or not 0.0 < recall <= 1.0:
        raise ConfigError(f"recall must be above 0 and at most 1, not {recall!r}")
    if memory_gib is not None and (
        isinstance(memory_gib, bool) or not isinstance(memory_gib, int | float) or not memory_gib > 0.0
    ):
        raise ConfigError(f"memory_gib must be above 0, not {memory_gib!r}")
    budget = float("inf") if memory_gib is None else memory_gib * 2.0**30
    tried = [IndexKind(name="flat")] if recall >= 1.0 or rows <= AUTO_SCAN_ROWS else []
    if recall < 1.0:
        tried += [
            IndexKind(name="ivf-int8", recall=recall),
            IndexKind(name="ivf-flat", recall=recall),
            IndexKind(name="ivf-int8", keep=False, recall=recall),
            IndexKind(name="int8", keep=False, recall=recall),
            IndexKind(name="ivf-pq", keep=False, recall=recall),
        ]
    for kind in tried:
        if rows * kind.bytes_per_row(dimension) <= budget:
            return kind.for_dimension(dimension)
    least = rows * tried[-1].bytes_per_row(dimension) / 2.0**30
    raise ConfigError(
        f"memory_gib={memory_gib}: {rows:,} rows of dimension {dimension} at recall {recall} need {least:.2f} GiB "
        f"as {tried[-1].name!r}; give more memory" + ("" if recall < 1.0 else ", or ask for a recall below 1")
    )


def parse_kind(spec: str, dimension: int, *, rows: int = 0) -> IndexKind:
    """Return the kind that ``"hnsw:m=32"`` or ``"auto:recall=0.95,memory_gib=4"`` names.

    Raises
    ------
    ConfigError
        If the name or a parameter is unknown or out of range.
    """
    name, parameters = parse_spec(spec)
    if name != "auto":
        return IndexKind.of(name, parameters).for_dimension(dimension)
    unknown = sorted(set(parameters) - {"recall", "memory_gib"})
    if unknown:
        raise ConfigError(f"index 'auto' has no parameter {unknown[0]!r}; one of memory_gib, recall")
    return choose_kind(rows, dimension, **parameters)


def _check_integer(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{name} must be an integer >= {least}, not {value!r}")
