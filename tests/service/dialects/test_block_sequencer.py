"""Deltas in sequence: one open block at a time, whatever upstreams interleave or leave out."""

from __future__ import annotations

import json

from dialect_samples import call_chunk, chunked_answers
from hypothesis import given

from service.dialects._blocks import Action, BlockSequencer, Kind, whole_blocks


def _run(chunks):
    sequencer = BlockSequencer()
    steps = []
    for one in chunks:
        for choice in one["choices"]:
            steps += sequencer.take(choice["delta"])
    return steps, sequencer.close()


def _blocks(chunks):
    steps, end = _run(chunks)
    return [(step.block.name, step.block.text) for step in [*steps, *end] if step.action is Action.CLOSE]


def test_second_call_is_opened_as_soon_as_the_first_is_complete():
    steps, end = _run([call_chunk(0, '{"a": 1}', call_id="x", name="one"), call_chunk(1, "{", call_id="y", name="two")])
    assert [(step.action, step.block.name) for step in steps] == [
        (Action.OPEN, "one"),
        (Action.PIECE, "one"),
        (Action.CLOSE, "one"),
        (Action.OPEN, "two"),
        (Action.PIECE, "two"),
    ]
    assert [step.action for step in end] == [Action.CLOSE]


def test_pieces_of_another_call_wait_for_the_open_one():
    chunks = [
        call_chunk(0, "", call_id="x", name="one"),
        call_chunk(1, "", call_id="y", name="two"),
        call_chunk(0, '{"a"'),
        call_chunk(1, '{"b"'),
        call_chunk(1, ": 2}"),
        call_chunk(0, ": 1}"),
    ]
    assert _blocks(chunks) == [("one", '{"a": 1}'), ("two", '{"b": 2}')]


def test_call_without_arguments_does_not_swallow_the_next():
    chunks = [call_chunk(0, "", call_id="x", name="one"), call_chunk(1, "{}", call_id="y", name="two")]
    assert _blocks(chunks) == [("one", ""), ("two", "{}")]


def test_calls_that_share_an_index_are_told_apart_by_id():
    chunks = [call_chunk(0, "{}", call_id="x", name="one"), call_chunk(0, "{}", call_id="y", name="two")]
    assert _blocks(chunks) == [("one", "{}"), ("two", "{}")]


def test_calls_without_an_index_are_told_apart_by_id():
    chunks = [
        call_chunk(None, '{"a"', call_id="x", name="one"),
        call_chunk(None, ": 1}"),
        call_chunk(None, "{}", call_id="y", name="two"),
    ]
    assert _blocks(chunks) == [("one", '{"a": 1}'), ("two", "{}")]


def test_repeated_id_and_name_change_nothing():
    chunks = [call_chunk(0, "{", call_id="x", name="one"), call_chunk(0, "}", call_id="x", name="one")]
    assert _blocks(chunks) == [("one", "{}")]


def test_call_waits_for_its_name():
    steps, _ = _run([call_chunk(0, "{", call_id="x"), call_chunk(0, "", name="late")])
    assert [(step.action, step.block.name) for step in steps] == [(Action.OPEN, "late"), (Action.PIECE, "late")]


def test_white_space_after_a_complete_call_is_dropped():
    chunks = [
        call_chunk(0, "{}", call_id="x", name="one"),
        call_chunk(1, "{}", call_id="y", name="two"),
        call_chunk(0, " "),
    ]
    assert _blocks(chunks) == [("one", "{}"), ("two", "{}")]


def test_arguments_sent_as_an_object_become_text():
    call = {"id": "x", "function": {"name": "one", "arguments": {"a": 1}}}
    assert [json.loads(block.text) for block in whole_blocks({"tool_calls": [call]})] == [{"a": 1}]


def test_whole_calls_without_ids_stay_apart():
    calls = [{"function": {"name": name, "arguments": "{}"}} for name in ("one", "two")]
    assert [block.name for block in whole_blocks({"tool_calls": calls})] == ["one", "two"]


def test_text_after_a_call_is_a_block_of_its_own():
    message = [{"choices": [{"delta": {"content": "a"}}]}, call_chunk(0, "{}", call_id="x", name="one")]
    message += [{"choices": [{"delta": {"content": "b"}}]}]
    assert _blocks(message) == [("", "a"), ("one", "{}"), ("", "b")]


@given(chunked_answers())
def test_any_chunking_gives_the_blocks_of_the_whole(sample):
    whole, chunks = sample
    steps, end = _run(chunks)
    blocks = [step.block for step in [*steps, *end] if step.action is Action.CLOSE]
    expected = whole_blocks(whole["choices"][0]["message"])
    assert [(block.kind, block.index, block.call_id, block.name, block.text) for block in blocks] == [
        (block.kind, block.index, block.call_id, block.name, block.text) for block in expected
    ]


@given(chunked_answers())
def test_one_block_is_open_at_a_time(sample):
    steps, end = _run(sample[1])
    is_open = None
    for action, block, piece, _ in [*steps, *end]:
        if action is Action.OPEN:
            assert is_open is None
            is_open = block
        else:
            assert is_open is block
            assert piece or action is Action.CLOSE
        if action is Action.CLOSE:
            is_open = None
    assert is_open is None


def test_kinds_of_one_message_come_in_order():
    blocks = whole_blocks({"content": "b", "reasoning": "a", "refusal": "c", "tool_calls": [{"function": {}}]})
    assert [block.kind for block in blocks] == [Kind.REASONING, Kind.TEXT, Kind.REFUSAL, Kind.TOOL]
