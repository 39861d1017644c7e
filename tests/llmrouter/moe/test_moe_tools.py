"""Tool calls: forms by template, forced by grammar, found in text, and conversations that have them."""

import json
import shutil

import jsonschema
import pytest
from tiny_checkpoints import make_checkpoint

from llmrouter.exceptions import GenerationRequestError
from llmrouter.moe import GenerationRequest, ResponseFormat, Tool, load_engine
from llmrouter.moe._tool_stream import ForcedCall, OfferedCalls
from llmrouter.moe._tools import PLAIN, CallFormat, format_of

USER = {"role": "user", "content": "weather?"}
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Köln"]}, "days": {"$ref": "#/$defs/days"}},
    "required": ["city", "days"],
    "additionalProperties": False,
    "$defs": {"days": {"type": "integer", "minimum": 1, "maximum": 14}},
}
WEATHER, NOW = Tool("get_weather", "The weather", PARAMETERS, strict=True), Tool("now")
TAGGED, LISTED = CallFormat("<tool_call>", "</tool_call>"), CallFormat("[TOOL_CALLS]", "", listed=True)
TEMPLATE = (
    "{% if tools %}<|start|>system\n{% for tool in tools %}{{ tool | tojson }}{% endfor %}<|end|>{% endif %}"
    "{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}"
    "{% for call in m.tool_calls or [] %}%OPEN%{{ call.function | tojson }}%CLOSE%{% endfor %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
TEMPLATES = {
    "tagged": TEMPLATE.replace("%OPEN%", "<tool_call>").replace("%CLOSE%", "</tool_call>"),
    "listed": TEMPLATE.replace("%OPEN%", "[TOOL_CALLS] [").replace("%CLOSE%", "]"),
    "none": None,  # the tiny checkpoints' own, which knows nothing of tools
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("tools") / "m", "olmoe", max_position_embeddings=2048)


@pytest.fixture(scope="module", params=TEMPLATES)
def caller(request, folder, tmp_path_factory):
    copy = shutil.copytree(folder, tmp_path_factory.mktemp("tools") / request.param)
    if TEMPLATES[request.param]:
        (copy / "chat_template.jinja").write_text(TEMPLATES[request.param])
    return load_engine(copy)


def asked(**values):
    return GenerationRequest(**{"messages": [USER], "tools": [WEATHER, NOW], "max_tokens": 120} | values)


class TestForced:
    @pytest.mark.parametrize("seed", range(4))
    def test_a_call_is_required(self, caller, seed):
        [result] = caller.run([asked(tool_choice="required", temperature=1.3, seed=seed)])
        [call] = result.tool_calls
        schema = {"get_weather": PARAMETERS, "now": {"type": "object", "maxProperties": 0}}[call.name]
        jsonschema.validate(json.loads(call.arguments), schema)
        assert (result.text, result.finish_reason) == ("", "tool_calls")

    def test_the_named_one_is_called(self, caller):
        [result] = caller.run([asked(forced_tool="get_weather", temperature=1.3, seed=1)])
        assert [call.name for call in result.tool_calls] == ["get_weather"]
        assert result.finish_reason == "stop"

    async def test_its_arguments_are_streamed(self, caller):
        caller.start()
        handle = caller.submit(asked(forced_tool="get_weather", temperature=1.3, seed=1))
        deltas = [piece for delta in [delta async for delta in handle] for piece in delta.tool_calls]
        [call] = (await handle.result()).tool_calls
        caller.stop()
        assert (deltas[0].id, deltas[0].name) == (call.id, "get_weather")
        assert all(piece.id is None is piece.name for piece in deltas[1:])
        assert len(deltas) > 3
        assert "".join(piece.arguments for piece in deltas) == call.arguments

    def test_cut_off_it_is_incomplete(self, caller):
        [result] = caller.run([asked(forced_tool="get_weather", max_tokens=40, temperature=0.0)])
        if result.finish_reason == "length":
            assert result.tool_calls[0].arguments.startswith("{")

    def test_logprobs_come_too(self, caller):
        [result] = caller.run([asked(forced_tool="now", logprobs=True, temperature=0.0)])
        assert b"".join(entry.bytes for entry in result.logprobs).startswith(b'{"name": "now", "arguments": {')

    def test_none_is_no_call(self, caller):
        plain = GenerationRequest(messages=[USER], max_tokens=20, temperature=0.0)
        without = asked(tool_choice="none", max_tokens=20, temperature=0.0)
        one, other = caller.run([plain, without])
        assert (one.text, one.input_tokens) == (other.text, other.input_tokens)

    def test_the_model_decides(self, caller):
        [result] = caller.run([asked(max_tokens=20, temperature=0.0)])
        assert result.tool_calls == ()
        assert result.text


class TestPrompts:
    def test_tools_and_results_are_rendered(self, caller):
        call = {"id": "c1", "type": "function", "function": {"name": "now", "arguments": '{"zone": "CET"}'}}
        messages = [
            USER,
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "noon"},
        ]
        text = caller.vocabulary.render(messages, [WEATHER])
        assert '"get_weather"' in text
        assert '"zone": "CET"' in text
        assert "noon" in text
        assert ("Result of now: noon" in text) == (caller.vocabulary.call_format is PLAIN)

    def test_the_offer_joins_the_systems_message(self, folder):
        vocabulary = load_engine(folder).vocabulary
        text = vocabulary.render([{"role": "system", "content": "be brief"}, USER], [NOW])
        assert text.count("<|start|>system") == 1
        assert "be brief\n\nYou can call" in text

    @pytest.mark.parametrize(
        ("messages", "param"),
        [
            ([USER, {"role": "tool", "tool_call_id": "c9", "content": "x"}], "messages[1].tool_call_id"),
            ([USER, {"role": "assistant", "tool_calls": ["x"]}], "messages[1].tool_calls[0]"),
            (
                [USER, {"role": "assistant", "tool_calls": [{"id": 3, "function": {"name": "now"}}]}],
                "messages[1].tool_calls[0].id",
            ),
            (
                [USER, {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "["}}]}],
                "messages[1].tool_calls[0].function.arguments",
            ),
        ],
    )
    def test_wrong_turns_are_named(self, caller, messages, param):
        with pytest.raises(GenerationRequestError) as caught:
            caller.run([GenerationRequest(messages=messages)])
        assert caught.value.param == param


