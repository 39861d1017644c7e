"""Under what an answer is kept, and whether a request may be given a kept one."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.datastructures import Headers

from llmrouter.encoders import chat_text
from service.cache.directives import read_directives
from service.cache.settings import CacheScope, CacheSettings

# They change how an answer is sent, who is told of it or what it is filed under, not the answer.
_IRRELEVANT = frozenset({
    "stream", "stream_options", "user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "metadata",
    "store",
})  # fmt: skip
# The answer of one who looks things up, or of one who speaks, is for once.
_LIVE = ("web_search_options", "plugins", "audio")
_OWN_TOOLS = frozenset({"function", "custom"})
# Models write the fields of a schema in its order: here the order of keys is part of the question.
_ORDERED = ("response_format", "tools", "functions")

_PERSON = b"llmrouter-cache"
_KEY_BYTES = 20

# Encoders read the beginning of a text only: two that differ behind it would look the same.
_LONGEST_QUESTION_BYTES = 768
# Without spaces between words, the guard of similar questions sees no words.
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff]")


@dataclass(slots=True, eq=False)
class CachePlan:
    """What the cache may do for one request; belongs to its task.

    Attributes
    ----------
    key : bytes
        The same for requests with the same answer; b"" where none may be kept.
    scope : str
        Who shares answers: ``key:ID``, ``team:NAME`` or ``global``.
    may_read, may_store : bool
        Whether the request may be given a kept answer, and whether its answer may be kept.
    max_age_s : float or None
        It wants no older one.
    only_if_cached : bool
        It wants no model to be asked.
    choices : int
        How many answers it asks for.
    frame : bytes
        The same for requests that differ in the text of the last user message only; b"" where a similar question must
        not be answered alike.
    question : str or None
        That text, where there is a frame: what an embedding has to be of.
    embedding : ndarray of shape (d,), float32, or None
        Of `question`, once it is known.
    leads : bool
        Whether requests that are the same wait for this one.
    """

    key: bytes
    scope: str
    may_read: bool = True
    may_store: bool = True
    max_age_s: float | None = None
    only_if_cached: bool = False
    choices: int = 1
    frame: bytes = b""
    question: str | None = None
    embedding: NDArray[np.float32] | None = None
    leads: bool = False


def make_plan(
    settings: CacheSettings,
    endpoint: str,
    body: Mapping[str, Any],
    headers: Headers,
    *,
    key_id: str | None,
    team: str | None,
    models: Sequence[str] | None,
) -> CachePlan | None:
    """Return the plan of a request, None where the cache has no part in it; see `Cache.plan`."""
    asked = read_directives(headers)
    scope = scope_of(settings.scope, key_id=key_id, team=team)
    key = None
    if not asked.no_store and keepable(body, only_deterministic=settings.only_deterministic):
        key = digest(scope, endpoint, models, body)
    if key is None:
        if not asked.only_if_cached:
            return None
        return CachePlan(b"", scope, may_read=False, may_store=False, only_if_cached=True)
    plan = CachePlan(
        key,
        scope,
        may_read=not asked.no_cache,
        max_age_s=asked.max_age_s,
        only_if_cached=asked.only_if_cached,
        choices=body.get("n") or 1,
    )
    if settings.semantic.enabled and (question := question_of(body)) is not None:
        plan.question = question
        plan.frame = digest(scope, endpoint, models, _without_question(body)) or b""
    return plan


def scope_of(scope: CacheScope, *, key_id: str | None, team: str | None) -> str:
    """Return who shares answers with a key; requests without a key share theirs with each other."""
    if scope == "global":
        return "global"
    if scope == "team" and team is not None:
        return f"team:{team}"
    return "key:" if key_id is None else f"key:{key_id}"


def keepable(body: Mapping[str, Any], *, only_deterministic: bool) -> bool:
    """Return whether the answer to a body may be kept.

    Not kept is what was to be stored at the provider (``store``), what looks things up elsewhere (web search, plug-ins,
    tools that the provider runs) and speech. Calls of the client's own tools are kept: they are what the model said.
    """
    if body.get("store") or any(body.get(name) for name in _LIVE) or "audio" in (body.get("modalities") or ()):
        return False
    for tool in body.get("tools") or ():
        if not isinstance(tool, Mapping) or tool.get("type", "function") not in _OWN_TOOLS:
            return False
    return not only_deterministic or body.get("temperature") == 0 or body.get("seed") is not None


def digest(scope: str, endpoint: str, models: Sequence[str] | None, body: Mapping[str, Any]) -> bytes | None:
    """Return the key of a body: equal for equal questions of one scope, whatever the order of its JSON keys.

    Returns
    -------
    bytes or None
        None for a body that has no JSON.
    """
    relevant = {name: value for name, value in body.items() if value is not None and name not in _IRRELEVANT}
    if relevant.get("n") == 1:
        del relevant["n"]
    try:
        ordered = [orjson.dumps(relevant.pop(name)) for name in _ORDERED if name in relevant]
        text = orjson.dumps([scope, endpoint, models, len(ordered), relevant], option=orjson.OPT_SORT_KEYS)
    except TypeError:
        return None
    return hashlib.blake2b(b"\n".join((text, *ordered)), digest_size=_KEY_BYTES, person=_PERSON).digest()


def question_of(body: Mapping[str, Any]) -> str | None:
    """Return the text of the last message, if a similar one could be answered alike; None where it must not.

    It has to be a user's, short, in words with spaces between them, and asked without tools, of a single answer.
    """
    messages = body.get("messages")
    if not messages or body.get("tools") or body.get("functions") or (body.get("n") or 1) != 1:
        return None
    last = messages[-1]
    if last.get("role") != "user":
        return None
    text = chat_text([last])
    if not text or len(text.encode("utf-8", "replace")) > _LONGEST_QUESTION_BYTES or _UNSPACED.search(text):
        return None
    return text


def _without_question(body: Mapping[str, Any]) -> dict[str, Any]:
    last = body["messages"][-1]
    content = last["content"]
    rest = [part for part in content if "text" not in part] if isinstance(content, list) else []
    return {**body, "messages": [*body["messages"][:-1], {**last, "content": rest}]}
