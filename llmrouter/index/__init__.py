"""Vector indexes: exact and approximate, in memory and on disk, behind one protocol."""

from llmrouter.index._base import Neighbors, VectorIndex
from llmrouter.index._create import create_index, load_index
from llmrouter.index._devices import faiss_device, torch_device
from llmrouter.index._exact import ExactIndex
from llmrouter.index._faiss import FaissFlatIndex
from llmrouter.index._faiss_check import check_faiss
from llmrouter.index._indexes import (
    FlatIndex,
    FP16Index,
    HNSWIndex,
    Int8Index,
    IVFFlatIndex,
    IVFInt8Index,
    IVFPQIndex,
    TorchIndex,
)
from llmrouter.index._kinds import KINDS, IndexKind, choose_kind, parse_kind
from llmrouter.index._segmented import SegmentedIndex
from llmrouter.index._stored import StoredIndex

__all__ = [
    "KINDS",
    "ExactIndex",
    "FP16Index",
    "FaissFlatIndex",
    "FlatIndex",
    "HNSWIndex",
    "IVFFlatIndex",
    "IVFInt8Index",
    "IVFPQIndex",
    "IndexKind",
    "Int8Index",
    "Neighbors",
    "SegmentedIndex",
    "StoredIndex",
    "TorchIndex",
    "VectorIndex",
    "check_faiss",
    "choose_kind",
    "create_index",
    "faiss_device",
    "load_index",
    "parse_kind",
    "torch_device",
]
