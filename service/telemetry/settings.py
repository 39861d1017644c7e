"""Settings of this package."""

from __future__ import annotations

from service.section import Section


class TelemetrySettings(Section):
    """See the module."""
