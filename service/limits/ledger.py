"""What every subject has used, and whether it may use more: the rules, without I/O and with time as an argument.

Requests and tokens
    The generic cell rate algorithm: a bucket that holds one minute's limit and refills steadily. In any window of `w`
    seconds at most ``limit x (1 + w / 60)`` are let through; over time, the limit.
Requests at the same time
    Exact.
Money
    ``spent + reserved + reservation <= budget``. What a request will cost is not known when it begins, so that the
    reservation is the caller's estimate or the largest cost that was seen so far (in this period and the last), if that
    is more. While nothing was seen, an estimate counts tenfold, and a request without one reserves all that is left. A
    request that is alone is let through if its estimate fits, and so no subject is locked out by one expensive request.
    An estimate of zero means a free model: it reserves nothing, and is let through whatever was spent.
    Requests that cost no more than they reserved never overspend together; one that costs more overspends by the
    difference.

The script in `service.limits.scripts` follows the same rules in Redis; a test compares the two step by step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from service.limits.periods import period_id
from service.limits.subjects import Subject

Dimension = Literal["requests", "tokens", "concurrency", "budget", "reserved"]

WINDOW_S = 60.0
UNSEEN_FACTOR = 10.0
"""What an estimate is multiplied with while no cost was seen."""

_EPSILON_S = 1e-6
_EPSILON_USD = 1e-9
_RETRY_S = 1.0
_NEVER_S = 1e9


class View(NamedTuple):
    """What a subject has used.

    Attributes
    ----------
    requests_full, tokens_full : float
        When its bucket is full again, in seconds since the epoch; in the past if it is.
    in_flight : int
        Requests under way.
    spent, reserved : float
        US dollars, in the present period.
    held : float
        US dollars reserved for the request at hand.
    """

    requests_full: float
    tokens_full: float
    in_flight: int
    spent: float
    reserved: float
    held: float


class Refusal(NamedTuple):
    """Why a request is not let through.

    Attributes
    ----------
    place : int
        Which of its subjects, in order, has not enough left.
    dimension : str
        Of what. ``reserved`` is a budget that requests under way may still use up.
    wait_s : float
        After how many seconds it may be.
    """

    place: int
    dimension: Dimension
    wait_s: float


class Verdict(NamedTuple):
    """An answer of a ledger: a refusal or None, the time, and a view of each subject."""

    refusal: Refusal | None
    now: float
    views: Sequence[View]


class Account:
    """What one subject has used."""

    __slots__ = (
        "held",
        "largest",
        "largest_before",
        "paying",
        "period",
        "requests_full",
        "reserved",
        "spent",
        "tokens_full",
    )

    def __init__(self) -> None:
        self.requests_full = 0.0
        self.tokens_full = 0.0
        # Request -> what it reserved.
        self.held: dict[str, float] = {}
        # How many of them reserved anything.
        self.paying = 0
        self.period = ""
        self.spent = 0.0
        self.reserved = 0.0
        self.largest = 0.0
        self.largest_before = 0.0

    def roll(self, period: str) -> None:
        """Begin a new period if it is one."""
        if self.period != period:
            if self.period:
                self.largest_before, self.largest = self.largest, 0.0
                self.spent = 0.0
            self.period = period

    def reservation(self, cost_usd: float | None, budget_usd: float) -> float:
        """Return what a request of this estimated cost (None is unknown) reserves."""
        seen = max(self.largest, self.largest_before)
        if seen > 0:
            return max(cost_usd or 0.0, seen)
        if cost_usd is None:
            return max(budget_usd - self.spent, 0.0)
        return cost_usd * UNSEEN_FACTOR

    def hold(self, grant: str, usd: float) -> None:
        """Reserve money for a request."""
        self.held[grant] = usd
        if usd > 0:
            self.reserved += usd
            self.paying += 1

    def release(self, grant: str) -> float | None:
        """Return what a request had reserved, which it does no longer; None if it is not under way."""
        usd = self.held.pop(grant, None)
        if usd:
            self.paying -= 1
            # Sums of fractions do not come out at zero by themselves.
            self.reserved = self.reserved - usd if self.paying else 0.0
        return usd

    def view(self, grant: str = "") -> View:
        """Return what is used."""
        held = self.held.get(grant, 0.0)
        return View(self.requests_full, self.tokens_full, len(self.held), self.spent, self.reserved, held)


class Ledger:
    """The accounts of all subjects.

    Attributes
    ----------
    accounts : dict of str to Account
        By the subject's name.
    dirty : set of str
        Subjects whose money has changed since somebody emptied the set.
    """

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}
        self.dirty: set[str] = set()

    def take(
        self,
        grant: str,
        subjects: Sequence[Subject],
        *,
        tokens: int,
        cost_usd: float | None,
        now: float,
        lenient: bool = False,
    ) -> Verdict:
        """Let a request through and count it for all subjects, or for none.

        Parameters
        ----------
        grant : str
            Names the request.
        subjects : sequence of Subject
            For whom it counts.
        tokens : int
            How many it will use.
        cost_usd : float or None
            US dollars that it will cost; None is unknown.
        now : float
            Seconds since the epoch.
        lenient : bool
            Let a request of more tokens than a minute allows through if the bucket is full.
        """
        accounts = [self._account(subject, now) for subject in subjects]
        refusal: Refusal | None = None
        reservations = []
        for place, (subject, account) in enumerate(zip(subjects, accounts, strict=True)):
            held, found = _check(subject, account, tokens=tokens, cost_usd=cost_usd, now=now, lenient=lenient)
            reservations.append(held)
            for dimension, wait_s in found:
                if refusal is None or wait_s > refusal.wait_s:
                    refusal = Refusal(place, dimension, wait_s)
        if refusal is None:
            for subject, account, held in zip(subjects, accounts, reservations, strict=True):
                self._apply(grant, subject, account, tokens=tokens, held=held, now=now)
        return Verdict(refusal, now, [account.view(grant) for account in accounts])

    def settle(
        self,
        grant: str,
        subjects: Sequence[Subject],
        *,
        tokens_taken: int,
        tokens: int | None,
        cost_usd: float | None,
        now: float,
    ) -> Verdict:
        """End a request: give back what it did not use; None is unknown and counts as taken."""
        for subject in subjects:
            account = self._account(subject, now)
            held = account.release(grant)
            if held is None:
                continue
            if subject.limits.tpm is not None and tokens is not None:
                _add_tokens(account, tokens - tokens_taken, subject.limits.tpm, now)
            if subject.limits.budget_usd is not None:
                account.spent += held if cost_usd is None else cost_usd
                account.largest = max(account.largest, cost_usd or 0.0)
                self.dirty.add(subject.name)
        return self.look(subjects, now=now)

    def cancel(self, grant: str, subjects: Sequence[Subject], *, tokens_taken: int, now: float) -> Verdict:
        """Take a request back, as if it had never been."""
        for subject in subjects:
            account = self._account(subject, now)
            held = account.release(grant)
            if held is None:
                continue
            if subject.limits.rpm is not None:
                account.requests_full -= WINDOW_S / subject.limits.rpm
            if subject.limits.tpm is not None:
                account.tokens_full -= tokens_taken * WINDOW_S / subject.limits.tpm
            if held:
                self.dirty.add(subject.name)
        return self.look(subjects, now=now)

    def look(self, subjects: Sequence[Subject], *, now: float) -> Verdict:
        """Return what the subjects have used."""
        return Verdict(None, now, [self._account(subject, now).view() for subject in subjects])

    def _account(self, subject: Subject, now: float) -> Account:
        account = self.accounts.get(subject.name)
        if account is None:
            account = self.accounts[subject.name] = Account()
        if subject.limits.budget_usd is not None:
            account.roll(period_id(subject.limits.budget_period, now))
        return account

    def _apply(self, grant: str, subject: Subject, account: Account, *, tokens: int, held: float, now: float) -> None:
        limits = subject.limits
        if limits.rpm is not None:
            account.requests_full = max(account.requests_full, now) + WINDOW_S / limits.rpm
        if limits.tpm is not None:
            account.tokens_full = max(account.tokens_full, now) + tokens * WINDOW_S / limits.tpm
        account.hold(grant, held)
        if held > 0:
            self.dirty.add(subject.name)


def _check(
    subject: Subject, account: Account, *, tokens: int, cost_usd: float | None, now: float, lenient: bool
) -> tuple[float, list[tuple[Dimension, float]]]:
    """Return what the request would reserve, and where that is not left, with seconds to wait."""
    limits = subject.limits
    found: list[tuple[Dimension, float]] = []
    if limits.rpm is not None:
        wait_s = max(account.requests_full, now) + WINDOW_S / limits.rpm - now - WINDOW_S
        if wait_s > _EPSILON_S:
            found.append(("requests", wait_s))
    if limits.tpm is not None and not (lenient and account.tokens_full <= now):
        wait_s = max(account.tokens_full, now) + tokens * WINDOW_S / limits.tpm - now - WINDOW_S
        if wait_s > _EPSILON_S:
            found.append(("tokens", wait_s))
    if limits.concurrency is not None and len(account.held) >= limits.concurrency:
        found.append(("concurrency", _RETRY_S))
    held = 0.0
    if limits.budget_usd is not None:
        held, dimension = _check_budget(account, cost_usd, limits.budget_usd)
        if dimension is not None:
            found.append((dimension, _NEVER_S if dimension == "budget" else _RETRY_S))
    return held, found


def _check_budget(account: Account, cost_usd: float | None, budget_usd: float) -> tuple[float, Dimension | None]:
    if cost_usd == 0:
        return 0.0, None
    held = account.reservation(cost_usd, budget_usd)
    left = budget_usd - account.spent
    if left <= _EPSILON_USD or (cost_usd or 0.0) > left + _EPSILON_USD:
        return held, "budget"
    if not account.paying:
        return max(min(held, left), cost_usd or 0.0), None
    # What has been learned of costs since they began holds for requests under way too.
    reserved = max(account.reserved, account.paying * max(account.largest, account.largest_before))
    return held, "reserved" if reserved + held > left + _EPSILON_USD else None


def _add_tokens(account: Account, tokens: int, tpm: int, now: float) -> None:
    start = max(account.tokens_full, now) if tokens > 0 else account.tokens_full
    account.tokens_full = start + tokens * WINDOW_S / tpm
