"""Settings of changes to the pool while it is served."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from service.section import Section


class ModelsSettings(Section):
    """Changes of the pool by ``llmrouter models`` and ``/admin/models``, kept beside the configuration.

    Attributes
    ----------
    overlay : Path
        The file that holds them. It is merged over `pool` and `router.artifact` whenever the configuration is read, and
        watched like the configuration: every replica that sees the file follows.
    artifacts : Path
        Where artifacts are written, unless `router.artifact` is a link: then beside what it leads to.
    work : Path or None
        Where answers that were paid for and the state of jobs are kept; None is the overlay's name with ``.work``.
    max_usd : float
        What one job over HTTP may spend at most, whatever it asks for.
    window_days : float
        How far back the log is read for prompts.
    most_prompts : int
        How many of its newest prompts are looked at.
    niceness : int
        How far a job over HTTP stands back while others want the processor, 0 (not at all) to 19.
    variables : tuple of str
        Environment variables that an entry given over HTTP may name, e.g. in `api_key`. Empty: none.
    """

    overlay: Path
    artifacts: Path = Path("artifacts")
    work: Path | None = None
    max_usd: NonNegativeFloat = 10.0
    window_days: PositiveFloat = 30.0
    most_prompts: PositiveInt = 5000
    niceness: Annotated[int, Field(ge=0, le=19)] = 10
    variables: tuple[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], ...] = ()

    @property
    def folder(self) -> Path:
        """Where answers and jobs are kept."""
        return self.overlay.with_name(self.overlay.name + ".work") if self.work is None else self.work
