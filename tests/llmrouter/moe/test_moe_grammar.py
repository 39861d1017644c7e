"""Answers that follow a JSON schema: valid from random weights, in company as alone, and refused with the place."""

import builtins
import json
import re

import jsonschema
import pytest
import torch

from llmrouter.exceptions import GenerationFailedError, GenerationRequestError, MissingExtraError
from llmrouter.moe import GenerationRequest, ResponseFormat, SelfContrast, Tool, load_engine
from llmrouter.moe._grammar import GrammarMaker

MESSAGES = [{"role": "user", "content": "hello"}]
SCHEMA = {
    "type": "object",
    "properties": {
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
        "colour": {"enum": ["red", "grün", None]},
        "word": {"type": "string", "maxLength": 6},
        "flags": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 2},
        "inner": {"$ref": "#/$defs/inner"},
    },
    "required": ["count", "colour", "word", "flags", "inner"],
    "additionalProperties": False,
    "$defs": {"inner": {"anyOf": [{"const": "none"}, {"type": "number", "multipleOf": 0.5, "maximum": 3}]}},
}


def wanted(schema=SCHEMA, *, strict=True, **values):
    values = {"max_tokens": 200, "temperature": 0.0} | values
    return GenerationRequest(messages=MESSAGES, response_format=ResponseFormat(schema, strict=strict), **values)


@pytest.fixture(scope="module")
def schema_engine(checkpoints):
    return load_engine(checkpoints["qwen3_moe"])


@pytest.fixture
def refusal(schema_engine):
    def refuse(request):
        with pytest.raises(GenerationRequestError) as caught:
            schema_engine.run([request])
        return caught.value

    return refuse


def test_random_weights_give_valid_answers(engine):
    requests = [wanted(), *(wanted(temperature=1.5, seed=seed, top_p=0.8 + 0.1 * (seed % 2)) for seed in range(6))]
    for result in engine.run(requests):
        jsonschema.validate(json.loads(result.text), SCHEMA)
        assert result.finish_reason == "stop"


def test_without_the_schema_the_same_answers_are_no_json(schema_engine):
    plain = GenerationRequest(messages=MESSAGES, max_tokens=40, temperature=0.0)
    with pytest.raises(ValueError, match=r"Expecting|Extra"):
        json.loads(schema_engine.run([plain])[0].text)


@pytest.mark.parametrize("deterministic", [False, True])
def test_others_in_the_batch_are_not_affected(checkpoints, deterministic):
    engine = load_engine(checkpoints["mixtral"], deterministic=deterministic)
    plain = GenerationRequest(messages=MESSAGES, max_tokens=20, temperature=1.0, seed=5, logprobs=True)
    constrained = wanted(temperature=1.0, seed=3, logprobs=True, top_logprobs=2)
    [alone] = engine.run([plain])
    [whole] = engine.run([constrained])
    together = engine.run([constrained, plain, wanted(temperature=1.0, seed=4)])
    assert (together[0].text, together[1].text) == (whole.text, alone.text)
    for one, other in ((together[0], whole), (together[1], alone)):
        scores = [[entry.logprob for entry in result.logprobs] for result in (one, other)]
        assert scores[0] == scores[1] if deterministic else scores[0] == pytest.approx(scores[1], abs=1e-4)


def test_logprobs_are_the_models_own(schema_engine):
    request = wanted({"enum": ["only this"]}, logprobs=True, top_logprobs=1)
    [result] = schema_engine.run([request])
    assert result.text == '"only this"'
    assert any(entry.logprob < -0.1 for entry in result.logprobs)  # no choice, but not what the model would have said
    assert b"".join(entry.bytes for entry in result.logprobs).decode() == result.text


def test_an_answer_cut_off_ends_with_length(schema_engine):
    [result] = schema_engine.run([wanted(max_tokens=3)])
    assert result.finish_reason == "length"
    with pytest.raises(ValueError, match="Expecting|Unterminated"):
        json.loads(result.text)


def test_a_stop_string_still_stops(schema_engine):
    [result] = schema_engine.run([wanted(stop=['"colour"'])])
    assert result.finish_reason == "stop"
    assert '"count"' in result.text
    assert "colour" not in result.text


def test_any_object(schema_engine):
    request = GenerationRequest(
        messages=MESSAGES, response_format=ResponseFormat(), max_tokens=60, temperature=1.0, seed=1
    )
    [result] = schema_engine.run([request])
    assert result.text.startswith("{")


def test_a_raw_prompt_too(schema_engine):
    request = GenerationRequest(prompt="hello", response_format=ResponseFormat({"type": "boolean"}), max_tokens=9)
    assert schema_engine.run([request])[0].text in ("true", "false")


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (
            {"type": "object", "properties": {"a": {"items": {"type": "int"}}}},
            "schema.properties.a.items: Invalid type",
        ),
        ({"anyOf": [{"type": "string"}, {"type": "string", "pattern": "("}]}, r"schema.anyOf[1]: regex parse error"),
        ({"properties": {"a": {"$ref": "#/$defs/b"}}}, "schema.properties.a: Pointer '/$defs/b' does not exist"),
        ({"$ref": "https://example.com/schema.json"}, "does not fetch"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "minimum (5) is greater than maximum (3); correct"),
        (
            {"items": {"uniqueItems": True}},
            'schema.items: Unimplemented keys: ["uniqueItems"]; leave that out, or give',
        ),
        (
            {"oneOf": [{"type": "integer"}, {"type": "number"}]},
            "schema: oneOf constraints are not supported; write anyOf",
        ),
        ({"type": "string", "minLength": -1}, "'minLength', got -1"),
        ({"properties": {"a": {"multipleOf": 9999999}}}, "schema.properties.a.multipleOf is 9999999; the values"),
        ({"allOf": [{"multipleOf": 9973}, {"multipleOf": 9967}]}, "schema.allOf[1].multipleOf is 9967"),
        ({"multipleOf": 0}, "multipleOf is 0; it must be a number above 0"),
        ({"enum": ["x" * 70_000]}, "bytes of JSON; at most 65536"),
        ([1], "schema is [1]; it must be an object"),
        ({"const": float("nan")}, "schema is no JSON"),
    ],
)
def test_a_bad_schema_is_refused_with_its_place(refusal, schema_engine, schema, message):
    error = refusal(wanted(schema))
    assert message in str(error)
    assert error.param == "response_format"
    assert schema_engine.run([wanted({"type": "boolean"})])[0].text in ("true", "false")


