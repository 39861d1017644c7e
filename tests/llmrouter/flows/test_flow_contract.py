"""The contract kit over the whole registry."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llmrouter.registry import available

sys.path.insert(0, str(Path(__file__).parents[2] / "contracts"))
from flow_kit import check_flow, fitted


@pytest.mark.parametrize("name", available("flow"))
def test_contract(name):
    check_flow(name)


def test_serving_a_flow_needs_numpy_only(tmp_path):
    flow = fitted("cascade-routing")
    arrays, values = flow.state()
    np.savez(tmp_path / "arrays.npz", **arrays)
    (tmp_path / "values.json").write_text(json.dumps(values))
    script = f"""
import json, sys
from pathlib import Path
import numpy as np
from llmrouter.flows import CascadeRouting
from llmrouter.types import Candidate, Estimates, ModelCard, Price, RoutingRequest
folder = Path({str(tmp_path)!r})
flow = CascadeRouting.from_state(np.load(folder / "arrays.npz"), json.loads((folder / "values.json").read_text()))
names = ("small", "large")
estimates = Estimates(names, np.array([0.5, 0.6]), np.full(2, 0.1), np.array([0.01, 0.02]), np.full(2, np.nan))
step = next(flow.start(RoutingRequest("x"), [Candidate(ModelCard(n, Price(1, 1))) for n in names], estimates))
print(step.model, sorted({{"sklearn", "scipy", "aiohttp", "torch"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split(maxsplit=1)[1].strip() == "[]"
