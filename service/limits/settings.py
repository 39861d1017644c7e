"""Settings of this package."""

from __future__ import annotations

from service.section import Section


class LimitsSettings(Section):
    """See the module."""


class RedisSettings(Section):
    """See the module."""
