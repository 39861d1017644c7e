"""One class a kind of `SegmentedIndex`, with the defaults of the kind."""

from __future__ import annotations

from llmrouter.index._segmented import SegmentedIndex


class FlatIndex(SegmentedIndex):
    """Exact scan of all rows."""

    default_kind = "flat"


class HNSWIndex(SegmentedIndex):
    """Hierarchical navigable small worlds (Malkov and Yashunin, 2016)."""

    default_kind = "hnsw"


class IVFFlatIndex(SegmentedIndex):
    """Inverted lists of whole rows (Jégou et al., 2011)."""

    default_kind = "ivf-flat"


class IVFInt8Index(SegmentedIndex):
    """Inverted lists of rows in one byte a value, re-ranked by the rows."""

    default_kind = "ivf-int8"


class IVFPQIndex(SegmentedIndex):
    """Inverted lists of product-quantised rows (Jégou et al., 2011)."""

    default_kind = "ivf-pq"


class FP16Index(SegmentedIndex):
    """Scan of half-precision rows, re-ranked by the rows."""

    default_kind = "fp16"


class Int8Index(SegmentedIndex):
    """Scan of rows in one byte a value, re-ranked by the rows."""

    default_kind = "int8"


class TorchIndex(SegmentedIndex):
    """Exact scan by torch, on a GPU where there is one (see `IndexKind`: `device`, `dtype`)."""

    default_kind = "torch"
