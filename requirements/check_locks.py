"""Refuse locks that could install something else than what was reviewed: every line hashed, no denied version.

Run as ``python requirements/check_locks.py [LOCK ...]``; by default over every lock beside this file. Needs nothing but
Python, so that it can run before anything is installed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

FOLDER = Path(__file__).parent
DENYLIST = FOLDER / "denylist.txt"

ANY_VERSION = "*"

# PEP 503: names that differ in these only are one name.
_SEPARATORS = re.compile(r"[-_.]+")
_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_PINNED = re.compile(rf"(?P<name>{_NAME})(?:\[[A-Za-z0-9,._ -]*\])?==(?P<version>[A-Za-z0-9.!+_-]+)")
_HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}(?=\s|$)")
_ANY_HASH = re.compile(r"--hash[=\s]\S*")
_COMMENT = re.compile(r"(^|\s)#.*$")
_DENIED = re.compile(rf"(?P<name>{_NAME})(?:==(?P<version>\S+))?\s+#\s*(?P<reason>\S.*)")


def denied_versions(text: str) -> Mapping[str, Mapping[str, str]]:
    """Return name -> version (or `ANY_VERSION`) -> reason.

    Parameters
    ----------
    text : str
        Of a denylist.

    Raises
    ------
    ValueError
        If a line is not of its form; a list that is misread protects from nothing.
    """
    denied: dict[str, dict[str, str]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        match = _DENIED.fullmatch(line)
        if match is None:
            raise ValueError(
                f"denylist line {number}: write 'name==version  # reason' or 'name  # reason'; got {line!r}"
            )
        denied.setdefault(normalized(match["name"]), {})[match["version"] or ANY_VERSION] = match["reason"]
    return denied


def problems(text: str, denied: Mapping[str, Mapping[str, str]]) -> Iterator[tuple[int, str]]:
    """Yield what is wrong with a lock, as (line number, message).

    Parameters
    ----------
    text : str
        Of a lock, as ``uv pip compile --generate-hashes`` writes it.
    denied : mapping
        From `denied_versions`.
    """
    found = 0
    for number, line in _logical_lines(text):
        if line.startswith("-"):
            # Another index, a local folder, another file: each would go around the hashes or the review.
            yield number, f"an option is not allowed in a lock: {line.split()[0]}"
            continue
        requirement = _ANY_HASH.sub("", line).partition(";")[0].strip()
        match = _PINNED.fullmatch(requirement)
        if match is None:
            yield number, f"is not pinned to one version from the index: {requirement}"
            continue
        found += 1
        hashes = _ANY_HASH.findall(line)
        if not hashes:
            yield number, f"{requirement} has no hash"
        elif len(_HASH.findall(line)) != len(hashes):
            yield number, f"{requirement} has a hash that is no SHA-256"
        versions = denied.get(normalized(match["name"]), {})
        reason = versions.get(match["version"]) or versions.get(ANY_VERSION)
        if reason is not None:
            yield number, f"{requirement} is denied: {reason}"
    if not found:
        yield 1, "there is no requirement in it"


def normalized(name: str) -> str:
    """Return the name under which the index knows a package."""
    return _SEPARATORS.sub("-", name).lower()


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield lines with their continuations joined and comments dropped, with the number of the first."""
    start, joined = 0, ""
    for number, line in enumerate(text.splitlines(), start=1):
        line = _COMMENT.sub("", line).strip()
        if not joined:
            start = number
        continues = line.endswith("\\")
        joined += f" {line.rstrip(chr(92))}"
        if not continues:
            if joined.strip():
                yield start, joined.strip()
            joined = ""
    if joined.strip():
        yield start, joined.strip()


def main(arguments: Sequence[str] | None = None) -> int:
    """Check locks and return the exit status: 0 all is well, 1 something is not, and standard error says what."""
    paths = [Path(argument) for argument in (sys.argv[1:] if arguments is None else arguments)]
    paths = paths or sorted(FOLDER.glob("*.lock"))
    denied = denied_versions(DENYLIST.read_text(encoding="utf-8"))
    wrong = [
        f"{path}:{number}: {message}"
        for path in paths
        for number, message in problems(path.read_text(encoding="utf-8"), denied)
    ]
    if not paths:
        wrong = [f"{FOLDER}: there is no lock"]
    for line in wrong:
        print(line, file=sys.stderr)
    if not wrong:
        print(f"{len(paths)} locks: every requirement is pinned and hashed, none is denied")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
