"""Settings of this package."""

from __future__ import annotations

from service.section import Section


class ResilienceSettings(Section):
    """See the module."""
