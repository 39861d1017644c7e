"""Outcomes: what models did on prompts. The table, its files, imports of logs and benchmarks, the gateway's stores."""

from llmrouter.outcomes._base import Event, Feedback, OutcomeStore
from llmrouter.outcomes._benchmarks import BENCHMARK_FORMATS, BenchmarkFormat, detect_benchmark, import_benchmark
from llmrouter.outcomes._costs import fill_costs
from llmrouter.outcomes._export import export_outcomes
from llmrouter.outcomes._feedback import check_feedback, join_feedback
from llmrouter.outcomes._files import TableFormat, load_table, save_table
from llmrouter.outcomes._from_store import store_to_table
from llmrouter.outcomes._identity import assign_split, normalise_text, prompt_id
from llmrouter.outcomes._import import ImportedLog, ImportReport, LogFormat, import_logs
from llmrouter.outcomes._memory import MemoryOutcomeStore
from llmrouter.outcomes._open import open_store
from llmrouter.outcomes._record import from_record as outcome_from_json
from llmrouter.outcomes._record import to_record as outcome_to_json
from llmrouter.outcomes._redis import RedisOutcomeStore
from llmrouter.outcomes._sqlite import SQLiteOutcomeStore
from llmrouter.outcomes._table import OutcomeTable
from llmrouter.outcomes._unpickle import UnsafePickleError

__all__ = [
    "BENCHMARK_FORMATS",
    "BenchmarkFormat",
    "Event",
    "Feedback",
    "ImportReport",
    "ImportedLog",
    "LogFormat",
    "MemoryOutcomeStore",
    "OutcomeStore",
    "OutcomeTable",
    "RedisOutcomeStore",
    "SQLiteOutcomeStore",
    "TableFormat",
    "UnsafePickleError",
    "assign_split",
    "check_feedback",
    "detect_benchmark",
    "export_outcomes",
    "fill_costs",
    "import_benchmark",
    "import_logs",
    "join_feedback",
    "load_table",
    "normalise_text",
    "open_store",
    "outcome_from_json",
    "outcome_to_json",
    "prompt_id",
    "save_table",
    "store_to_table",
]
