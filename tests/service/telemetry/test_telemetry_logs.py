"""Log lines: JSON and text, hostile strings, access lines, no prompts."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from telemetry_calls import SECRET_PROMPT, finished, telemetry

from llmrouter.exceptions import StoreError, UnknownModelError
from service.keys.principal import Principal
from service.telemetry import logs
from service.telemetry.logs import JSONFormatter, TextFormatter, configure_logging, current_request_id
from service.telemetry.settings import LogsSettings

Capsys = pytest.CaptureFixture[str]

HOSTILE = 'a\nb\r\x00\x1b[31m\u2028"}{\\ \x85\x7f\ud800 é'


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """Return the root logger without handlers, and put everything back afterwards."""
    root = logging.getLogger()
    names = ("service", "llmrouter", logs.ACCESS, "LiteLLM", "httpx")
    before = root.handlers[:], root.level, {name: logging.getLogger(name).level for name in names}
    root.handlers[:] = []
    yield root
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    for name, level in before[2].items():
        logging.getLogger(name).setLevel(level)


def _configure(settings: LogsSettings | None = None) -> None:
    """Configure logging as in a program that has none of its own: pytest's handlers are there in every test."""
    root = logging.getLogger()
    root.handlers[:] = [handler for handler in root.handlers if handler.__class__.__module__ == logs.__name__]
    configure_logging(settings)


def _record(message: str, *args: object, **extra: Any) -> logging.LogRecord:
    record = logging.LogRecord("service.x", logging.WARNING, "f.py", 1, message, args, None)
    vars(record).update(extra)
    return record


def _raised(error: Exception) -> Any:
    try:
        raise error
    except Exception as caught:
        return type(caught), caught, caught.__traceback__


def test_a_line_says_when_who_and_what() -> None:
    line = json.loads(JSONFormatter().format(_record("%s failed", "small", request_id="req_1")))
    assert line.keys() == {"time", "level", "logger", "message", "request_id"}
    assert (line["level"], line["logger"], line["message"]) == ("warning", "service.x", "small failed")
    assert line["time"].endswith("+00:00")


def test_the_request_id_of_the_context_is_taken() -> None:
    token = current_request_id.set("req_9")
    try:
        assert json.loads(JSONFormatter().format(_record("x")))["request_id"] == "req_9"
    finally:
        current_request_id.reset(token)


@given(text=st.text(alphabet=st.characters(codec=None), max_size=60))
def test_any_text_is_one_json_line(text: str) -> None:
    line = JSONFormatter().format(_record("%s", text, fields={"model_asked": text}))
    assert len(line.splitlines()) == 1
    assert "\x1b" not in line
    read = json.loads(line)
    assert read["message"] == text
    assert read["model_asked"] == text


@given(text=st.text(alphabet=st.characters(codec=None), max_size=60))
def test_any_text_is_one_text_line(text: str) -> None:
    line = TextFormatter().format(_record("%s", text, fields={"model_asked": text, "list": [text]}))
    assert len(line.splitlines()) == 1
    assert not any(ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0 for character in line)
    line.encode()


def test_numbers_beyond_64_bits_are_written() -> None:
    assert json.loads(JSONFormatter().format(_record("x", fields={"n": 2**80})))["n"] == 2**80


@pytest.mark.parametrize("formatter", [JSONFormatter, TextFormatter])
def test_exceptions_show_where_but_not_what_they_quote(formatter: type[JSONFormatter]) -> None:
    record = _record("it failed")
    record.exc_info = _raised(KeyError(SECRET_PROMPT))
    line = formatter().format(record)
    assert "ZEBRA" not in line
    assert "KeyError" in line
    assert "test_telemetry_logs.py" in line
    assert "ZEBRA" in formatter(messages=True).format(record)


def test_messages_of_our_own_errors_are_shown_with_their_causes() -> None:
    error = StoreError("the disk is full")
    error.__cause__ = OSError(28, "No space left on device")
    record = _record("x")
    record.exc_info = _raised(error)
    first, second = json.loads(JSONFormatter().format(record))["exception"]
    assert (first["type"], first["message"]) == ("StoreError", "the disk is full")
    assert "No space left" in second["message"]


