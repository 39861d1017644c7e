"""What is wanted of a key, from JSON or the command line: checked, each error naming field, value and remedy."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from service.body import json_kind
from service.config_problems import nearest
from service.errors import APIError
from service.keys.principal import PROMPTS, SCOPES

PERIODS = ("day", "week", "month", "total")
FIELDS = ("name", "team", "scopes", "models", "limits", "metadata", "expires", "explore", "prompts")
LIMITS = ("rpm", "tpm", "concurrency", "budget_usd", "budget_period")
DAY_S = 86_400.0

_LONGEST_NAME = 128
_LARGEST_LIMIT = 10**12
_MOST_MODELS = 1000
_MOST_PAIRS, _LONGEST_KEY, _LONGEST_VALUE = 16, 64, 512
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}")
_MODEL = re.compile(r"[A-Za-z0-9*][A-Za-z0-9._:/@+*-]{0,127}")
_DURATION = re.compile(r"(\d{1,9})([smhdw])")
_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": DAY_S, "w": 7 * DAY_S}


def read_new(body: Mapping[str, Any], *, now: float) -> dict[str, Any]:
    """Return the fields of `KeyRecord` for a new key.

    Parameters
    ----------
    body : mapping
        Out of `FIELDS`; ``name`` is required.
    now : float
        Seconds since the epoch.

    Raises
    ------
    APIError
        With ``param`` naming the field.
    """
    check_fields(body, FIELDS)
    if body.get("name") is None:
        raise APIError("Missing required parameter: 'name'.", param="name", code="missing_required_parameter")
    given = {name: value for name, value in body.items() if value is not None}
    fields = read_changes(given, now=now)
    for name in ("limits", "metadata"):
        if name in fields:
            fields[name] = {key: value for key, value in fields[name].items() if value is not None}
    return fields


def read_changes(body: Mapping[str, Any], *, now: float) -> dict[str, Any]:
    """Return the changed fields of `KeyRecord`; see `read_new`.

    In ``limits`` and ``metadata`` None stands for what is to be taken away, and as a whole for all of it.

    Raises
    ------
    APIError
        With ``param`` naming the field.
    """
    check_fields(body, FIELDS)
    fields: dict[str, Any] = {name: _READERS[name](value) for name, value in body.items() if name != "expires"}
    if "expires" in body:
        fields["expires"] = read_expiry(body["expires"], now=now)
    return fields


def merged(before: Mapping[str, Any], changes: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a mapping with changes made to it, None taking away (RFC 7386)."""
    if changes is None:
        return {}
    return {key: value for key, value in {**before, **changes}.items() if value is not None}


def check_fields(body: Mapping[str, Any], allowed: tuple[str, ...]) -> None:
    """Refuse fields that nobody reads.

    Raises
    ------
    APIError
        Naming the first one.
    """
    for name in body:
        if name not in allowed:
            raise bad(name, f"unknown key; allowed: {', '.join(allowed)}{nearest(name, allowed)}", code="unknown_key")


def read_expiry(value: Any, *, now: float) -> float | None:
    """Return seconds since the epoch of ``30d``, ``2027-01-31``, ``2027-01-31T12:00:00Z`` or a number of seconds.

    Raises
    ------
    APIError
        If it is none of these, or past.
    """
    if value is None:
        return None
    moment = _moment(value, now)
    if moment is None:
        raise bad("expires", f"must be a duration (30d, 12h), an ISO date or seconds since the epoch; got {value!r}")
    if not now < moment < _LARGEST_LIMIT:
        raise bad("expires", f"must be in the future; got {value!r}, which is {moment - now:.0f} seconds from now")
    return moment


def read_seconds(value: Any, param: str, *, most: float) -> float:
    """Return a number of seconds, also written as ``24h``.

    Raises
    ------
    APIError
        If it is none, or above `most`.
    """
    seconds = _duration(value) if isinstance(value, str) else float(value) if _is_number(value) else None
    if seconds is None or not 0 <= seconds <= most:
        raise bad(param, f"must be from 0 to {most:.0f} seconds, or a duration such as 24h; got {value!r}")
    return seconds


def bad(param: str, message: str, *, code: str = "invalid_value") -> APIError:
    """Return the error for a field."""
    return APIError(f"Invalid value for '{param}': {message}.", param=param, code=code)


