"""What a request's ``Cache-Control`` header asks for (RFC 9111, section 5.2.1)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from starlette.datastructures import Headers

# A name, and maybe a value; commas within quotes separate nothing.
_DIRECTIVE = re.compile(r'([^\s,=;"]+)\s*(?:=\s*("(?:[^"\\]|\\.)*"|[^\s,]*))?')
_LONGEST_AGE_S = 2**31


@dataclass(frozen=True, slots=True)
class Directives:
    """The directives that mean something here; others are ignored, ``max-stale`` and ``no-transform`` among them.

    Attributes
    ----------
    no_cache : bool
        Give no kept answer, but keep the new one.
    no_store : bool
        Neither.
    max_age_s : float or None
        Give no older one.
    only_if_cached : bool
        Ask no model.
    """

    no_cache: bool = False
    no_store: bool = False
    max_age_s: float | None = None
    only_if_cached: bool = False


NOTHING_ASKED = Directives()
"""Of a request without the header."""


def read_directives(headers: Headers) -> Directives:
    """Return what the request asks for; what is not understood is ignored.

    An unreadable ``max-age`` counts as 0: its sender wants something fresh. Of several the smallest holds.
    """
    fields = headers.getlist("cache-control")
    return parse_directives(",".join(fields)) if fields else NOTHING_ASKED


def parse_directives(text: str) -> Directives:
    """Parse the value of the header; see `read_directives`."""
    given: dict[str, float] = {}
    for name, value in _DIRECTIVE.findall(text):
        age = _seconds(value)
        name = name.lower()
        given[name] = min(given.get(name, age), age)
    max_age_s = given.get("max-age")
    return Directives(
        no_cache="no-cache" in given or max_age_s == 0,
        no_store="no-store" in given,
        max_age_s=max_age_s,
        only_if_cached="only-if-cached" in given,
    )


def _seconds(value: str) -> float:
    value = value.strip('"').strip()
    return float(min(int(value), _LONGEST_AGE_S)) if value.isdecimal() and len(value) < len(str(10**18)) else 0.0
