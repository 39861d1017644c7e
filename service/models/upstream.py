"""The backend of one model, apart from a running gateway."""

from __future__ import annotations

from llmrouter.pool import Backend, HTTPSessions
from service.backends import build_backends
from service.resilience.state import Resilience
from service.settings import ModelSettings, Settings


def backend_of(settings: Settings, model: ModelSettings, sessions: HTTPSessions) -> Backend:
    """Return what reaches a model.

    Raises
    ------
    ConfigError
        If the backend refuses its parameters.
    """
    alone = settings.model_copy(update={"pool": (model,)})
    return build_backends(alone, sessions, Resilience(alone.resilience, (model.name,)))[model.name]
