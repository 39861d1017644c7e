"""The wheel, installed into a clean environment, works outside the clone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*command, cwd, timeout=600):
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(  # noqa: PLW1510 - the status is asserted with the output
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.mark.slow
def test_wheel_runs_the_demo_outside_the_clone(tmp_path):
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT, cwd=tmp_path)
    (wheel,) = tmp_path.glob("llmrouter_service-*.whl")
    run(sys.executable, "-m", "venv", tmp_path / "clean", cwd=tmp_path)
    python = tmp_path / "clean" / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run(*pip, "--no-deps", "--require-hashes", "-r", ROOT / "requirements" / "run.lock", cwd=tmp_path)
    index = ["--index-url", os.environ["TORCH_INDEX"]] if os.environ.get("TORCH_INDEX") else []
    run(*pip, "torch==2.13.0", *index, cwd=tmp_path)
    run(*pip, "--no-deps", wheel, cwd=tmp_path)

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    place = run(python, "-c", "import llmrouter; print(llmrouter.__file__)", cwd=elsewhere).strip()
    assert Path(place).is_relative_to(tmp_path / "clean")
    printed = run(tmp_path / "clean" / "bin" / "llmrouter", "demo", cwd=elsewhere)
    assert "right for" in printed
    assert "auto cost" in printed
