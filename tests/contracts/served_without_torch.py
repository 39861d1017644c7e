"""A trained artifact routes in a process that never loads torch."""

import subprocess
import sys
from pathlib import Path

_PROGRAM = """
import sys
from importlib import import_module
from pathlib import Path
from llmrouter import artifact
from llmrouter.outcomes import load_table
from llmrouter.types import RoutingRequest
table = load_table(Path(sys.argv[2]))
engine = artifact.load(Path(sys.argv[1]), table.cards())
decision = engine.route(RoutingRequest("add 17 and 25", prompt_tokens=6))
assert decision.model in table.models and len(decision.ranking) == len(table.models)
for name in sys.argv[3:]:
    import_module(name)
assert "torch" not in sys.modules, "serving loaded torch"
"""


def check_served_without_torch(artifact: Path, data: Path, *modules: str) -> None:
    """Route with `artifact`, trained on the outcomes in `data`, and import `modules`, without torch."""
    command = [sys.executable, "-c", _PROGRAM, str(artifact), str(data), *modules]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
