"""The locks that are shipped hold only hashed, undenied versions; a lock that does not is refused."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[3] / "requirements"
SCRIPT = FOLDER / "check_locks.py"
HASH = "--hash=sha256:" + "0a" * 32
GOOD = f"""\
aiohttp==3.14.5 \\
    {HASH} \\
    {HASH}
    # via llmrouter
litellm==1.106.2 ; python_version < '3.13' {HASH}
"""


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_locks", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(*paths: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *map(str, paths)], capture_output=True, text=True, check=False)


def test_the_shipped_locks_pass() -> None:
    result = run()
    assert result.returncode == 0, result.stderr
    assert len(list(FOLDER.glob("*.lock"))) >= 2


def test_a_good_lock_passes(tmp_path: Path) -> None:
    lock = tmp_path / "good.lock"
    lock.write_text(GOOD)
    assert run(lock).returncode == 0


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"litellm==1.82.7 {HASH}", "litellm==1.82.7 is denied: 24 March 2026"),
        (f"LiteLLM==1.82.8 \\\n    {HASH}", "is denied"),
        (f"litellm[proxy]==1.82.8 {HASH}", "is denied"),
        (f"litellm==1.82.8 ; python_version > '3' {HASH}", "is denied"),
        (f"triton_kernels==9.9.9 {HASH}", "is denied"),
        ("aiohttp==3.14.5", "aiohttp==3.14.5 has no hash"),
        ("aiohttp==3.14.5  # --hash=sha256:" + "0a" * 32, "has no hash"),
        ("aiohttp==3.14.5 --hash=md5:" + "0a" * 16, "no SHA-256"),
        (f"aiohttp==3.14.5 {HASH} --hash=sha1:" + "0a" * 20, "no SHA-256"),
        ("aiohttp==3.14.5 --hash=sha256:0a0a", "no SHA-256"),
        (f"aiohttp>=3.14 {HASH}", "not pinned"),
        (f"aiohttp==3.* {HASH}", "not pinned"),
        (f"aiohttp {HASH}", "not pinned"),
        (f"aiohttp @ https://example.org/aiohttp.whl {HASH}", "not pinned"),
        ("git+https://example.org/aiohttp.git", "not pinned"),
        ("--extra-index-url https://example.org/simple", "--extra-index-url"),
        ("-e .", "-e"),
        ("-r other.txt", "-r"),
    ],
)
def test_a_bad_lock_fails_and_the_offender_is_named(tmp_path: Path, line: str, said: str) -> None:
    lock = tmp_path / "bad.lock"
    lock.write_text(f"{GOOD}{line}\n{GOOD}")
    result = run(lock)
    assert result.returncode == 1
    assert f"{lock}:6: " in result.stderr
    assert said in result.stderr


def test_an_empty_lock_fails(tmp_path: Path) -> None:
    lock = tmp_path / "empty.lock"
    lock.write_text("# nothing\n")
    assert run(lock).returncode == 1


def test_every_entry_of_the_denylist_is_read_and_refused() -> None:
    module = load()
    denied = module.denied_versions((FOLDER / "denylist.txt").read_text())
    assert {"1.82.7", "1.82.8"} <= denied["litellm"].keys()
    for name, versions in denied.items():
        for version, reason in versions.items():
            line = f"{name}=={'1.0' if version == module.ANY_VERSION else version} {HASH}\n"
            ((_, message),) = module.problems(line, denied)
            assert reason in message


@pytest.mark.parametrize("line", ["litellm==1.0", "litellm>=1  # reason", "==1  # reason", "litellm==1.0  #"])
def test_a_misspelt_denylist_is_an_error(line: str) -> None:
    with pytest.raises(ValueError, match="line 2"):
        load().denied_versions(f"# comment\n{line}\n")