def test_a_schema_nested_too_deep_is_refused(refusal):
    schema = {"type": "string"}
    for _ in range(2000):
        schema = {"items": schema}
    assert "nested more than 40 levels" in str(refusal(wanted(schema)))


def test_keywords_that_cannot_be_enforced_are_ignored_where_not_strict(schema_engine):
    schema = {"type": "array", "items": {"type": "boolean"}, "uniqueItems": True, "maxItems": 2}
    [result] = schema_engine.run([wanted(schema, strict=False)])
    assert re.fullmatch(r"\[ ?((true|false)( ?, ?(true|false))?)? ?\]", result.text)


class _Stuck:
    """A grammar that cannot go on after the first token."""

    finished = False
    _accepted = False

    def allowed(self):
        if self._accepted:
            raise GenerationFailedError("the grammar of the answer cannot be followed: too many items")
        return bytes([1] * 300)

    def accept(self, token):
        self._accepted = True


def test_a_grammar_that_cannot_go_on_fails_alone(mixtral, monkeypatch):
    mixtral.start()
    handle = mixtral.submit(wanted({"type": "array", "items": {"type": "boolean"}, "minItems": 20}))
    monkeypatch.setattr(mixtral._grammars, "json", lambda _: _Stuck())
    with pytest.raises(GenerationFailedError, match="too many items"):
        mixtral.submit(wanted()).wait(60)
    assert len(json.loads(handle.wait(60).text)) >= 20


def test_a_grammar_without_a_fitting_token_says_so(schema_engine):
    constraint = schema_engine._grammars.json(ResponseFormat({"type": "boolean"}))
    constraint.accept(77)  # not what the grammar allows
    with pytest.raises(GenerationFailedError, match="grammar of the answer"):
        constraint.allowed()


def test_self_contrast_refuses(checkpoints):
    engine = load_engine(checkpoints["mixtral"], contrast=SelfContrast())
    for ask in (lambda: engine.run([wanted()]), lambda: engine._grammars.tool_call([Tool("now")])):
        with pytest.raises(GenerationRequestError, match="self-contrast, .* serve the model without"):
            ask()
    assert engine.run([GenerationRequest(messages=MESSAGES, max_tokens=2)])


def test_a_vocabulary_that_cannot_spell_json(schema_engine, monkeypatch):
    words = schema_engine.vocabulary
    spelled = words.all_token_bytes()

    def maker(without):
        monkeypatch.setattr(words, "all_token_bytes", lambda: frozenset(t for t in spelled if without not in t))
        return GrammarMaker(words, size=schema_engine._grammars.size, end_tokens=[2])

    with pytest.raises(GenerationRequestError, match=r"has no token for '\{'"):
        maker(b"{").json(ResponseFormat())
    lacking = maker("ü".encode()[1:])
    with pytest.raises(GenerationRequestError, match="has no token for 'ü'"):
        lacking.json(ResponseFormat(SCHEMA))
    assert lacking.json(ResponseFormat({"type": "boolean"})).allowed()


def test_a_word_level_tokenizer_is_refused():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from llmrouter.moe._vocabulary import Vocabulary

    core = Tokenizer(models.WordLevel({"[UNK]": 0, "hello": 1, "[END]": 2}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    vocabulary = Vocabulary(PreTrainedTokenizerFast(tokenizer_object=core, eos_token="[END]", unk_token="[UNK]"))
    with pytest.raises(
        GenerationRequestError, match=r"response_format cannot be followed: .*; .*leave response_format"
    ):
        GrammarMaker(vocabulary, size=3, end_tokens=[2]).json(ResponseFormat())


def test_the_extra_is_named(schema_engine, monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name == "llguidance":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    maker = GrammarMaker(schema_engine.vocabulary, size=schema_engine._grammars.size, end_tokens=[2])
    with pytest.raises(MissingExtraError, match=r"'llguidance': pip install 'llmrouter-service\[moe\]'"):
        maker.json(ResponseFormat())


def test_a_grammar_is_compiled_once(schema_engine, monkeypatch):
    maker = schema_engine._grammars
    schema = {"enum": ["compiled once"]}
    maker.json(ResponseFormat(schema))
    monkeypatch.setattr(maker, "_check", lambda *_, **__: 1 / 0)
    first, second = maker.json(ResponseFormat(schema)), maker.json(ResponseFormat(schema))
    token = torch.frombuffer(bytearray(first.allowed()), dtype=torch.uint8).argmax()
    first.accept(int(token))
    assert first.allowed() != second.allowed()  # each moves on by itself
