"""What is asked of the upstreams: which endpoints they serve themselves, and with which path and body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from service.call import Call
from service.dialects import without_cache_control
from service.endpoints import CHAT, MESSAGES, RESPONSES, Endpoint
from service.settings import ModelSettings


class Upstreams:
    """The upstreams of a pool.

    Parameters
    ----------
    models : mapping of str to ModelSettings
        Pool name -> its settings.
    """

    def __init__(self, models: Mapping[str, ModelSettings]) -> None:
        self._models = models
        self._natives: dict[str, tuple[str, ...]] = {}

    def native(self, endpoint: Endpoint) -> tuple[str, ...]:
        """Return the models whose upstreams serve an endpoint themselves."""
        found = self._natives.get(endpoint.name)
        if found is None:
            found = tuple(name for name, model in self._models.items() if endpoint.name in model.endpoints)
            self._natives[endpoint.name] = found
        return found

    def serves(self, name: str | None, endpoint: Endpoint) -> bool:
        """Return whether the upstream of a model serves an endpoint itself; all that generate serve chat."""
        return endpoint is CHAT or name in self.native(endpoint)

    def request(self, call: Call, name: str) -> tuple[str, Mapping[str, Any]]:
        """Return path and body for one model; streams are asked for their usage, whether or not the client asked."""
        chat = call.chat
        native = self.serves(name, chat.endpoint)
        path = chat.endpoint.upstream if native else CHAT.upstream
        body = chat.original if native and chat.endpoint is not CHAT else chat.body
        model = self._models[name]
        if chat.endpoint is MESSAGES and not model.cache_control:
            body = without_cache_control(body)
        if model.max_tokens_field is not None and path == CHAT.upstream:
            body = _with_limit_as(body, model.max_tokens_field)
        ask = chat.stream and path != RESPONSES.upstream and model.stream_usage
        if not ask or (chat.usage_asked and native):
            return path, body
        return path, {**body, "stream_options": {**(body.get("stream_options") or {}), "include_usage": True}}


def _with_limit_as(body: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    """Return the body with its limit on output tokens under the name that the upstream knows."""
    other = "max_tokens" if field == "max_completion_tokens" else "max_completion_tokens"
    if body.get(other) is None:
        return body
    renamed = {key: value for key, value in body.items() if key != other}
    renamed.setdefault(field, body[other])
    return renamed
