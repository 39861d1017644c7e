"""Asking an address what answers there; no tokens are spent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from llmrouter.pool import HTTPSessions
from service.engines.kinds import OURS, EngineKind, kind_of

_MOST_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that is served: its name, and the tokens it takes where the engine says (prompt and completion)."""

    name: str
    context_window: int | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What answers at a base URL.

    Attributes
    ----------
    base_url : str
        Where.
    trouble : str
        Why nobody can be asked there; "" where somebody can.
    kind : EngineKind or None
        Which engine, where its list of models tells.
    version : str
        Its version, where it tells.
    models : tuple of ServedModel or None
        What is served; None where it does not say.
    reports_load : bool
        Whether ``load`` below the base URL answers (see `service.loads`).
    """

    base_url: str
    trouble: str = ""
    kind: EngineKind | None = None
    version: str = ""
    models: tuple[ServedModel, ...] | None = None
    reports_load: bool = False

    def serves(self, name: str) -> bool | None:
        """Return whether a model of that name is served; None where that is not known."""
        if self.models is None:
            return None
        served = {model.name for model in self.models}
        return name in served or bool(self.kind and self.kind.default_tag and name + self.kind.default_tag in served)

    def context_window(self, name: str) -> int | None:
        """Return how many tokens a model takes, where the engine says."""
        return next((model.context_window for model in self.models or () if model.name == name), None)


async def look(
    base_url: str, sessions: HTTPSessions, *, headers: Mapping[str, str] | None = None, timeout_s: float = 5.0
) -> Found:
    """Ask a base URL which models it serves, and the engine how it is.

    Parameters
    ----------
    base_url : str
        As in a pool entry, e.g. ``http://localhost:8000/v1``.
    sessions : HTTPSessions
        Connections.
    headers : mapping of str to str, optional
        Sent below the base URL only: what lies beside it (health, version) asks for no key.
    timeout_s : float
        For each question.
    """
    base = base_url.rstrip("/")
    asking = _Asking(sessions, base, timeout_s)
    status, body = await asking.get(f"{base}/models", headers or {})
    if trouble := _trouble(status, body):
        return Found(base_url, trouble)
    entries = _entries(body) if status == 200 else None
    if entries is None:
        return Found(base_url)
    kind = kind_of([(str(entry.get("id")), str(entry.get("owned_by", ""))) for entry in entries])
    models = tuple(ServedModel(str(entry.get("id")), _window(entry)) for entry in entries)
    if kind is None:
        return Found(base_url, models=models)
    root = base.removesuffix("/v1")
    status, body = await asking.get(root + kind.health, {})
    trouble = "" if status == 200 else f"{kind.name} is not ready: {kind.health} {_answered(status, body)}"
    version = ""
    if kind.version:
        _, told = await asking.get(root + kind.version, {})
        version = str(told.get("version", "")) if isinstance(told, Mapping) else ""
    reports = kind is OURS and (await asking.get(f"{base}/load", headers or {}))[0] == 200
    return Found(base_url, trouble, kind, version, models, reports)


@dataclass(frozen=True, slots=True)
class _Asking:
    sessions: HTTPSessions
    base: str
    timeout_s: float

    async def get(self, url: str, headers: Mapping[str, str]) -> tuple[int, Any]:
        """Return status and JSON (None where it is none); status 0 and the trouble where nobody answers."""
        try:
            async with self.sessions.session(self.base).get(
                url, headers=headers, allow_redirects=False, timeout=aiohttp.ClientTimeout(total=self.timeout_s)
            ) as response:
                body = await response.content.read(_MOST_BYTES)
                while not response.content.at_eof() and len(body) < _MOST_BYTES:
                    body += await response.content.read(_MOST_BYTES - len(body))
                return response.status, _json(body)
        except TimeoutError:
            return 0, f"no answer within {self.timeout_s:g} s"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return 0, f"no answer ({type(error).__name__})"


def _trouble(status: int, body: Any) -> str:
    if status in (401, 403):
        return f"answered {status}: check api_key"
    return _answered(status, body) if status == 0 or status >= 500 else ""


def _answered(status: int, body: Any) -> str:
    if status == 0:
        return str(body)
    error = body.get("error") if isinstance(body, Mapping) else None
    message = error.get("message") if isinstance(error, Mapping) else None
    return f"answered {status}" + (f" ({message:.80})" if isinstance(message, str) else "")


def _entries(body: Any) -> list[Mapping[str, Any]] | None:
    data = body.get("data") if isinstance(body, Mapping) else None
    if not isinstance(data, list):
        return None
    return [entry for entry in data if isinstance(entry, Mapping) and isinstance(entry.get("id"), str)]


def _window(entry: Mapping[str, Any]) -> int | None:
    # vLLM, SGLang and service.moe tell it. What llama.cpp has under `meta` is what the model was trained with.
    window = entry.get("max_model_len")
    return window if isinstance(window, int) and not isinstance(window, bool) and window > 0 else None


def _json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
