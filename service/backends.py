"""The backends of the pool, as configured."""

from __future__ import annotations

from typing import Any

from llmrouter import registry
from llmrouter.pool import Backend, HTTPSessions
from service.resilience.settings import DeploymentSettings
from service.resilience.state import Resilience
from service.settings import ModelSettings, Settings


def build_backends(settings: Settings, sessions: HTTPSessions, resilience: Resilience) -> dict[str, Backend]:
    """Construct the backend of every model of the pool.

    Raises
    ------
    ConfigError
        If a backend refuses its parameters.
    """
    return {model.name: _build_model(model, sessions, resilience) for model in settings.pool}


def _build_model(model: ModelSettings, sessions: HTTPSessions, resilience: Resilience) -> Backend:
    if not model.deployments:
        return _build_backend(model, model, sessions)
    return resilience.balanced(
        model.name, [(deployment, _build_backend(model, deployment, sessions)) for deployment in model.deployments]
    )


def _build_backend(model: ModelSettings, place: ModelSettings | DeploymentSettings, sessions: HTTPSessions) -> Backend:
    kind = place.backend or model.backend
    base_url, api_key = place.base_url or model.base_url, place.api_key or model.api_key
    headers = place.headers or model.headers
    parameters: dict[str, Any] = {"name": model.name, "model": place.model or model.model or model.name}
    if base_url is not None:
        parameters["base_url"] = base_url
    if api_key is not None:
        parameters["api_key"] = api_key.get_secret_value()
    if headers:
        parameters["headers"] = {key: value.get_secret_value() for key, value in headers.items()}
    if kind == "openai":
        parameters["sessions"] = sessions
    backend: Backend = registry.create("backend", kind, **parameters, **{**model.options, **place.options})
    return backend
