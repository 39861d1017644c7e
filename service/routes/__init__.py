"""The HTTP routes, one module an endpoint."""

from collections.abc import Mapping

from fastapi import APIRouter
from starlette.types import ASGIApp

from service.routes.admin import routes as admin
from service.routes.admin_models import routes as admin_models
from service.routes.audit import routes as audit
from service.routes.embeddings import routes as embeddings
from service.routes.feedback import routes as feedback
from service.routes.generate import GENERATING, TokenCountEndpoint
from service.routes.health import routes as health
from service.routes.learning import routes as learning
from service.routes.metrics import routes as metrics
from service.routes.models import routes as models
from service.routes.outcomes import routes as outcomes
from service.routes.route import routes as route

ALL_ROUTES: tuple[APIRouter, ...] = (
    embeddings,
    models,
    feedback,
    outcomes,
    route,
    health,
    metrics,
    admin,
    admin_models,
    learning,
    audit,
)
"""The busiest first: they are matched in this order."""

SHORTCUTS: Mapping[str, ASGIApp] = {**GENERATING, "/v1/messages/count_tokens": TokenCountEndpoint()}
"""Path -> application, for the endpoints that do not go through the web framework's layers."""

__all__ = ["ALL_ROUTES", "SHORTCUTS"]