class TestForms:
    @pytest.mark.parametrize(
        ("template", "form"),
        [
            ('{{ tools }} <tool_call>\n{"name": <function-name>}</tool_call>', TAGGED),
            ("{{ tools }} [TOOL_CALLS] [", LISTED),
            ('{{ tools }} Respond with {"name": function name, "parameters": {}}', PLAIN),
            ("{{ messages }}", PLAIN),
            ("{{ tools }} <tool_call><arg_key>", None),
            ("{{ tools }} [TOOL_CALLS]name[ARGS]{}", None),
            ("{{ tools }} <|channel|>commentary to=functions", None),
        ],
    )
    def test_templates(self, template, form):
        assert format_of(template) == form

    def test_an_unknown_form_is_refused(self, folder, tmp_path):
        copy = shutil.copytree(folder, tmp_path / "m")
        (copy / "chat_template.jinja").write_text("{{ tools }}<tool_call><arg_key>{{ messages[0].content }}")
        engine = load_engine(copy)
        with pytest.raises(GenerationRequestError, match="leave tools out, or serve the model with vLLM"):
            engine.run([asked()])
        assert engine.run([GenerationRequest(messages=[USER], max_tokens=2)])


def read(reader, text, size):
    """Push `text` in pieces of `size` characters; return content, (name, arguments) and the deltas."""
    content, deltas = "", []
    for piece in [text[start : start + size] for start in range(0, len(text), size)]:
        new, calls = reader.push(piece)
        content, deltas = content + new, [*deltas, *calls]
        if reader.finished:
            break
    new, calls = reader.finish()
    return content + new, [(call.name, call.arguments) for call in reader.calls], [*deltas, *calls]


ONE, TWO = '{"name": "now", "arguments": {}}', '{"name": "get_weather", "arguments": {"city": "Köln"}}'
CALLS = [("now", "{}"), ("get_weather", '{"city": "Köln"}')]


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
class TestOffered:
    @pytest.mark.parametrize(
        ("form", "text", "content", "calls"),
        [
            (TAGGED, f"<tool_call>\n{ONE}\n</tool_call>", "", CALLS[:1]),
            (TAGGED, f"Well.\n<tool_call>\n{ONE}\n</tool_call>\n<tool_call>{TWO}</tool_call>\n", "Well.\n", CALLS),
            (TAGGED, f"<tool_call>\n{ONE}", "", CALLS[:1]),
            (TAGGED, "<tool_call>\n{oops</tool_call> <tool", "<tool_call>\n{oops</tool_call> <tool", []),
            (TAGGED, '<tool_call>{"name": "other"}</tool_call>', '<tool_call>{"name": "other"}</tool_call>', []),
            (TAGGED, "a < b and <b>\n ", "a < b and <b>\n ", []),
            (LISTED, f"[TOOL_CALLS] [{ONE}, {TWO}]", "", CALLS),
            (LISTED, f"[TOOL_CALLS] [{ONE}, ", f"[TOOL_CALLS] [{ONE}, ", []),
            (PLAIN, f" {ONE}", "", CALLS[:1]),
            (PLAIN, f"{ONE}\n{TWO}", "", CALLS),
            (PLAIN, f"[{ONE}, {TWO}]", "", CALLS),
            (PLAIN, '{"name": "now", "parameters": {"a": 1}}', "", [("now", '{"a": 1}')]),
            (PLAIN, '{"name": "now", "arguments": "{\\"a\\": 1}"}', "", [("now", '{"a": 1}')]),
            (PLAIN, f"Here: {ONE}", f"Here: {ONE}", []),
            (PLAIN, '{"name": "now", "arguments": 3}', '{"name": "now", "arguments": 3}', []),
            (PLAIN, '{"answer": 42}', '{"answer": 42}', []),
        ],
    )
    def test_calls_are_found_wherever_pieces_end(self, size, form, text, content, calls):
        reader = OfferedCalls(form, ["now", "get_weather"], parallel=True)
        found = read(reader, text, size)
        assert (found[0].rstrip() if calls else found[0], found[1]) == (content.rstrip() if calls else content, calls)
        assert [delta.index for delta in found[2]] == list(range(len(calls)))
        assert [(delta.name, delta.arguments) for delta in found[2]] == calls
        assert len({call.id for call in reader.calls}) == len(calls)

    @pytest.mark.parametrize("form", [TAGGED, LISTED, PLAIN])
    def test_one_at_a_time(self, size, form):
        text = f"[TOOL_CALLS] [{ONE}, {TWO}]" if form.listed else f"{ONE}\n{TWO}"
        if form is TAGGED:
            text = f"<tool_call>{ONE}</tool_call><tool_call>{TWO}</tool_call>"
        reader = OfferedCalls(form, ["now", "get_weather"], parallel=False)
        assert read(reader, text, size)[:2] == ("", CALLS[:1])

    def test_a_forced_call(self, size):
        content, calls, deltas = read(ForcedCall(TAGGED), TWO, size)
        assert (content, calls) == ("", CALLS[1:])
        assert "".join(delta.arguments for delta in deltas) == CALLS[1][1]
        assert [delta.name for delta in deltas] == ["get_weather", *[None] * (len(deltas) - 1)]


