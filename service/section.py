"""The base of every section of the configuration."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A section: unknown keys are refused, values are frozen, and no value is quoted in errors (it may be secret)."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
