"""The wheel, installed into a clean environment, works outside the clone."""

import os
import re
import subprocess
import sys
from importlib.metadata import distribution, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
TORCH = "torch==2.13.0"


def run(*command, cwd, timeout=600):
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(  # noqa: PLW1510 - the status is asserted with the output
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def needed_here(lines):
    """Return the requirements that hold on this platform."""
    wanted = [Requirement(line) for line in lines]
    return [one for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]


def locked():
    """Return what the run lock names, and torch with what it requires, as they are installed here."""
    text = (ROOT / "requirements" / "run.lock").read_text()
    pins = needed_here(re.findall(r"^([A-Za-z0-9][^\\\n]*==[^\\\n]*)", text, re.MULTILINE))
    differ = [str(pin) for pin in pins if not pin.specifier.contains(distribution(pin.name).version)]
    assert not differ, "what users install is what was tested: run requirements/compile, then make setup-dev"
    of_torch = [one.name for one in needed_here(requires("torch") or ())]
    return [distribution(name) for name in (*(pin.name for pin in pins), "torch", *of_torch)]


def link_packages(into):
    """Put links to the locked packages, and to nothing else, into a site-packages folder."""
    for one in locked():
        for top in {path.parts[0] for path in one.files or () if path.parts[0] not in ("..", "__pycache__", "bin")}:
            place = into / top
            if not place.exists():
                place.symlink_to(Path(str(one.locate_file(top))))


def wheel_of(folder):
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (wheel,) = folder.glob("llmrouter_service-*.whl")
    return wheel


def check_demo(clean, folder):
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    place = run(clean / "bin" / "python", "-c", "import llmrouter; print(llmrouter.__file__)", cwd=elsewhere).strip()
    assert Path(place).is_relative_to(clean)
    printed = run(clean / "bin" / "llmrouter", "demo", cwd=elsewhere)
    assert "right for" in printed
    assert "auto cost" in printed


@pytest.mark.slow
def test_wheel_runs_the_demo_outside_the_clone(tmp_path):
    """With the packages of the lock and no others; they are linked, not installed once more."""
    clean = tmp_path / "clean"
    # pip from here installs into it: a pip of its own takes seconds to unpack.
    run(sys.executable, "-m", "venv", "--without-pip", clean, cwd=tmp_path)
    (site,) = clean.glob("lib/python3*/site-packages")
    link_packages(site)
    found = "from importlib.util import find_spec as found; assert found('fastapi') and found('torch')"
    missing = "assert not found('pytest') and not found('llmrouter')"
    run(clean / "bin" / "python", "-c", f"{found}; {missing}", cwd=tmp_path)
    pip = [sys.executable, "-m", "pip", "--python", clean / "bin" / "python", "--disable-pip-version-check"]
    run(*pip, "install", "--quiet", "--no-deps", wheel_of(tmp_path), cwd=tmp_path)
    check_demo(clean, tmp_path)


@pytest.mark.soak
def test_wheel_and_lock_installed_by_pip(tmp_path):
    clean = tmp_path / "clean"
    run(sys.executable, "-m", "venv", clean, cwd=tmp_path)
    pip = [clean / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run(*pip, "--no-deps", "--require-hashes", "-r", ROOT / "requirements" / "run.lock", cwd=tmp_path)
    index = ["--index-url", os.environ["TORCH_INDEX"]] if os.environ.get("TORCH_INDEX") else []
    run(*pip, TORCH, *index, cwd=tmp_path)
    run(*pip, "--no-deps", wheel_of(tmp_path), cwd=tmp_path)
    check_demo(clean, tmp_path)