def test_calls_nested_too_deep_to_read_stay_text_or_are_passed_on():
    deep = '{"name": "now", "arguments": ' + '{"a": ' * 5000 + "1" + "}" * 5001
    reader = OfferedCalls(PLAIN, ["now"], parallel=True)
    assert read(reader, deep, len(deep))[:2] == (deep, [])
    content, [(_, arguments)], _ = read(ForcedCall(PLAIN), deep, len(deep))
    assert content == ""
    assert arguments == deep[len('{"name": "now", "arguments": ') : -1]


def test_markers_that_are_special_tokens_are_read(folder, tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["[TOOL_CALLS]"]})
    from llmrouter.moe._text import TextStream
    from llmrouter.moe._vocabulary import Vocabulary

    vocabulary = Vocabulary(tokenizer)
    tokens = vocabulary.encode("<|start|>[TOOL_CALLS] [x", special_tokens=False)
    kept = vocabulary.special_tokens("[TOOL_CALLS]", "")
    stream = TextStream(vocabulary, kept_tokens=kept)
    assert "".join([*map(stream.push, tokens), stream.finish()]) == "[TOOL_CALLS] [x"
    assert vocabulary.decode(tokens) == " [x"


@pytest.mark.parametrize(
    ("values", "param", "message"),
    [
        ({"tools": [], "tool_choice": "required"}, "tool_choice", "tools is empty"),
        ({"forced_tool": "other"}, "tool_choice", "names 'other', which is not among the tools"),
        ({"tools": [NOW, NOW]}, "tools", "'now' twice"),
        ({"tools": [Tool(f"f{index}") for index in range(129)]}, "tools", "129 entries; give at most 128"),
        ({"messages": None, "prompt": "x"}, "tools", "tools need messages"),
        ({"response_format": ResponseFormat()}, "response_format", 'or give tool_choice "none"'),
    ],
)
def test_what_does_not_go_together(values, param, message):
    with pytest.raises(GenerationRequestError, match=message) as caught:
        asked(**values)
    assert caught.value.param == param


def test_a_tools_name_and_its_schema_are_checked(caller):
    with pytest.raises(GenerationRequestError, match="name of a tool is 'a b'"):
        Tool("a b")
    bad = Tool("f", parameters={"type": "object", "properties": {"a": {"type": "int"}}})
    with pytest.raises(
        GenerationRequestError, match=r"tools\[1\].function.parameters: schema.properties.a: Invalid type"
    ) as caught:
        caller.run([asked(tools=[NOW, bad], tool_choice="required")])
    assert caught.value.param == "tools"
    words = Tool("f", parameters={"type": "string"})
    with pytest.raises(GenerationRequestError, match="schema.type is 'string'; the arguments of a function are an"):
        caller.run([asked(tools=[words], tool_choice="required")])


def test_arguments_are_an_object_where_the_schema_leaves_it_open(caller):
    tool = Tool("f", parameters={"properties": {"a": {"type": "boolean"}}, "required": ["a"]})
    [result] = caller.run([asked(tools=[tool], tool_choice="required", temperature=1.0, seed=0, max_tokens=150)])
    assert result.tool_calls[0].arguments.lstrip().startswith("{")


def test_a_schema_that_breaks_the_template_is_a_bad_request(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "m")
    (copy / "chat_template.jinja").write_text('{{ tools[0].function.parameters.properties + 1 }} {"name": }')
    with pytest.raises(GenerationRequestError, match="chat template refuses"):
        load_engine(copy).run([asked()])
