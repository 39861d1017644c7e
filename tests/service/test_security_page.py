"""Every test that docs/security.md names exists."""

from __future__ import annotations

import ast
import fnmatch
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "security.md"
HERE = "tests/service/keys/"
NAMED = re.compile(r"`(?P<file>[\w/]*test_\w+\.py)?(?:::(?P<test>\w+\*?|\*\w+))?`")


def named_tests() -> list[tuple[Path, str | None]]:
    """Return file and pattern of every test in the table of threats; a pattern alone belongs to the file before it."""
    found: list[tuple[Path, str | None]] = []
    for line in PAGE.read_text().split("## Threats")[1].split("\n## ")[0].splitlines():
        file: Path | None = None
        for match in NAMED.finditer(line):
            if match["file"]:
                file = ROOT / (match["file"] if "/" in match["file"] else HERE + match["file"])
            elif not match["test"]:
                continue
            assert file is not None, f"{match[0]} names no file, and none stands before it: {line}"
            found.append((file, match["test"]))
    return found


def test_the_page_names_tests() -> None:
    assert len(named_tests()) > 40


def test_every_test_that_is_named_exists() -> None:
    missing = []
    for file, pattern in named_tests():
        if not file.is_file():
            missing.append(str(file.relative_to(ROOT)))
        elif pattern is not None:
            tree = ast.parse(file.read_text())
            names = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
            if not fnmatch.filter(names, pattern):
                missing.append(f"{file.relative_to(ROOT)}::{pattern}")
    assert missing == []


def test_every_threat_names_one_or_says_why_not() -> None:
    rows = [line for line in PAGE.read_text().split("## Threats")[1].split("\n## ")[0].splitlines() if "| **" in line]
    without = [row.split("**")[1] for row in rows if not NAMED.search(row.split("|")[3])]
    assert len(rows) > 20
    assert [name for name in without if "tests/" not in next(row for row in rows if name in row)] == []
