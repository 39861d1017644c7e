"""Who judges a new model's answers, and how judged prompts become scores."""

import asyncio
import json

import numpy as np
import pytest
from test_model_profile import PRICE, TRAINED, asked, planned
from trained_pool import table

from llmrouter.exceptions import BackendConnectError, ConfigError, DataError
from llmrouter.learning import (
    FunctionScorer,
    JudgeScorer,
    LLMJudge,
    Question,
    References,
    ReferenceScorer,
    Score,
    read_references,
    references_of,
    scored_from_profile,
    scored_from_rows,
    scored_from_table,
)
from llmrouter.learning._profile import answer_text
from llmrouter.pool import ScriptedBackend


@pytest.mark.parametrize(
    ("reference", "answer", "quality"),
    [
        ({"answer": "Paris"}, "  paris. ", 1.0),
        ({"answer": "Paris"}, "Paris, France", 0.0),
        ({"answer": "BEAR", "case": True}, "bear", 0.0),
        ({"answer": "1 2 3", "commas": True}, "1, 2, 3", 1.0),
        ({"kind": "numeric", "answer": 42}, "The sum is 42.", 1.0),
        ({"kind": "regex", "pattern": "^a+$"}, "b", 0.0),
    ],
)
def test_references_are_checked_by_their_kind(reference, answer, quality):
    scorer = ReferenceScorer()
    try:
        found = asyncio.run(scorer.score(Question("p", "text", reference), answer))
    finally:
        scorer.close()
    assert found.quality == quality


def test_a_question_without_a_reference_is_not_judged():
    assert asyncio.run(ReferenceScorer().score(Question("p", "text"), "answer")) is None


def test_a_function_that_returns_no_quality_is_told_so():
    async def coroutine(*_):
        return 0.25

    assert asyncio.run(FunctionScorer(coroutine, name="c").score(Question("p", "t"), "a")) == Score(0.25)
    for wrong in (1.5, "good", float("nan")):
        with pytest.raises(DataError, match=r"must return a number in \[0, 1\]"):
            asyncio.run(FunctionScorer(lambda *_, wrong=wrong: wrong, name="x").score(Question("p", "t"), "a"))
    with pytest.raises(ConfigError, match="cannot import"):
        FunctionScorer.of("no.such.module:function")


def test_a_profile_becomes_scores_beside_what_the_others_did():
    data, X = table(80, sparse=True)
    plan = planned(data=(data, X))
    result = asked(plan, ScriptedBackend("new", reply="yes"))
    found = scored_from_profile(TRAINED, plan, result, data, X)
    assert len(found) == 10
    np.testing.assert_array_equal(found.X, X[plan.rows])
    np.testing.assert_array_equal(found.known_quality, data.quality[plan.rows])
    assert (found.quality == 1).all()
    nobody = asked(plan, ScriptedBackend("new"), scorer=FunctionScorer(lambda *_: None, name="none"))
    with pytest.raises(DataError, match="none of 10 answers has a score"):
        scored_from_profile(TRAINED, plan, nobody, data, X)


def test_the_log_s_own_outcomes_become_scores():
    data, X = table(80, sparse=True)
    found = scored_from_table(TRAINED, data, X, "middle")
    assert len(found) == int(np.isfinite(data.quality[:, 1]).sum())
    with pytest.raises(DataError, match="no outcome of 'nobody'"):
        scored_from_table(TRAINED, data, X, "nobody")


class Lengths:
    def encode(self, texts):
        return np.array([[len(text), 1.0, 0, 0, 0, 0] for text in texts], dtype=np.float32)


