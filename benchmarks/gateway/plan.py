"""What is measured: the cells of the benchmark."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

UPSTREAM_S = 0.05
"""Time the upstream takes in the open loop: until its answer, or until the first event of a stream."""

TOKEN_GAP_S = 0.005
"""Between the events of a stream in the open loop."""

ANCHOR_RATE = 300.0
"""Requests per second at which the issue sets its targets for added latency."""

ANCHOR_CONCURRENCY = 16
"""Connections of the closed loop from which requests per core are taken."""

_RATES = (5.0, 20.0, 50.0, 100.0, 200.0, ANCHOR_RATE, 500.0, 1000.0)


@dataclass(frozen=True, slots=True)
class Cell:
    """One thing to measure.

    Attributes
    ----------
    concurrency : int
        Of the closed loop, over an upstream that answers at once; 0 is an open loop.
    rate : float
        Of the open loop, over an upstream that takes `UPSTREAM_S`.
    stream : bool
        Whether answers are streamed.
    seconds : float
        Length.
    """

    concurrency: int = 0
    rate: float = 0.0
    stream: bool = False
    seconds: float = 4.0

    @property
    def name(self) -> str:
        """E.g. ``closed-16``, ``open-300-stream``."""
        loop = f"closed-{self.concurrency}" if self.concurrency else f"open-{self.rate:g}"
        return f"{loop}-stream" if self.stream else loop

    @property
    def behaviour(self) -> dict[str, float]:
        """What the upstream is told; see `benchmarks.gateway.echo.Behaviour`."""
        if self.concurrency:
            return {}
        return {"delay_s": UPSTREAM_S, "first_token_s": UPSTREAM_S, "token_gap_s": TOKEN_GAP_S}

    def document(self) -> dict[str, Any]:
        """Return it for the results."""
        return {"name": self.name, **asdict(self), **self.behaviour}


def cells(seconds: float, *, quick: bool) -> list[Cell]:
    """Return the cells of a round, the open loop by rising rate."""
    if quick:
        return [
            Cell(concurrency=ANCHOR_CONCURRENCY, seconds=seconds),
            Cell(concurrency=ANCHOR_CONCURRENCY, stream=True, seconds=seconds),
            Cell(rate=50.0, seconds=seconds),
            Cell(rate=ANCHOR_RATE, seconds=seconds),
        ]
    return [
        *(Cell(concurrency=number, seconds=seconds) for number in (1, ANCHOR_CONCURRENCY, 64)),
        Cell(concurrency=ANCHOR_CONCURRENCY, stream=True, seconds=seconds),
        *(Cell(rate=rate, seconds=seconds) for rate in _RATES),
        *(Cell(rate=rate, stream=True, seconds=seconds) for rate in (5.0, 50.0)),
    ]
