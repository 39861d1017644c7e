"""Render ``docs/conformance.md`` from the marks in the tests: ``python tests/conformance/conformance_table.py``."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from conformance_items import COMPLAINTS, DEVIATIONS, ELSEWHERE
from known_gaps import GAPS

HERE = Path(__file__).parent
PAGE = HERE.parent.parent / "docs" / "conformance.md"

_HEAD = """# Conformance

Where the gateway is to be as if it were not there, and the test that shows it. This page is written by
`python tests/conformance/conformance_table.py` from the marks in the tests, and a test compares the two. Tests without
a folder are in `tests/conformance`, the others below `tests`.
"""
_CLIENTS = """
## Clients

Through a live gateway over a scripted upstream, with `model: auto` and with a model of the client's choice:

| tests | client | what |
|---|---|---|
| `test_conformance_openai.py` | `openai` | chat, streams, schemas, tools, responses, completions, embeddings |
| `test_conformance_anthropic.py` | `anthropic` | messages, streams, tools, schemas, thinking, images, counting |
| `test_conformance_langchain.py` | LangChain | `ChatOpenAI` over chat and over responses, `OpenAIEmbeddings` |
| `test_conformance_llama_index.py` | LlamaIndex | `OpenAILike`: chat, complete, streams, tools, schemas |

Models behind LiteLLM answer the same clients: `test_conformance_litellm_backend.py`.
"""
_CORPUS = """
## Corpus

`tests/conformance/corpus` holds what upstreams do, byte for byte. Each exchange is played over a real socket. What
comes back is compared to the byte where it is relayed, and read with the official clients where it is translated. Its
outcome (status, tokens, cost) is compared too, and must be recorded once.

| file | exchanges | what |
|---|---|---|
"""
_FILES: Mapping[str, str] = {
    "streams": "streamed answers: cutting, line ends, fields, usage, ends, errors, heads",
    "tool_streams": "streamed calls of functions",
    "whole_answers": "answers in one piece, and what is none",
    "errors": "every status, with the shapes of errors that providers and proxies have",
    "native": "responses and legacy completions of upstreams that serve them themselves",
}


def marked_tests() -> Iterator[tuple[str, str]]:
    """Yield (item, test) for each mark in the tests of this folder."""
    for file in sorted(HERE.glob("test_conformance_*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and isinstance(mark.func, ast.Name) and mark.func.id == "shows":
                    for item in mark.args:
                        assert isinstance(item, ast.Constant)
                        yield str(item.value), f"{file.name}::{node.name}"


def shown_by() -> dict[str, list[str]]:
    """Return the tests that show each item, those of other folders last."""
    found: dict[str, list[str]] = {item: [] for item in (*DEVIATIONS, *COMPLAINTS)}
    for item, test in (*marked_tests(), *ELSEWHERE.items()):
        found[item].append(test)
    return found


def render() -> str:
    """Return the page."""
    tests = shown_by()
    parts = [_HEAD]
    for title, items in (
        ("Where gateways deviate from the API", DEVIATIONS),
        ("What users of gateways complain about", COMPLAINTS),
    ):
        parts.append(f"\n## {title}\n\n| what | shown by |\n|---|---|\n")
        parts += [f"| {what} | {'; '.join(map(_cell, tests[item]))} |\n" for item, what in items.items()]
    parts += [_CLIENTS, _CORPUS]
    for name, what in _FILES.items():
        parts.append(f"| `{name}.json` | {_count(name)} | {what} |\n")
    if GAPS:
        parts.append("\n## Known gaps\n\nThese tests fail as of now, and the suite says so when they no longer do.\n\n")
        parts += [f"- {reason}\n" for reason in dict.fromkeys(GAPS.values())]
    return "".join(parts)


def _cell(test: str) -> str:
    gap = any(re.search(pattern, test + "[") or re.search(re.escape(test), pattern) for pattern in GAPS)
    return f"`{test}`{' (a known gap)' if gap else ''}"


def _count(name: str) -> int:
    entries = json.loads((HERE / "corpus" / f"{name}.json").read_text(encoding="utf-8"))
    return sum(len(entry.get("each_status", (None,))) for entry in entries)


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
