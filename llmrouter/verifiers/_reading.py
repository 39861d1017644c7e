"""Verifiers that read an answer: exact, numeric, regular expression, JSON schema."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import string
import unicodedata
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Literal, get_args

from llmrouter.exceptions import ConfigError, MissingExtraError, SignalError
from llmrouter.verifiers._verdict import Verdict, boxed, fenced_blocks

Part = Literal["whole", "last_line", "boxed"]

_LONGEST_PATTERN = 2000
_LARGEST_SCHEMA = 64 * 1024
_LONGEST_NUMBER = 400
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_NUMBER = re.compile(
    r"(?:(?<![\w)])[-+\u2212])?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+|(?<=\d)\.?)(?:[eE][-+]?\d{1,3})?(?:\s?/\s?\d+)?"
)
_FRACTION = re.compile(r"([-+]?)\\[dt]?frac\{([^{}]{1,100})\}\{([^{}]{1,100})\}")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


class ExactVerifier:
    r"""1 if the answer is one of the given ones, after normalisation, else 0.

    Parameters
    ----------
    answer : str or list of str
        What is right.
    part : {"whole", "last_line", "boxed"}
        What of the answer is compared: all, its last line that is not empty, or what the last ``\boxed{}`` holds.
    ignore_case, ignore_punctuation, ignore_articles : bool
        What does not matter; articles are English. White space is always collapsed, and Unicode normalised (NFKC).

    Raises
    ------
    ConfigError
        If a parameter is wrong.
    """

    def __init__(
        self,
        answer: str | Sequence[str],
        *,
        part: Part = "whole",
        ignore_case: bool = True,
        ignore_punctuation: bool = False,
        ignore_articles: bool = False,
    ) -> None:
        answers = [answer] if isinstance(answer, str) else answer
        if not isinstance(answers, list | tuple) or not answers or not all(isinstance(one, str) for one in answers):
            raise ConfigError("exact: answer must be a text or a list of at least one", path="answer")
        if part not in get_args(Part):
            raise ConfigError(f"exact: part {part!r} must be one of {', '.join(get_args(Part))}", path="part")
        flags = {"case": ignore_case, "punctuation": ignore_punctuation, "articles": ignore_articles}
        for name, flag in flags.items():
            if not isinstance(flag, bool):
                raise ConfigError(f"exact: ignore_{name} {flag!r} must be true or false", path=f"ignore_{name}")
        self.part = part
        self._flags = flags
        self._right = frozenset(self._normalised(one) for one in answers)

    def verify(self, answer: str, /) -> Verdict:
        """Judge an answer."""
        found: str | None = answer
        if self.part == "last_line":
            found = next((line for line in reversed(answer.splitlines()) if line.strip()), None)
        elif self.part == "boxed":
            found = boxed(answer)
        if found is None:
            return Verdict(0.0, f"the answer has no {self.part.replace('_', ' ')}")
        right = self._normalised(found) in self._right
        return Verdict(float(right), "the same" if right else "another answer")

    def _normalised(self, text: str) -> str:
        text = unicodedata.normalize("NFKC", text)
        if self._flags["case"]:
            text = text.casefold()
        if self._flags["punctuation"]:
            text = text.translate(_WITHOUT_PUNCTUATION)
        if self._flags["articles"]:
            text = _ARTICLES.sub(" ", text)
        return " ".join(text.split())


class NumericVerifier:
    r"""1 if the answer's number is the given one, else 0.

    The number is what the last ``\boxed{}`` holds, else the last one in the text; ``1,234.5``, ``1e-3``, ``3/4``,
    ``\frac{3}{4}`` and ``75%`` (which is 75) are read.

    Parameters
    ----------
    answer : float
        What is right.
    absolute, relative : float
        The larger of both distances from `answer` still counts as right.

    Raises
    ------
    ConfigError
        If a parameter is no finite number, or a tolerance is negative.
    """

    def __init__(self, answer: float, *, absolute: float = 0.0, relative: float = 1e-6) -> None:
        if isinstance(answer, bool) or not isinstance(answer, int | float) or not _finite(answer):
            raise ConfigError(f"numeric: answer {answer!r} must be a finite number", path="answer")
        for name, value in (("absolute", absolute), ("relative", relative)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not (_finite(value) and value >= 0):
                raise ConfigError(f"numeric: {name} {value!r} must be a number, at least 0", path=name)
        self.answer = float(answer)
        self.absolute, self.relative = float(absolute), float(relative)

    def verify(self, answer: str, /) -> Verdict:
        """Judge an answer."""
        found = number_in(answer)
        if found is None:
            return Verdict(0.0, "the answer has no number")
        allowed = max(self.absolute, self.relative * abs(self.answer))
        right = abs(found - self.answer) <= allowed
        return Verdict(float(right), "within the tolerance" if right else "another number")


def _finite(value: float) -> bool:
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def number_in(text: str) -> float | None:
    """Return the number that a text ends up with; see `NumericVerifier`."""
    held = boxed(text)
    if held is not None and (number := _last_number(held)) is not None:
        return number
    return _last_number(text)


def _last_number(text: str) -> float | None:
    plain = _FRACTION.sub(r" \1\2/\3 ", text).replace(r"\,", "").replace("{,}", ",")
    last = None
    for match in _NUMBER.finditer(plain):
        if (value := _value(match.group())) is not None:
            last = value
    return last


def _value(written: str) -> float | None:
    above, _, below = written.replace("\u2212", "-").replace(",", "").partition("/")
    if not above.strip() or len(written) > _LONGEST_NUMBER:
        return None
    try:
        value = float(Fraction(above.strip()) / Fraction(below.strip())) if below else float(above)
    except (ValueError, ZeroDivisionError, OverflowError):
        return None
    return value if math.isfinite(value) else None


class RegexVerifier:
    """1 if a regular expression (Python's ``re``) matches, else 0.

    A pattern can take for ever: run it under a time limit (`VerifierProcess`), as the gateway does.

    Parameters
    ----------
    pattern : str
        At most 2,000 characters.
    full : bool
        Whether it has to match all of the answer, without the white space around it; else it is searched for.
    ignore_case : bool
        Whether upper and lower case are the same.
    expect : bool
        False turns it round: 1 if it does not match.

    Raises
    ------
    ConfigError
        If a parameter is wrong.
    """

    def __init__(self, pattern: str, *, full: bool = False, ignore_case: bool = False, expect: bool = True) -> None:
        if not isinstance(pattern, str) or not 0 < len(pattern) <= _LONGEST_PATTERN:
            raise ConfigError(f"regex: pattern must be a text of 1 to {_LONGEST_PATTERN} characters", path="pattern")
        for name, flag in (("full", full), ("ignore_case", ignore_case), ("expect", expect)):
            if not isinstance(flag, bool):
                raise ConfigError(f"regex: {name} {flag!r} must be true or false", path=name)
        try:
            self._pattern = re.compile(pattern, re.IGNORECASE if ignore_case else 0)
        except (re.error, RecursionError, OverflowError) as error:
            raise ConfigError(f"regex: pattern: {error}", path="pattern") from error
        self.full = full
        self.expect = expect

    def verify(self, answer: str, /) -> Verdict:
        """Judge an answer."""
        found = self._pattern.fullmatch(answer.strip()) if self.full else self._pattern.search(answer)
        return Verdict(float((found is not None) == self.expect), "matches" if found else "does not match")


class JSONSchemaVerifier:
    """1 if the answer is JSON that keeps to a schema, else 0; needs the package jsonschema.

    References to other documents are never fetched. Patterns of a schema can take for ever, see `RegexVerifier`.

    Parameters
    ----------
    schema : mapping or bool
        JSON Schema, draft 2020-12 unless ``$schema`` says another.
    fenced : bool
        Whether the JSON may stand in a block of three backticks, with other text around it.

    Raises
    ------
    ConfigError
        If a parameter is wrong.
    MissingExtraError
        If jsonschema is not installed.
    """

    def __init__(self, schema: Mapping[str, Any] | bool, *, fenced: bool = True) -> None:
        if not isinstance(schema, Mapping | bool):
            raise ConfigError("json_schema: schema must be an object or a boolean", path="schema")
        if not isinstance(fenced, bool):
            raise ConfigError(f"json_schema: fenced {fenced!r} must be true or false", path="fenced")
        try:
            size = len(json.dumps(schema))
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigError(f"json_schema: schema is no JSON ({error})", path="schema") from error
        if size > _LARGEST_SCHEMA:
            raise ConfigError(f"json_schema: schema has {size} characters, of {_LARGEST_SCHEMA} allowed", path="schema")
        if importlib.util.find_spec("jsonschema") is None:
            raise MissingExtraError("jsonschema", extra="verify", purpose="the verifier json_schema")
        self.schema = schema
        self.fenced = fenced

    def verify(self, answer: str, /) -> Verdict:
        """Judge an answer.

        Raises
        ------
        SignalError
            If the schema is wrong, or refers to another document.
        """
        from jsonschema import exceptions, validators
        from referencing import Registry
        from referencing.exceptions import Unresolvable

        chosen = validators.validator_for(self.schema, default=validators.Draft202012Validator)
        try:
            chosen.check_schema(self.schema)
            parsed = self._parsed(answer)
            if parsed is None:
                return Verdict(0.0, "the answer is no JSON")
            kept = chosen(self.schema, registry=Registry()).is_valid(parsed[0])
        except exceptions.SchemaError as error:
            raise SignalError(f"json_schema: the schema is wrong: {error.message[:200]}") from error
        except (Unresolvable, RecursionError, re.error) as error:
            raise SignalError(f"json_schema: the schema cannot be used: {type(error).__name__}") from error
        return Verdict(float(kept), "keeps to the schema" if kept else "breaks the schema")

    def _parsed(self, answer: str) -> tuple[Any] | None:
        texts = [answer]
        if self.fenced:
            texts += [content for language, content in fenced_blocks(answer) if language in ("", "json")]
        for text in texts:
            try:
                return (json.loads(text, parse_constant=_no_constant),)
            except (ValueError, RecursionError):
                continue
        return None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
