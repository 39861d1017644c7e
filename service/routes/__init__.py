"""The HTTP routes, one module an endpoint."""

from fastapi import APIRouter

from service.routes import chat, feedback, health, models, outcomes, route

# The busiest first: they are matched in this order.
ALL_ROUTES: tuple[APIRouter, ...] = tuple(module.routes for module in (chat, models, feedback, outcomes, route, health))

__all__ = ["ALL_ROUTES"]
