"""Outcomes: what models did on prompts. The table, its files, the import of logs, and the stores of the gateway."""

from llmrouter.outcomes._base import Feedback, OutcomeStore
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

__all__ = [
    "Feedback",
    "ImportReport",
    "ImportedLog",
    "LogFormat",
    "MemoryOutcomeStore",
    "OutcomeStore",
    "OutcomeTable",
    "SQLiteOutcomeStore",
    "TableFormat",
    "assign_split",
    "fill_costs",
    "import_logs",
    "join_feedback",
    "load_table",
    "normalise_text",
    "open_store",
    "prompt_id",
    "save_table",
    "store_to_table",
]
