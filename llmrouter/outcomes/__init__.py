"""Outcomes: what models did on prompts. The table, its files, imports of logs and benchmarks, the gateway's stores."""

from llmrouter.outcomes._base import Feedback, OutcomeStore
from llmrouter.outcomes._benchmarks import BENCHMARK_FORMATS, BenchmarkFormat, detect_benchmark, import_benchmark
from llmrouter.outcomes._costs import fill_costs
from llmrouter.outcomes._feedback import join_feedback
from llmrouter.outcomes._files import TableFormat, load_table, save_table
from llmrouter.outcomes._from_store import store_to_table
from llmrouter.outcomes._identity import assign_split, normalise_text, prompt_id
from llmrouter.outcomes._import import ImportedLog, ImportReport, LogFormat, import_logs
from llmrouter.outcomes._memory import MemoryOutcomeStore
from llmrouter.outcomes._open import open_store
from llmrouter.outcomes._sqlite import SQLiteOutcomeStore
from llmrouter.outcomes._table import OutcomeTable
from llmrouter.outcomes._unpickle import UnsafePickleError

__all__ = [
    "BENCHMARK_FORMATS",
    "BenchmarkFormat",
    "Feedback",
    "ImportReport",
    "ImportedLog",
    "LogFormat",
    "MemoryOutcomeStore",
    "OutcomeStore",
    "OutcomeTable",
    "SQLiteOutcomeStore",
    "TableFormat",
    "UnsafePickleError",
    "assign_split",
    "detect_benchmark",
    "fill_costs",
    "import_benchmark",
    "import_logs",
    "join_feedback",
    "load_table",
    "normalise_text",
    "open_store",
    "prompt_id",
    "save_table",
    "store_to_table",
]
