"""Per-request control: headers ``x-llmrouter-...`` and the body's ``llmrouter`` object, under the same names."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import Headers

from llmrouter.types import Preference
from service.config_problems import nearest
from service.errors import APIError

PREFIX = "x-llmrouter-"
BODY_KEY = "llmrouter"

_LONGEST_SESSION_ID = 256
_TRUE, _FALSE = frozenset({"true", "1", "yes", "on"}), frozenset({"false", "0", "no", "off"})


@dataclass(frozen=True, slots=True)
class Control:
    """What a request asks of the router, beyond its body.

    Attributes
    ----------
    preference : Preference
        Cost weight, quality floor, largest cost.
    models : tuple of str or None
        The models it may go to.
    session_id : str or None
        The conversation it belongs to; recorded.
    dry_run : bool
        Decide, and answer with the decision.
    resume : bool or None
        Whether another model may go on where a stream breaks off; None leaves it to the configuration.
    verify : mapping or None
        The verifier that is to judge the answer; see `llmrouter.verifiers.create_verifier`. Body only.
    explore : bool or None
        Whether chance may choose the model, where that is configured; None leaves it to the key.
    """

    preference: Preference = field(default_factory=Preference)
    models: tuple[str, ...] | None = None
    session_id: str | None = None
    dry_run: bool = False
    resume: bool | None = None
    explore: bool | None = None
    verify: Mapping[str, Any] | None = None

    def answer_relevant(self) -> dict[str, Any]:
        """Return what can change the answer: a kept one is for the same wishes only."""
        preference = self.preference
        wishes = (preference.cost_weight, preference.quality_floor, preference.max_cost_usd, self.models)
        return {} if all(wish is None for wish in wishes) else {"wishes": wishes}


def read_control(
    headers: Headers, given: object, *, pool: Sequence[str], alias_cost_weight: float | None = None
) -> Control:
    """Read the control of a request; the body goes before the alias in ``model``, and that before the headers.

    Parameters
    ----------
    headers : Headers
        Of the request.
    given : object
        The body's ``llmrouter`` object, or None.
    pool : sequence of str
        Names that ``models`` may hold.
    alias_cost_weight : float, optional
        The weight in ``router-<router>-<cost weight>``.

    Raises
    ------
    APIError
        With ``param`` naming the header or key, for an unknown name or a bad value.
    """
    values = _from_headers(headers)
    if alias_cost_weight is not None:
        values["cost_weight"] = alias_cost_weight
    values |= _from_body(given)
    models = values.get("models")
    for name in models or ():
        if name not in pool:
            raise _bad("models", f"{name!r} is not in the pool; it has {', '.join(pool)}{nearest(name, pool)}")
    return Control(
        preference=Preference(
            cost_weight=values.get("cost_weight"),
            quality_floor=values.get("quality_floor"),
            max_cost_usd=values.get("max_cost"),
        ),
        models=models,
        session_id=values.get("session_id"),
        dry_run=values.get("dry_run", False),
        resume=values.get("resume"),
        explore=values.get("explore"),
        verify=values.get("verify"),
    )


def _from_headers(headers: Headers) -> dict[str, Any]:
    values = {}
    for header, text in headers.items():
        if header.startswith(PREFIX):
            name = header.removeprefix(PREFIX).replace("-", "_")
            if name not in _READERS or name in BODY_ONLY:
                allowed = [PREFIX + key.replace("_", "-") for key in _READERS if key not in BODY_ONLY]
                raise _bad(header, f"unknown header; allowed: {', '.join(allowed)}{nearest(header, allowed)}")
            from_text, _ = _READERS[name]
            values[name] = from_text(text, header)
    return values


def _from_body(given: object) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise _bad(BODY_KEY, "must be an object")
    values = {}
    for name, value in given.items():
        param = f"{BODY_KEY}.{name}"
        if name not in _READERS:
            raise _bad(param, f"unknown key; allowed: {', '.join(_READERS)}{nearest(name, _READERS)}")
        if value is not None:
            _, from_json = _READERS[name]
            values[name] = from_json(value, param)
    return values


def _number(test: Callable[[float], bool], wanted: str) -> tuple[Callable[[str, str], Any], Callable[[Any, str], Any]]:
    def from_json(value: Any, param: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and test(value)):
            raise _bad(param, f"must be {wanted}; got {value!r}")
        return float(value)

    def from_text(text: str, param: str) -> float:
        try:
            value = float("" if "_" in text else text)
        except ValueError:
            raise _bad(param, f"must be {wanted}; got {text!r}") from None
        return from_json(value, param)

    return from_text, from_json


def _models_of(value: Any, param: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(name, str) and name for name in value):
        raise _bad(param, f"must be a list of at least one model name; got {value!r}")
    return tuple(dict.fromkeys(value))


def _session_of(value: Any, param: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_SESSION_ID:
        raise _bad(param, f"must be a text of 1 to {_LONGEST_SESSION_ID} characters")
    return value


def _verifier_of(value: Any, param: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not isinstance(value.get("kind"), str):
        raise _bad(param, "must be an object with the verifier's 'kind'")
    return value


def _flag_of(value: Any, param: str) -> bool:
    if not isinstance(value, bool):
        raise _bad(param, f"must be true or false; got {value!r}")
    return value


def _flag_from_text(text: str, param: str) -> bool:
    lower = text.strip().lower()
    if lower not in _TRUE | _FALSE:
        raise _bad(param, f"must be true or false; got {text!r}")
    return lower in _TRUE


BODY_ONLY = frozenset({"verify"})
"""What no header says."""

_READERS: Mapping[str, tuple[Callable[[str, str], Any], Callable[[Any, str], Any]]] = {
    "cost_weight": _number(lambda value: value >= 0, "a number >= 0"),
    "quality_floor": _number(lambda value: 0 < value <= 1, "a number above 0 and at most 1"),
    "max_cost": _number(lambda value: value > 0, "a number of US dollars above 0"),
    "models": (lambda text, param: _models_of([name.strip() for name in text.split(",")], param), _models_of),
    "session_id": (_session_of, _session_of),
    "dry_run": (_flag_from_text, _flag_of),
    "resume": (_flag_from_text, _flag_of),
    "explore": (_flag_from_text, _flag_of),
    "verify": (_verifier_of, _verifier_of),
}


CONTROL_SCHEMA: Mapping[str, Any] = {
    "type": ["object", "null"],
    "additionalProperties": False,
    "properties": {
        "cost_weight": {"type": ["number", "null"], "minimum": 0},
        "quality_floor": {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 1},
        "max_cost": {"type": ["number", "null"], "exclusiveMinimum": 0},
        "models": {"type": ["array", "null"], "minItems": 1, "items": {"type": "string", "minLength": 1}},
        "session_id": {"type": ["string", "null"], "minLength": 1, "maxLength": _LONGEST_SESSION_ID},
        "dry_run": {"type": ["boolean", "null"]},
        "resume": {"type": ["boolean", "null"]},
        "explore": {"type": ["boolean", "null"]},
    },
}
"""JSON schema of the body's ``llmrouter`` object."""


def _bad(param: str, message: str) -> APIError:
    return APIError(f"Invalid value for '{param}': {message}.", param=param, code="invalid_value")
