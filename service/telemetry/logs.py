"""What the gateway writes to standard error: one line a record, for people or as JSON, without prompts.

Control characters are escaped in both formats, so that nothing that a client sends can forge a line or move a
terminal's cursor.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson

from service.telemetry.exception_text import describe
from service.telemetry.settings import LogsSettings

if TYPE_CHECKING:
    from llmrouter.types import Outcome
    from service.call import Call

current_request_id: ContextVar[str] = ContextVar("current_request_id", default="")
"""Set by the middleware that gives out the ids."""

ACCESS = "llmrouter.access"
"""Name of the logger of access lines."""

access_logger = logging.getLogger(ACCESS)

_FIELDS = "fields"
_LONGEST_NAME = 200
# Line ends beyond \n, and what terminals obey. JSON's own escapes cover all below 0x20.
_UNSAFE_IN_JSON = re.compile("[\x7f-\x9f\u2028\u2029\ufeff]")
_UNSAFE_IN_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff]")
_PLAIN = re.compile(r"[\w.:/@+-]+")
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_OWN = ("service", "llmrouter")
# What they log below this quotes requests.
_TALKATIVE = (
    "LiteLLM",
    "LiteLLM Router",
    "LiteLLM Proxy",
    "litellm",
    "httpx",
    "httpcore",
    "openai",
    "anthropic",
    "urllib3",
)


class JSONFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, request_id, the record's own fields, exception.

    Parameters
    ----------
    messages : bool
        Whether messages of unforeseen exceptions are shown.
    """

    def __init__(self, *, messages: bool = False) -> None:
        super().__init__()
        self._messages = messages

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        request_id = getattr(record, "request_id", None) or current_request_id.get()
        if request_id:
            line["request_id"] = request_id
        fields = getattr(record, _FIELDS, None)
        if fields:
            line |= fields
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = describe(record.exc_info[1], messages=self._messages)
        return _UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", _dump(line))


class TextFormatter(logging.Formatter):
    """``time LEVEL logger: message field=value``, and below it where an exception came from, indented.

    Parameters
    ----------
    messages : bool
        Whether messages of unforeseen exceptions are shown.
    """

    def __init__(self, *, messages: bool = False) -> None:
        super().__init__()
        self._messages = messages

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, or lines."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(sep=" ", timespec="milliseconds")
        line = f"{moment} {record.levelname} {record.name}: {_escaped(record.getMessage())}"
        fields = getattr(record, _FIELDS, None)
        if fields:
            line += "".join(f" {name}={_value(value)}" for name, value in fields.items() if value is not None)
        if record.exc_info and record.exc_info[1] is not None:
            for entry in describe(record.exc_info[1], messages=self._messages):
                line += f"\n  | {entry['type']}: {_escaped(entry.get('message', ''))}"
                line += "".join(f"\n  |   {_escaped(place)}" for place in entry["stack"])
        return line


class _Handler(logging.StreamHandler[Any]):
    """Ours, so that it can be told from others' and replaced."""


def configure_logging(settings: LogsSettings | None = None) -> None:
    """Send log records to standard error, unless the program that runs us has its own logging.

    May be called again with other settings.
    """
    settings = settings or LogsSettings()
    root = logging.getLogger()
    ours = [handler for handler in root.handlers if isinstance(handler, _Handler)]
    if root.handlers and not ours:
        return
    for handler in ours:
        root.removeHandler(handler)
    formatter = JSONFormatter if settings.format == "json" else TextFormatter
    handler = _Handler(sys.stderr)
    handler.setFormatter(formatter(messages=settings.prompts))
    root.addHandler(handler)
    level = _LEVELS[settings.level]
    root.setLevel(max(level, logging.INFO))
    for name in _OWN:
        logging.getLogger(name).setLevel(level)
    # Who asked for access lines gets them at every level.
    access_logger.setLevel(logging.INFO)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


def log_finished(call: Call, outcome: Outcome, *, prompts: bool) -> None:
    """Write the access line of a request that ended."""
    fields: dict[str, Any] = {
        "request_id": outcome.request_id,
        "key_id": outcome.key_id,
        "endpoint": getattr(call, "endpoint", None),
        "model_asked": _short(getattr(call.chat, "model", None)),
        "model": outcome.served_by,
        "status": outcome.status,
        "stream": bool(getattr(call.chat, "stream", False)),
        "latency_s": _rounded(outcome.latency_s),
        "time_to_first_token_s": _rounded(outcome.time_to_first_token_s),
        "input_tokens": outcome.input_tokens,
        "output_tokens": outcome.output_tokens,
        "cost_usd": outcome.cost_usd,
        "fallbacks": list(outcome.fallbacks),
        "cache": getattr(call, "cache", None) or None,
    }
    if prompts and not call.principal.hides_text:
        fields["prompt"] = call.chat.routing.text
    access_logger.info("request", extra={_FIELDS: fields})


def log_refused(endpoint: str, status: int, code: str | None) -> None:
    """Write the access line of a request that was answered with an error before any model was asked."""
    fields = {
        "request_id": current_request_id.get() or None,
        "endpoint": endpoint,
        "status": "refused",
        "http_status": status,
        "code": _short(code),
    }
    access_logger.info("request", extra={_FIELDS: fields})


def _dump(line: dict[str, Any]) -> str:
    try:
        return orjson.dumps(line, default=str).decode()
    except TypeError:  # half a surrogate pair, or an integer beyond 64 bits
        return json.dumps(line, default=str)


def _escaped(text: str) -> str:
    return _UNSAFE_IN_TEXT.sub(lambda found: _escape(found[0]), text)


def _escape(character: str) -> str:
    return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(character) or f"\\u{ord(character):04x}"


def _value(value: Any) -> str:
    if isinstance(value, list):
        value = ",".join(str(entry) for entry in value)
    text = str(value)
    return text if _PLAIN.fullmatch(text) else _escaped(json.dumps(text, ensure_ascii=False))


def _short(text: str | None) -> str | None:
    return None if text is None else text[:_LONGEST_NAME]


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
