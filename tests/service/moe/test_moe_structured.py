"""Schemas, tools, penalties over HTTP: the official client's helpers, streams, and errors that name the field."""

import json

import openai
import pydantic
import pytest

MESSAGES = [{"role": "user", "content": "hello"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}
NAMED = {"type": "function", "function": {"name": "get_weather"}}


class Step(pydantic.BaseModel):
    done: bool
    size: int = pydantic.Field(ge=0, le=99)


class Answer(pydantic.BaseModel):
    steps: list[Step] = pydantic.Field(min_length=1, max_length=2)
    verdict: bool | None


@pytest.fixture
def client(running):
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def create(client, **values):
    return client.chat.completions.create(
        **{"model": "tiny-mixtral", "messages": MESSAGES, "max_tokens": 150, "temperature": 1.0, "seed": 2} | values
    )


class TestSchemas:
    def test_parse_with_pydantic(self, client):
        answer = client.chat.completions.parse(
            model="tiny-mixtral",
            messages=MESSAGES,
            response_format=Answer,
            max_tokens=200,
            temperature=1.2,
            seed=1,
            n=3,
        )
        parsed = [choice.message.parsed for choice in answer.choices]
        assert all(isinstance(one, Answer) for one in parsed)
        assert len({choice.message.content for choice in answer.choices}) > 1

    def test_streamed_it_is_the_same(self, client):
        schema = {"name": "answer", "strict": True, "schema": openai.lib._pydantic.to_strict_json_schema(Answer)}
        values = {"response_format": {"type": "json_schema", "json_schema": schema}}
        whole = create(client, **values).choices[0]
        pieces = [chunk.choices[0] for chunk in create(client, stream=True, **values)]
        assert "".join(piece.delta.content or "" for piece in pieces) == whole.message.content
        assert pieces[-1].finish_reason == whole.finish_reason == "stop"
        Answer.model_validate_json(whole.message.content)

    def test_any_object(self, client):
        choice = create(client, response_format={"type": "json_object"}, max_tokens=30).choices[0]
        assert choice.message.content.startswith("{")

    def test_cut_off(self, client):
        with pytest.raises(openai.LengthFinishReasonError):
            client.chat.completions.parse(model="tiny-mixtral", messages=MESSAGES, response_format=Answer, max_tokens=3)


class TestTools:
    @pytest.mark.parametrize(("choice", "reason"), [("required", "tool_calls"), (NAMED, "stop")])
    def test_a_forced_call_whole_and_streamed(self, client, choice, reason):
        values = {"tools": [TOOL], "tool_choice": choice, "n": 2}
        whole = create(client, **values)
        texts, names, reasons = ["", ""], [None, None], [None, None]
        for chunk in create(client, stream=True, **values):
            [piece] = chunk.choices
            reasons[piece.index] = piece.finish_reason or reasons[piece.index]
            for call in piece.delta.tool_calls or []:
                assert call.index == 0
                names[piece.index] = call.function.name or names[piece.index]
                texts[piece.index] += call.function.arguments
        for index, one in enumerate(whole.choices):
            [call] = one.message.tool_calls
            assert set(json.loads(call.function.arguments)) == {"city", "days"}
            assert (call.type, one.message.content, one.finish_reason) == ("function", None, reason)
            assert (names[index], texts[index], reasons[index]) == (call.function.name, call.function.arguments, reason)

    def test_a_conversation_with_calls(self, client):
        [call] = create(client, tools=[TOOL], tool_choice="required").choices[0].message.tool_calls
        messages = [
            *MESSAGES,
            {"role": "assistant", "content": None, "tool_calls": [call.model_dump()]},
            {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
        ]
        answer = create(client, messages=messages, tools=[TOOL], parallel_tool_calls=False, max_tokens=10)
        assert answer.choices[0].message.tool_calls is None
        assert answer.choices[0].message.content

    def test_the_clients_own_stream_helper(self, client):
        with client.chat.completions.stream(
            model="tiny-mixtral", messages=MESSAGES, tools=[TOOL], tool_choice="required", max_tokens=150, seed=3
        ) as stream:
            final = stream.get_final_completion()
        assert final.choices[0].message.tool_calls[0].function.parsed_arguments["city"] in ("Rome", "Oslo")


def test_penalties_and_bias(client):
    plain = create(client, temperature=0, max_tokens=8).choices[0].message.content
    forced = create(client, temperature=0, max_tokens=4, logit_bias={"77": 100}).choices[0].message.content
    assert forced == forced[0] * len(forced) != plain[: len(forced)]
    mixed = create(client, temperature=0, max_tokens=8, logit_bias={"77": 20}, frequency_penalty=2, presence_penalty=2)
    assert mixed.usage.completion_tokens > 0
    text = client.completions.create(
        model="tiny-mixtral", prompt="x", max_tokens=3, temperature=0, logit_bias={"77": 100}
    )
    assert text.choices[0].text == forced[0] * 3


@pytest.mark.parametrize(
    ("values", "param", "message"),
    [
        ({"response_format": {"type": "xml"}}, "response_format.type", "xml"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "give {'name'"),
        (
            {"response_format": {"type": "json_object", "json_schema": {"name": "x"}}},
            "response_format.json_schema",
            "leave it out",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}},
            "response_format.json_schema.name",
            "a b",
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"properties": {"age": {"type": "int"}}}},
                }
            },
            "response_format",
            "schema.properties.age: Invalid type: int; correct the schema there",
        ),
        ({"tools": [{"type": "retrieval"}]}, "tools[0].type", "retrieval"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name", "a b"),
        ({"tools": [TOOL], "tool_choice": "always"}, "tool_choice", "always"),
        ({"tool_choice": "required"}, "tool_choice", "tools is empty"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}},
            "tool_choice",
            "names 'f', which is not among the tools (get_weather)",
        ),
        ({"tools": [TOOL], "response_format": {"type": "json_object"}}, "response_format", "leave one of them out"),
        ({"frequency_penalty": 3}, "frequency_penalty", "from -2 to 2"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "keys are token ids"),
        ({"logit_bias": {"100000": 1}}, "logit_bias", "this model's tokens are 0 to"),
    ],
)
def test_what_is_wrong_is_named_and_the_server_stays_up(client, values, param, message):
    with pytest.raises(openai.BadRequestError) as caught:
        create(client, **values)
    assert message in caught.value.message
    assert caught.value.param == param
    assert create(client, max_tokens=1).usage.completion_tokens == 1
