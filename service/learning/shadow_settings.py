"""Settings of the shadow: another artifact decides, and nothing is done about it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from service.section import Section


class ShadowSettings(Section):
    """A second artifact whose decisions are logged beside those that are acted on.

    Attributes
    ----------
    artifact : Path
        Folder (or link to one).
    share : float
        Of the requests that it decides too; each costs about as much work as the decision itself.
    """

    artifact: Path
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
