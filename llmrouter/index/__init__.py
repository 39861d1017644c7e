"""Vector indexes: exact and FAISS behind one protocol."""

from llmrouter.index._base import Neighbors, VectorIndex
from llmrouter.index._create import create_index, load_index
from llmrouter.index._exact import ExactIndex
from llmrouter.index._faiss import FaissFlatIndex
from llmrouter.index._faiss_check import check_faiss

__all__ = ["ExactIndex", "FaissFlatIndex", "Neighbors", "VectorIndex", "check_faiss", "create_index", "load_index"]
