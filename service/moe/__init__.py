"""An OpenAI-compatible HTTP server over local mixture-of-experts models: ``python -m service.moe``."""

from service.moe.app import create_app

__all__ = ["create_app"]