def test_given_scores_find_their_prompts():
    data, _ = table(80)
    rows = [
        {"prompt_id": "p4", "quality": 1, "output_tokens": 10, "input_tokens": 8},
        {"prompt": "a text of its own", "quality": 0.5, "cost_usd": 0.25},
    ]
    found = scored_from_rows(TRAINED, rows, price=PRICE, encoder=Lengths(), table=data)
    np.testing.assert_array_equal(found.known_quality[0], data.quality[4])
    assert np.isnan(found.known_quality[1]).all()
    np.testing.assert_allclose(found.cost_usd, [PRICE.cost_usd(8, 10), 0.25])
    assert found.X[0, 0] == len(data.texts[4])


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ("text", "must be an object"),
        ({"prompt": "a"}, "quality is required"),
        ({"prompt": "a", "quality": 2}, r"quality must be a number in \[0, 1\]"),
        ({"prompt": "a", "quality": True}, r"quality must be a number in \[0, 1\]"),
        ({"prompt": 3, "quality": 1}, "prompt must be a string"),
        ({"prompt_id": "elsewhere", "quality": 1}, "no text is known"),
        ({"prompt": "a", "quality": 1, "score": 1}, "unknown key 'score'"),
    ],
)
def test_a_wrong_score_is_named(row, what):
    with pytest.raises(DataError, match=what):
        scored_from_rows(TRAINED, [row], price=PRICE, encoder=Lengths(), table=table(80)[0])


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", ""),
        (b"[]", ""),
        (json.dumps({"choices": []}).encode(), ""),
        (json.dumps({"choices": [{"message": {"content": None}}]}).encode(), ""),
        (json.dumps({"choices": [{"message": {"content": "a"}}]}).encode(), "a"),
        (json.dumps({"choices": [{"message": {"content": [{"text": "a"}, {"x": 1}, {"text": "b"}]}}]}).encode(), "ab"),
    ],
)
def test_the_text_of_any_answer(body, text):
    assert answer_text(body) == text


@pytest.mark.parametrize(("reply", "quality"), [('{"score": 10, "reason": "right"}', 1.0), ("I like it", None)])
def test_a_judge_scores_and_is_paid(reply, quality):
    backend = ScriptedBackend("judge", reply=reply)
    scorer = JudgeScorer(LLMJudge(backend, name="judge", price=PRICE))
    found = asyncio.run(scorer.score(Question("p", "What is 1 + 1?", {"answer": "2"}), "two"))
    assert scorer.name == "judge:judge"
    assert "2" in json.dumps(backend.bodies[0]["messages"])  # the right answer lies beside
    if quality is None:
        assert found is None
    else:
        assert found.quality == quality
        assert found.cost_usd > 0
    asyncio.run(scorer.aclose())


def test_a_judge_that_is_away_is_a_failure_and_no_score():
    judge = LLMJudge(ScriptedBackend("judge", reply=BackendConnectError("away", model="judge")), name="j", price=PRICE)
    with pytest.raises(DataError, match="not judged: away"):
        asked(planned(), ScriptedBackend("new"), scorer=JudgeScorer(judge))


def test_references_are_read_by_id_and_by_text(tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_text('{"prompt_id": "p1", "answer": "a"}\n\n{"prompt": "What?", "kind": "numeric", "answer": 3}\n')
    found = read_references(path)
    assert len(found) == 2
    assert found.of("p1", "anything") == {"answer": "a"}
    assert found.of("p9", "What?") == {"kind": "numeric", "answer": 3}
    assert found.of("p9", "else") is None
    assert not References()


@pytest.mark.parametrize("rows", [["text"], [{"answer": "a"}], [{"prompt": "a"}], [{"prompt": 3, "answer": "a"}]])
def test_wrong_references_are_named(rows):
    with pytest.raises(DataError, match=r"answers\[0\]"):
        references_of(rows, source="answers")


def test_a_file_that_is_no_jsonl_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "answer": "b"}\n{')
    with pytest.raises(DataError, match="line 2, is not JSON"):
        read_references(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match="cannot read"):
        read_references(tmp_path / "none.jsonl")


@pytest.mark.parametrize("reference", [{}, {"answer": "a", "colour": "red"}])
def test_a_reference_that_cannot_be_used_is_named(reference):
    with pytest.raises(DataError, match="plain reference"):
        asyncio.run(ReferenceScorer().score(Question("p", "t", reference), "a"))