def _moment(value: Any, now: float) -> float | None:
    if _is_number(value):
        return float(value)
    if not isinstance(value, str):
        return None
    seconds = _duration(value)
    if seconds is not None:
        return now + seconds
    try:
        parsed = datetime.fromisoformat(value)
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def _duration(text: str) -> float | None:
    match = _DURATION.fullmatch(text.strip())
    return float(match[1]) * _UNITS_S[match[2]] if match else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _read_name(value: Any) -> str:
    # Printable: names stand in logs and on terminals.
    if not isinstance(value, str) or not 0 < len(value.strip()) <= _LONGEST_NAME or not value.isprintable():
        raise bad("name", f"must be a printable text of 1 to {_LONGEST_NAME} characters; got {value!r}")
    return value.strip()


def _read_team(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise bad("team", f"must start with a letter or digit and hold only those and . _ : / @ + -; got {value!r}")
    return value


def _read_scopes(value: Any) -> tuple[str, ...]:
    names = _texts(value, "scopes", f"a list of scopes out of {', '.join(SCOPES)}")
    for name in names:
        if name not in SCOPES:
            raise bad("scopes", f"must be out of {', '.join(SCOPES)}; got {name!r}{nearest(name, SCOPES)}")
    return names


def _read_models(value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    names = _texts(value, "models", "a list of pool names, in which * stands for any characters, or null for all")
    for name in names:
        if not _MODEL.fullmatch(name):
            raise bad("models", f"{name!r} is no name of a model, nor a pattern such as gpt-4o*")
    if len(names) > _MOST_MODELS:
        raise bad("models", f"must have at most {_MOST_MODELS} names; use patterns")
    return names


def _read_limits(value: Any) -> dict[str, Any] | None:
    if value is None:
        return None
    limits = _object(value, "limits")
    for name, limit in limits.items():
        param = f"limits.{name}"
        if name not in LIMITS:
            raise bad(param, f"unknown key; allowed: {', '.join(LIMITS)}{nearest(name, LIMITS)}", code="unknown_key")
        if limit is None:
            continue
        if name == "budget_period":
            if limit not in PERIODS:
                raise bad(param, f"must be one of {', '.join(PERIODS)}; got {limit!r}")
        elif name == "budget_usd":
            if not _is_number(limit) or not 0 <= limit <= _LARGEST_LIMIT:
                raise bad(param, f"must be an amount of US dollars, 0 or more, or null for none; got {limit!r}")
        elif not _is_number(limit) or not 1 <= limit <= _LARGEST_LIMIT or limit != int(limit):
            raise bad(param, f"must be a whole number, 1 or more, or null for none; got {limit!r}")
    whole = (name for name in limits if name not in ("budget_usd", "budget_period"))
    return {**limits, **{name: int(limits[name]) for name in whole if limits[name] is not None}}


def _read_metadata(value: Any) -> dict[str, Any] | None:
    if value is None:
        return None
    pairs = _object(value, "metadata")
    if len(pairs) > _MOST_PAIRS:
        raise bad("metadata", f"must have at most {_MOST_PAIRS} pairs; got {len(pairs)}")
    for key, text in pairs.items():
        if not 0 < len(key) <= _LONGEST_KEY:
            raise bad("metadata", f"names must have 1 to {_LONGEST_KEY} characters")
        if text is not None and not (isinstance(text, str) and len(text) <= _LONGEST_VALUE):
            raise bad(f"metadata.{key}", f"must be a text of at most {_LONGEST_VALUE} characters")
    return pairs


def _read_explore(value: Any) -> bool:
    if not isinstance(value, bool):
        raise bad("explore", f"must be true or false; got {json_kind(value)}")
    return value


def _read_prompts(value: Any) -> str | None:
    if value is not None and value not in PROMPTS:
        raise bad("prompts", f"must be one of {', '.join(PROMPTS)}, or null for what the gateway keeps; got {value!r}")
    kept: str | None = value
    return kept


def _texts(value: Any, param: str, wanted: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not value or not all(isinstance(text, str) for text in value):
        got = json_kind(value) if value != [] else "an empty list"
        raise bad(param, f"must be {wanted}; got {got}")
    return tuple(dict.fromkeys(value))


def _object(value: Any, param: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise bad(param, f"must be an object; got {json_kind(value)}")
    return value


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "name": _read_name,
    "team": _read_team,
    "scopes": _read_scopes,
    "models": _read_models,
    "limits": _read_limits,
    "metadata": _read_metadata,
    "explore": _read_explore,
    "prompts": _read_prompts,
}


def iso(moment: float | None) -> str | None:
    """Return seconds since the epoch as an ISO date and time in UTC."""
    return None if moment is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))
