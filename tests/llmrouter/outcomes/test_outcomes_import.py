"""Logs of other programs become a table; what cannot be used is counted and explained."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmrouter.encoders import chat_text
from llmrouter.exceptions import DataError, RowError
from llmrouter.outcomes import assign_split, import_logs, load_table, prompt_id, save_table
from llmrouter.outcomes._chat import last_user_turn
from llmrouter.types import Price


def write_lines(path: Path, *records: object) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
    return path


def chat(text: str) -> list[dict]:
    return [{"role": "system", "content": "be brief"}, {"role": "user", "content": text}]


def completion(model: str, tokens: tuple[int, int] = (10, 5), **more: Any) -> dict:
    usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], **more}
    message = {"role": "assistant", "content": "answer"}
    return {"id": "c", "object": "chat.completion", "model": model, "choices": [{"message": message}], "usage": usage}


def call(text: str, model: str, **top: Any) -> dict:
    return {"request": {"model": "auto", "messages": chat(text)}, "response": completion(model), **top}


# OpenAI


def test_request_and_response_lines(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "log.jsonl",
        call("one", "big", score=1.0, cost=0.5),
        call("one", "small", quality=0),
        call("two", "small", feedback="thumbs_up", propensity=0.25),
        call("two", "big"),
    )
    table, report = import_logs(path, prices={"small": Price(1.0, 2.0)})
    assert (report.format, report.rows_read, report.rows_kept, dict(report.skipped)) == ("openai", 4, 4, {})
    assert (table.texts, table.models, table.name) == (("one", "two"), ("big", "small"), "log")
    assert table.prompt_ids == (prompt_id("one"), prompt_id("two"))
    np.testing.assert_array_equal(table.quality, [[1.0, 0.0], [np.nan, 1.0]])
    np.testing.assert_allclose(table.cost_usd, [[0.5, 20e-6], [np.nan, 20e-6]])
    np.testing.assert_array_equal(table.input_tokens, np.full((2, 2), 10.0))
    np.testing.assert_array_equal(table.propensity, [[np.nan, np.nan], [np.nan, 0.25]])
    assert table.prices == (None, Price(1.0, 2.0))
    assert "1 cells have no cost" in str(report)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"request": {"method": "POST", "url": "/v1/chat/completions", "body": {"model": "r", "messages": chat("x")}},
          "response": {"status_code": 200, "body": completion("m")}}, ("x", "m", 10.0)),
        ({"request": json.dumps({"model": "r", "messages": chat("x")}), "response": json.dumps(completion("m"))},
         ("x", "m", 10.0)),
        ({"request_body": {"messages": chat("x")}, "response_body": completion("m")}, ("x", "m", 10.0)),
        ({"input": {"model": "r", "messages": chat("x")}, "output": completion("m")}, ("x", "m", 10.0)),
        ({"request": {"model": "r", "messages": chat("x")}, "response": {"choices": []}}, ("x", "r", np.nan)),
        ({**completion("m"), "messages": chat("x"), "metadata": {"topic": "a"}}, ("x", "m", 10.0)),
        ({"messages": [*chat("x"), {"role": "assistant", "content": "y"}], "model": "m"}, ("x", "m", np.nan)),
        ({"request": {"model": "m", "input": "x"}, "response": {"object": "response", "output": [], "usage":
          {"input_tokens": 10, "output_tokens": 5}}}, ("x", "m", 10.0)),
        ({"request": {"model": "m", "input": [{"role": "user", "content": [{"type": "input_text", "text": "x"}]},
          {"type": "function_call_output", "output": "1"}]}, "response": {}}, ("x", "m", np.nan)),
        ({"request": {"model": "m", "prompt": ["x"]}, "response": completion("m")}, ("x", "m", 10.0)),
        ({"request": {"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "x"},
          {"type": "image_url", "image_url": {"url": "data:"}}]}]}, "response": {}}, ("x", "m", np.nan)),
    ],
)  # fmt: skip
def test_shapes_of_openai_lines(tmp_path: Path, record: dict, expected: tuple) -> None:
    table, report = import_logs(write_lines(tmp_path / "log.jsonl", record))
    assert report.format == "openai"
    assert (table.texts, table.models) == ((expected[0],), (expected[1],))
    np.testing.assert_array_equal(table.input_tokens, [[expected[2]]])


def test_batch_files_are_joined_in_any_order(tmp_path: Path) -> None:
    def half(identity: str, **more: Any) -> dict:
        return {"custom_id": identity, **more}

    def asked(identity: str, text: str) -> dict:
        return half(identity, method="POST", url="/v1/chat/completions", body={"model": "m", "messages": chat(text)})

    write_lines(tmp_path / "b_input.jsonl", asked("1", "one"), asked("2", "two"), asked("3", "three"), asked("4", "4"))
    write_lines(
        tmp_path / "a_output.jsonl",
        half("2", id="b2", response={"status_code": 200, "body": completion("m-0718", (20, 5))}, error=None),
        half("1", id="b1", response={"status_code": 200, "body": completion("m-0718")}, error=None),
        half("3", id="b3", response={"status_code": 500, "body": {}}, error=None),
        half("9", id="b9", response={"status_code": 200, "body": completion("m-0718")}, error=None),
        half("1", id="b1", response={"status_code": 200, "body": completion("m-0718")}, error=None),
    )
    table, report = import_logs(tmp_path, aliases={"m-0718": "m"})
    assert dict(zip(table.texts, table.input_tokens[:, 0], strict=True)) == {"one": 10.0, "two": 20.0}
    assert table.models == ("m",)
    assert report.rows_kept == 2
    assert dict(report.skipped) == {
        "the call failed": 1, "the batch has no response to the request": 1, "bad row": 2
    }  # fmt: skip
    assert report.problems == (
        "a_output.jsonl line 5: custom_id '1' is repeated; import each batch on its own",
        "a_output.jsonl line 4: custom_id '9' has no request; give the batch's input file too",
    )
    assert report.rows_read == 6


def test_cached_tokens_are_priced_as_such(tmp_path: Path) -> None:
    response = completion("m", (100, 10), prompt_tokens_details={"cached_tokens": 60})
    path = write_lines(tmp_path / "log.jsonl", {"request": {"messages": chat("x")}, "response": response})
    table, _ = import_logs(path, prices={"m": Price(10.0, 20.0, 1.0)})
    assert table.cost_usd[0, 0] == pytest.approx((40 * 10 + 60 * 1 + 10 * 20) / 1e6)


def test_calls_that_say_nothing_are_counted(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "log.jsonl",
        call("one", "m"),
        call("two", "m", error={"message": "overloaded"}),
        {"request": {"messages": chat("x")}, "response": {"error": {"message": "no"}}},
        {"request": {"model": "e", "input": ["a"]}, "response": {"object": "list", "data": []}},
        {"request": {"model": "m", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "response": {}},
    )
    _, report = import_logs(path, strict=True)
    assert (report.rows_read, report.rows_kept) == (5, 1)
    assert dict(report.skipped) == {
        "the call failed": 2, "the call is not a text generation": 1, "the prompt has no text": 1
    }  # fmt: skip


def test_bad_rows_are_skipped_or_raised(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "log.jsonl",
        call("one", "m"),
        '{"request": {"messages": [',
        {"request": {"messages": chat("x")}, "response": {}},
        {"request": {"model": "m"}, "response": {}},
        {"request": {"model": "m", "messages": 7}, "response": {}},
        call("two", "m", score=4),
        call("two", "m", score="splendid"),
        call("two", "m", cost=-1),
        call("two", "m", feedback={"stars": 3}),
        {"request": {"messages": chat("x")}, "response": completion("m", (-1, 2))},
        {"request": {"messages": chat("x"), "model": ["m"]}, "response": {}},
        "[]",
    )
    table, report = import_logs(path)
    assert (len(table), report.rows_read, report.rows_kept, report.skipped["bad row"]) == (1, 12, 1, 11)
    for number, text in enumerate(
        [
            "malformed JSON",
            "model is missing; log which model answered, or pass default_model (--default-model NAME)",
            "there is no prompt",
            "messages 7 is neither text nor a list of messages",
            "score 4 is outside [0, 1]; mend it, or pass the scale, e.g. quality_range=(1, 5)",
            "score 'splendid' is no quality",
            "cost_usd -1 is below 0",
            "feedback {'stars': 3} holds none of",
            "input_tokens -1 is below 0",
            "model ['m'] is not text",
            "a list, not an object",
        ],
        start=2,
    ):
        assert any(f"log.jsonl line {number}: {text}" in problem for problem in report.problems), (number, text)
    assert "... and 1 more" in str(report)
    with pytest.raises(RowError, match="11 bad row"):
        import_logs(path, strict=True)


# LiteLLM


def payload(text: str, **more: Any) -> dict:
    return {
        "id": "x", "call_type": "acompletion", "status": "success", "model": "gpt-4o", "model_group": "smart",
        "messages": chat(text), "response": completion("gpt-4o-2024"), "response_cost": 0.25, "prompt_tokens": 10,
        "completion_tokens": 5, "total_tokens": 15, "metadata": {}, "startTime": 1.0, "endTime": 2.0, **more,
    }  # fmt: skip


def test_litellm_payloads(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "log.jsonl",
        payload("one"),
        {"standard_logging_object": payload("two", metadata={"requester_metadata": {"score": 0.5}})},
        payload("three", cache_hit=True, response_cost=0.0),
        payload("four", response_cost=0.0, response_cost_failure_debug_info={"error_str": "no price"}),
        payload("five", prompt_tokens=0, completion_tokens=0),
        payload("six", status="failure", model=""),
        payload("seven", call_type="aembedding"),
        payload("redacted-by-litellm"),
        payload("eight", response_cost=0.0),
        payload("nine", call_type="anthropic_messages", model="claude"),
    )
    table, report = import_logs(path, prices={"gpt-4o": Price(1.0, 2.0)})
    assert (report.format, report.rows_read, report.rows_kept) == ("litellm", 10, 7)
    assert dict(report.skipped) == {
        "the call failed": 1, "the call is not a text generation": 1, "the log redacts its prompts": 1
    }  # fmt: skip
    cost = dict(zip(table.texts, table.cost_usd[:, 0], strict=True))
    assert cost["one"] == 0.25
    assert cost["three"] == pytest.approx(20e-6), "a cached answer is not free the next time"
    assert cost["four"] == pytest.approx(20e-6)
    assert cost["eight"] == 0.0, "free as far as LiteLLM knows"
    assert np.isnan(table.input_tokens[table.texts.index("five"), 0]), "LiteLLM writes 0 for unknown usage"
    assert table.quality[table.texts.index("two"), 0] == 0.5
    assert table.models == ("gpt-4o", "claude")


def test_litellm_spend_rows(tmp_path: Path) -> None:
    row = {
        "request_id": "r", "call_type": "acompletion", "spend": 0.125, "prompt_tokens": 10, "completion_tokens": 5,
        "model": "gpt-4o", "metadata": json.dumps({"usage_object": {"prompt_tokens_details": {"cached_tokens": 4}}}),
        "messages": "{}", "response": "{}", "cache_hit": "False", "status": "success",
    }  # fmt: skip
    stored = {**row, "proxy_server_request": json.dumps({"model": "smart", "messages": chat("one")})}
    long = {**row, "proxy_server_request": {"messages": chat("a ... (litellm_truncated 9 chars) ... b")}}
    cached = {**stored, "spend": 0.0, "cache_hit": "True"}
    path = tmp_path / "spend.json"
    path.write_text(json.dumps([stored, row, long, 7, cached, {**stored, "spend": -1}]))
    table, report = import_logs(path)
    assert table.texts[0] == "one"
    assert table.cost_usd[0, 0] == 0.125, "the cached call's zero is unknown, not averaged in"
    (reason,) = [reason for reason in report.skipped if "store_prompts_in_spend_logs" in reason]
    assert report.skipped[reason] == 1
    assert report.problems[0] == "spend.json item 4: 7 is not an object; log one object a call"
    assert report.problems[1].startswith("spend.json item 6: response_cost -1 is below 0")
    assert any("shortened by LiteLLM" in note for note in report.notes)


# Named columns


def write_csv(path: Path, header: list[str], *rows: list[object], delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])
    return path


def test_csv_with_mapped_columns(tmp_path: Path) -> None:
    path = write_csv(
        tmp_path / "my.csv",
        ["question", "llm", "score", "price", "in", "prompt"],
        ["multi\nline, quoted", "big", "4", "0.5", "12", "ignored"],
        ["multi\nline, quoted", "small", "", "", "", ""],
        ["other", "big", "5", "none", "", ""],
    )
    columns = {"prompt": "question", "model": "llm", "quality": "score", "cost_usd": "price", "input_tokens": "in"}
    table, report = import_logs(path, columns=columns, quality_range=(1, 5), name="mine", strict=True)
    assert (report.format, table.name, table.models) == ("csv", "mine", ("big", "small"))
    assert table.texts == ("multi\nline, quoted", "other")
    np.testing.assert_array_equal(table.quality, [[0.75, np.nan], [1.0, np.nan]])
    np.testing.assert_array_equal(table.cost_usd, [[0.5, np.nan], [np.nan, np.nan]])


def test_csv_with_usual_names_bom_and_tabs(tmp_path: Path) -> None:
    path = tmp_path / "my.tsv"
    write_csv(path, [" prompt ", "model", "rating", "task", "weight"], ["x", "m", "true", "t", "2"], delimiter="\t")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    table, _ = import_logs(path)
    assert (table.texts, table.tasks, table.quality[0, 0]) == (("x",), ("t",), 1.0)
    assert table.weight is not None
    assert table.weight[0, 0] == 2.0


def test_csv_row_problems_carry_the_line_where_the_row_starts(tmp_path: Path) -> None:
    path = tmp_path / "my.csv"
    path.write_text('prompt,model,score\n"a\nb",m,1\nx,m\n,m,1\ny,,1\nz,m,high\nw,m,1,2\n')
    table, report = import_logs(path)
    assert table.texts == ("a\nb",)
    assert report.problems == (
        "my.csv line 4: 2 fields under a header of 3; quote fields that hold commas",
        "my.csv line 5: prompt is empty; a row needs the text that was sent",
        "my.csv line 6: model is missing; log which model answered, or pass default_model (--default-model NAME)",
        "my.csv line 7: score 'high' is no quality; write a number, true or false, or up or down",
        "my.csv line 8: 4 fields under a header of 3; quote fields that hold commas",
    )


def test_prompts_longer_than_the_csv_modules_limit(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    table, _ = import_logs(write_csv(tmp_path / "my.csv", ["prompt", "model"], ["x" * 300_000, "m"]))
    assert len(table.texts[0] or "") == 300_000
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("header", "columns", "message"),
    [
        (
            ["text_in", "model"],
            None,
            "has no column for the prompt.*it has: text_in, model",
        ),
        (["prompt", "engine"], None, "has no column for the model.*columns={'model': 'prompt'}"),
        (["prompt", "model"], {"quality": "scroe"}, "has no column 'scroe', mapped to 'quality'"),
        (["prompt", "model", "model"], None, "has the column 'model' twice"),
        (["prompt", "model"], {"promt": "prompt"}, "'promt', which is not a field; the fields are prompt, model"),
    ],
)
def test_csv_headers(tmp_path: Path, header: list[str], columns: dict | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        import_logs(write_csv(tmp_path / "my.csv", header, ["x"] * len(header)), columns=columns)


def test_csv_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "my.csv"
    path.write_bytes(b"prompt,model\n\xff\xfe,m\n")
    with pytest.raises(DataError, match="is not CSV in UTF-8"):
        import_logs(path)
    path.write_text('prompt,model\n"x,m\n')
    with pytest.raises(DataError, match="is not CSV in UTF-8"):
        import_logs(path)


def test_flat_jsonl(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "log.jsonl",
        {"prompt": "few shot: x", "query": "x", "model": "m", "response": "an answer", "score": True, "cost": 0.5},
        {"prompt": '{"json": "prompt"}', "model": "m", "score": 0.5},
        {"query": "", "prompt": "y", "model": "m", "score": None},
        {"messages": json.dumps(chat("z")), "model": "m"},
        {"prompt": "json answer", "model": "m", "response": '{"a": 1}'},
    )
    table, report = import_logs(path)
    assert report.format == "jsonl"
    assert table.texts == ("x", '{"json": "prompt"}', "y", "z", "json answer")
    np.testing.assert_array_equal(table.quality[:, 0], [1.0, 0.5, np.nan, np.nan, np.nan])


def test_a_mapped_column_that_no_line_has_is_an_error(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "log.jsonl", {"q": "x", "model": "m", "score": 1})
    assert import_logs(path, columns={"prompt": "q"}).table.quality[0, 0] == 1.0
    with pytest.raises(DataError, match="no row has the column 'scroe', which columns maps"):
        import_logs(path, columns={"prompt": "q", "quality": "scroe"})
    with pytest.raises(DataError, match="columns cannot be mapped in format 'openai'"):
        import_logs(path, format="openai", columns={"prompt": "q"})


# All formats


def test_repeats_are_averaged_and_weighted(tmp_path: Path) -> None:
    rows = [["x", "m", 1, 0.1], ["x", "m", 0, ""], ["x", "m", "", 0.3], ["x", "n", 1, ""], ["y", "m", 1, ""]]
    path = write_csv(tmp_path / "my.csv", ["prompt", "model", "score", "cost"], *rows)
    table, report = import_logs(path)
    np.testing.assert_array_equal(table.quality, [[0.5, 1.0], [1.0, np.nan]])
    assert table.weight is not None
    np.testing.assert_array_equal(table.weight, [[2.0, 1.0], [1.0, np.nan]])
    assert table.cost_usd[0, 0] == pytest.approx(0.2)
    assert any(note.startswith("2 calls repeat") for note in report.notes)


def test_without_any_quality_the_report_says_so(tmp_path: Path) -> None:
    table, report = import_logs(write_csv(tmp_path / "my.csv", ["prompt", "model", "cost"], ["x", "m", 0.5]))
    assert np.isnan(table.quality).all()
    assert any("nothing to learn from until feedback" in note for note in report.notes)
    save_table(table, tmp_path / "t", format="jsonl")
    assert load_table(tmp_path / "t").cost_usd[0, 0] == 0.5


def test_splits_follow_the_normalised_text(tmp_path: Path) -> None:
    rows = [[f"question number {i}", "m"] for i in range(2000)] + [["  QUESTION   number 7", "m"]]
    table, _ = import_logs(write_csv(tmp_path / "my.csv", ["prompt", "model"], *rows))
    assert 0.25 < table.splits.count("test") / len(table) < 0.35
    assert table.splits[-1] == table.splits[7]
    assert set(import_logs(tmp_path / "my.csv", test_share=0.0).table.splits) == {"train"}
    assert set(import_logs(tmp_path / "my.csv", test_share=1.0).table.splits) == {"test"}
    assert assign_split("ﬁne  Print") == assign_split("fine print")


def test_ids_and_splits_never_change() -> None:
    # Committed tables and other machines depend on these values.
    assert prompt_id("What is 2+2?") == "52cb6b5e4a038af1756708f9"
    assert [i for i in range(8) if assign_split(f"prompt {i}") == "test"] == [0, 2, 6, 7]


def test_several_files_and_folders(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    write_csv(logs / "b.csv", ["prompt", "model", "score"], ["x", "m", 1])
    write_lines(logs / "a.jsonl", call("x", "n", score=0))
    (logs / "notes.txt").write_text("not a log")
    table, report = import_logs([logs, write_lines(tmp_path / "c.jsonl", payload("y"))])
    assert (table.texts, table.models, table.name) == (("x", "y"), ("n", "m", "gpt-4o"), "logs")
    assert report.format == "openai, csv, litellm"


def test_nothing_to_import(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "blank.jsonl").write_text("\n")
    for path, message in [
        (tmp_path / "nowhere.csv", "does not exist"),
        (tmp_path / "sub", "holds no .csv"),
        (tmp_path / "empty.jsonl", "is an empty file"),
        (tmp_path / "blank.jsonl", "nothing to import from .*there are no rows"),
        ([], "no files to import"),
        (write_lines(tmp_path / "bad.jsonl", "{", call("x", "m", error="boom")), "1 x the call failed; 1 x bad row"),
        (write_lines(tmp_path / "odd.jsonl", {"a": 1}), "has no column for the prompt"),
    ]:
        with pytest.raises(DataError, match=message):
            import_logs(path)
    with pytest.raises(DataError, match="format 'xml' is unknown; one of auto, openai"):
        import_logs(tmp_path, format="xml")
    with pytest.raises(DataError, match="must be .worst, best. with worst < best"):
        import_logs(tmp_path, quality_range=(5, 1))
    with pytest.raises(DataError, match="test_share 1.5 is outside"):
        import_logs(tmp_path, test_share=1.5)


def test_an_own_reading_of_chats(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "log.jsonl", call("x", "m"))
    table, _ = import_logs(path, chat_text=lambda m: chat_text(m, "system_and_last_turns"))
    assert table.texts == ("be brief\n\nx",)
    broken = write_lines(
        tmp_path / "b.jsonl", call("x", "m"), {"messages": [{"role": 3, "content": "x"}], "model": "m"}
    )
    _, report = import_logs(broken, chat_text=chat_text)
    assert "messages cannot be read: messages[0].role must be a string" in report.problems[0]


PARTS = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "input_text", "image_url"]), "text": st.sampled_from(["", "x", "y "])}
)
CONTENTS = st.one_of(st.none(), st.sampled_from(["", "  ", "a", " b ", "c\nd"]), st.lists(PARTS, max_size=3))
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": CONTENTS}),
    max_size=6,
)


@settings(deadline=None)
@given(messages=MESSAGES)
def test_the_default_reading_is_the_encoders(messages: list[dict]) -> None:
    assert last_user_turn(messages) == chat_text(messages)


KEYS = [
    "request", "response", "messages", "input", "prompt", "model", "usage", "body", "error", "custom_id", "choices",
    "score", "feedback", "metadata", "cost", "call_type", "response_cost", "prompt_tokens", "cached_tokens", "role",
    "content", "type", "text", "proxy_server_request", "object", "prompt_tokens_details", "status_code", "url", "task",
]  # fmt: skip
STRINGS = st.sampled_from(["", "x", "{}", "[1]", '{"a":1}'])
LEAVES = st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | STRINGS
JSON_VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=12,
)
RECORDS = st.dictionaries(st.sampled_from(KEYS), JSON_VALUES, min_size=1, max_size=6)


@pytest.mark.parametrize("kind", ["auto", "openai", "litellm", "jsonl"])
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=st.lists(RECORDS, min_size=1, max_size=3))
def test_no_record_however_odd_escapes_the_error_tree(tmp_path: Path, kind: str, records: list[dict]) -> None:
    path = write_lines(tmp_path / "log.jsonl", *records)
    try:
        table, report = import_logs(path, format=kind)
    except DataError:
        return
    assert report.rows_kept + sum(report.skipped.values()) == report.rows_read
    assert len(table) >= 1
