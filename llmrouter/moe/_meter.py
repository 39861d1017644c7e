"""How busy an engine is, how fast, and what one more token costs at its present load."""

from __future__ import annotations

import bisect
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llmrouter.exceptions import ConfigError
from llmrouter.moe._step_cost import Company, StepFit, StepTime

_FORGET = 0.99  # weight of the past at each step: the last few hundred steps count
_SECONDS_AN_HOUR = 3600.0
_JOULES_A_KWH = 3.6e6
_LATENCIES_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True, slots=True)
class MachinePrice:
    """What the machine costs, for the cost of a token; all zero where nobody said.

    Attributes
    ----------
    usd_per_hour : float
        Rent or write-off, paid for the hours in which the machine computes.
    busy_watts, idle_watts : float
        Power drawn while computing and while waiting, by your own measurement or the data sheet.
    usd_per_kwh : float
        Price of electricity where the hour's price does not hold it.

    Raises
    ------
    ConfigError
        If a value is negative, or it is busier when idle.
    """

    usd_per_hour: float = 0.0
    busy_watts: float = 0.0
    idle_watts: float = 0.0
    usd_per_kwh: float = 0.0

    def __post_init__(self) -> None:
        for name in ("usd_per_hour", "busy_watts", "idle_watts", "usd_per_kwh"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise ConfigError(f"{name} is {value}; it must be a number of at least 0")
        if self.idle_watts > self.busy_watts:
            raise ConfigError(f"idle_watts is {self.idle_watts}, above busy_watts ({self.busy_watts}); give both")

    def cost(self, machine_s: float) -> TokenCost:
        """Return what so many seconds of the machine cost, energy counted over what it draws when idle."""
        joules = machine_s * (self.busy_watts - self.idle_watts)
        usd = machine_s * self.usd_per_hour / _SECONDS_AN_HOUR + joules * self.usd_per_kwh / _JOULES_A_KWH
        return TokenCost(machine_s, usd, joules)


@dataclass(frozen=True, slots=True)
class TokenCost:
    """Of one token: seconds of the machine, US dollars, and joules (an estimate from the machine's price)."""

    machine_s: float
    usd: float
    joules: float


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What a request would meet now.

    Attributes
    ----------
    running, waiting : int
        Requests generating and in the queue.
    measured : bool
        Whether the parts of a step were measured; else batches of one size only were seen, and `output` is an equal
        share of such a step at any load.
    company : float
        Requests that are expected to share a step with one that comes now, itself included: the recent mean.
    step : StepTime or None
        What a step takes by its rows.
    seconds_per_input_token, seconds_per_output_token : float or None
        Time that one more request would take for a token, other models of the process included; None before the first
        measurement.
    input, output : TokenCost or None
        Cost of one more token; of an output token its own seconds and its share of the step's fixed part.
    average_output : TokenCost or None
        Cost of an output token if exactly those running share the machine's time.
    """

    running: int
    waiting: int
    measured: bool
    company: float
    step: StepTime | None
    seconds_per_input_token: float | None
    seconds_per_output_token: float | None
    input: TokenCost | None
    output: TokenCost | None
    average_output: TokenCost | None


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of observations up to each bound, the last one without a bound, and their sum."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float


class _Observations:
    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def add(self, value: float, times: int = 1) -> None:
        self._counts[bisect.bisect_left(self._bounds, value)] += times
        self._total += value * times

    def histogram(self) -> Histogram:
        return Histogram(self._bounds, tuple(self._counts), self._total)


class LoadMeter:
    """Measurements of one engine's steps; written by its worker, read from anywhere.

    The time of a decoding step is fitted as ``fixed + slope * rows``. A token costs ``slope + fixed / company``, where
    company is the recent mean of requests that generate, an idle machine counted as one. On a machine that idles that
    is the whole step; in company it falls, and never to nothing; and it moves as slowly as the mean. While the load is
    steady, what all tokens are said to cost comes to the time that the machine computed. The margin in the strict
    sense, `slope`, leaves the fixed part to nobody.

    Parameters
    ----------
    clock : callable
        Gives seconds that do not go back.

    Attributes
    ----------
    busy_s : float
        Seconds computed in all, on prompts, embeddings and answers.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._fit = StepFit()
        self._company = Company(clock())
        self._others_s = 0.0
        self._prefill_tokens = self._prefill_s = 0.0
        self._first_token = _Observations(_LATENCIES_S)
        self._between_tokens = _Observations(_LATENCIES_S)
        self._batch_rows = _Observations(_ROWS)
        self.input_tokens = 0
        self.output_tokens = 0
        self.busy_s = 0.0
        self.finished: dict[str, int] = dict.fromkeys(
            ("stop", "length", "tool_calls", "embedded", "failed", "cancelled", "refused"), 0
        )

    def generated(self, tokens: int) -> None:
        """Count output tokens."""
        with self._lock:
            self.output_tokens += tokens

    def prefilled(self, tokens: int, seconds: float, first_token_s: Sequence[float]) -> None:
        """Count a prefill of `tokens` prompt tokens, and its prompts' times to the first token."""
        with self._lock:
            self.input_tokens += tokens
            self.busy_s += seconds
            self._prefill_tokens = _FORGET * self._prefill_tokens + tokens
            self._prefill_s = _FORGET * self._prefill_s + seconds
            for latency in first_token_s:
                self._first_token.add(latency)

    def decoded(self, rows: int, seconds: float, between_s: Sequence[float]) -> None:
        """Count a decoding step of `rows` rows, and the time since each row's last token."""
        with self._lock:
            self._fit.add(rows, seconds)
            self.busy_s += seconds
            # The least wait: rows that sat through a prefill of others waited longer, which is not the usual.
            waited = max(min(between_s, default=seconds) - seconds, 0.0)
            self._others_s = _FORGET * self._others_s + (1 - _FORGET) * waited
            self._batch_rows.add(rows)
            for latency in between_s:
                self._between_tokens.add(latency)

    def present(self, running: int) -> None:
        """Say how many requests generate from now on."""
        with self._lock:
            self._company.set(running, self._clock())

    def ended(self, how: str) -> None:
        """Count a request that ended: a finish reason, "embedded", "failed", "cancelled", or "refused" at the queue."""
        with self._lock:
            self.finished[how] += 1

    def histograms(self) -> tuple[Histogram, Histogram, Histogram]:
        """Return times to the first token, times between tokens (both in seconds), and rows of decoding steps."""
        with self._lock:
            return (
                self._first_token.histogram(),
                self._between_tokens.histogram(),
                self._batch_rows.histogram(),
            )

    def report(self, price: MachinePrice, *, running: int, waiting: int, max_batch: int) -> LoadReport:
        """Return the cost of one more token beside `running` requests."""
        with self._lock:
            prefill_s = self._prefill_s / self._prefill_tokens if self._prefill_tokens else None
            step = self._fit.time()
            company = self._company.mean(self._clock())
            others_s = self._others_s
        entry = None if prefill_s is None else price.cost(prefill_s)
        output = average = step_s = None
        if step is not None:
            step_s = step.of(min(running + 1, max_batch))
            output = price.cost(step.share(company))
            average = price.cost(step.share(max(running, 1)))
        return LoadReport(
            running=running,
            waiting=waiting,
            measured=step is not None and step.measured,
            company=company,
            step=step,
            seconds_per_input_token=prefill_s,
            seconds_per_output_token=None if step_s is None else step_s + others_s,
            input=entry,
            output=output,
            average_output=average,
        )
