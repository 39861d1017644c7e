"""Encoders: text to unit vectors."""

from llmrouter.encoders._base import Encoder
from llmrouter.encoders._cached import CachedEncoder, CacheStatistics, cached_encoder
from llmrouter.encoders._embedding_cache import encode_cached
from llmrouter.encoders._form import FormEncoder
from llmrouter.encoders._head import HeadEncoder, ProjectionHead, save_head
from llmrouter.encoders._load import load_encoder
from llmrouter.encoders._onnx import OnnxEncoder
from llmrouter.encoders._sentence_transformers import SentenceTransformersEncoder
from llmrouter.encoders._static import StaticEncoder
from llmrouter.encoders._text import TextMode, chat_text

__all__ = [
    "CacheStatistics",
    "CachedEncoder",
    "Encoder",
    "FormEncoder",
    "HeadEncoder",
    "OnnxEncoder",
    "ProjectionHead",
    "SentenceTransformersEncoder",
    "StaticEncoder",
    "TextMode",
    "cached_encoder",
    "chat_text",
    "encode_cached",
    "load_encoder",
    "save_head",
]