def test_a_forged_line_in_an_exception_stays_indented() -> None:
    record = _record("x")
    record.exc_info = _raised(UnknownModelError("a\n2026-01-01 INFO service: all is well", known=[]))
    lines = TextFormatter().format(record).splitlines()
    assert all(line.startswith("  | ") for line in lines[1:])


def test_access_lines_have_what_was_asked_and_no_prompt(root: logging.Logger, capsys: Capsys) -> None:
    settings = {"logs": {"format": "json", "access": True}}
    _configure(LogsSettings.model_validate(settings["logs"]))
    told = telemetry(settings)
    call, outcome = finished(fallbacks=("large",), key_id="key_7", error=SECRET_PROMPT)
    call.chat.model = HOSTILE
    told.finished(call, outcome)
    (text,) = capsys.readouterr().err.split("\n")[:-1]
    line = json.loads(text)
    assert "ZEBRA" not in text
    assert line["logger"] == "llmrouter.access"
    assert line["model_asked"] == HOSTILE
    wanted = {"request_id": "req_1", "key_id": "key_7", "endpoint": "chat", "model": "small", "status": "ok"}
    assert wanted.items() <= line.items()
    assert (line["input_tokens"], line["output_tokens"], line["cost_usd"]) == (100, 20, 0.0004)
    assert (line["fallbacks"], line["latency_s"]) == (["large"], 0.25)


def test_access_lines_hold_the_prompt_where_that_is_asked_for(root: logging.Logger, capsys: Capsys) -> None:
    tree = {"format": "json", "access": True, "prompts": True}
    _configure(LogsSettings.model_validate(tree))
    telemetry({"logs": tree}).finished(*finished())
    assert json.loads(capsys.readouterr().err)["prompt"] == SECRET_PROMPT
    telemetry({"logs": tree}).finished(*finished(principal=Principal("k", "private", prompts="hash")))
    assert "ZEBRA" not in capsys.readouterr().err, "unless the key says otherwise"


def test_refused_requests_have_a_line_too(root: logging.Logger, capsys: Capsys) -> None:
    tree = {"access": True, "level": "error"}
    _configure(LogsSettings.model_validate(tree))
    telemetry({"logs": tree}).refused("chat", UnknownModelError("x", known=[]))
    assert "status=refused http_status=404 code=model_not_found" in capsys.readouterr().err


def test_without_access_there_are_no_lines(root: logging.Logger, capsys: Capsys) -> None:
    _configure()
    telemetry().finished(*finished())
    assert capsys.readouterr().err == ""


async def test_lines_are_written_after_the_requests_own_work(root: logging.Logger, capsys: Capsys) -> None:
    import asyncio

    _configure(LogsSettings(access=True))
    telemetry({"logs": {"access": True}}).finished(*finished())
    assert capsys.readouterr().err == ""
    await asyncio.sleep(0)
    assert "request_id=req_1" in capsys.readouterr().err


def test_logging_of_the_surrounding_program_is_left_alone(root: logging.Logger) -> None:
    theirs = logging.NullHandler()
    root.handlers[:] = [theirs]
    configure_logging(LogsSettings(format="json"))
    assert root.handlers == [theirs]


def test_a_second_configuration_replaces_the_first(root: logging.Logger) -> None:
    _configure()
    _configure(LogsSettings(format="json"))
    (handler,) = root.handlers
    assert isinstance(handler.formatter, JSONFormatter)


def test_debug_is_for_the_gateway_alone(root: logging.Logger) -> None:
    _configure(LogsSettings(level="debug"))
    assert logging.getLogger("service.gateway").isEnabledFor(logging.DEBUG)
    assert not logging.getLogger("LiteLLM").isEnabledFor(logging.INFO)
    assert not logging.getLogger("aiohttp.client").isEnabledFor(logging.DEBUG)
