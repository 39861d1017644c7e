"""Settings of the learning loop, one section a part."""

from __future__ import annotations

from service.section import Section


class LearningSettings(Section):
    """How the gateway learns from its own traffic; everything is off unless its section is there."""
