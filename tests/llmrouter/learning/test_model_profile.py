"""A new model is asked the prompts that tell most, within a budget, and its answers are judged and kept."""

import asyncio

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trained_pool import table, trained

from llmrouter.exceptions import BackendConnectError, BackendStatusError, ConfigError, DataError
from llmrouter.learning import (
    AnswerFile,
    FunctionScorer,
    KeptAnswer,
    ProfileSettings,
    References,
    Score,
    plan_profile,
    run_profile,
)
from llmrouter.learning._scorers import text_hash
from llmrouter.pool import ScriptedBackend
from llmrouter.types import Price

PRICE = Price(1000.0, 2000.0)
TRAINED = trained(n=80)


def settings_of(**given):
    return ProfileSettings(**{"prompts": 10, "max_usd": 1e9, "max_output_tokens": 8, **given})


def planned(settings=None, *, data=None, **given):
    data, X = table(80) if data is None else data
    return plan_profile(TRAINED, data, X, PRICE, settings or settings_of(), **given)


def asked(plan, backend, settings=None, scorer=None, **given):
    scorer = scorer or FunctionScorer(lambda _prompt, answer, _reference: float(answer == "yes"), name="test")
    return asyncio.run(run_profile(plan, backend, PRICE, scorer, settings or settings_of(), **given))


def said(body):
    return body["messages"][0]["content"]


# The plan


def test_the_plan_covers_the_table_and_says_what_it_costs():
    plan = planned()
    assert len(plan.questions) == len(set(plan.rows.tolist())) == 10
    assert set(table(80)[1][plan.rows].argmax(axis=1).tolist()) == {0, 1, 2, 3}  # every topic
    assert 0 < plan.expected_usd < plan.most_usd
    longest = max(len(question.text) for question in plan.questions)
    assert plan.most_usd >= 10 * PRICE.cost_usd(longest // 8, 8)


def test_equal_prompts_are_asked_once():
    data, X = table(80)
    import dataclasses

    same = dataclasses.replace(data, texts=("the same",) * 70 + data.texts[70:])
    plan = plan_profile(TRAINED, same, X, PRICE, settings_of(prompts=50))
    texts = [question.text for question in plan.questions]
    assert len(texts) == len(set(texts)) == 11


def test_only_prompts_that_can_be_checked_are_chosen_where_that_is_needed():
    data, _ = table(80)
    references = References(by_id={"p3": {"answer": "a"}}, by_text={text_hash(data.texts[9] or ""): {"answer": "b"}})
    plan = planned(references=references, only_referenced=True)
    assert {question.prompt_id for question in plan.questions} == {"p3", "p9"}
    assert all(question.reference for question in plan.questions)
    with pytest.raises(DataError, match="no prompt with a text and a reference"):
        planned(only_referenced=True)


def test_a_one_armed_log_without_some_of_the_models_will_do():
    data, X = table(80, sparse=True)
    plan = planned(data=(data.select_models(["middle"]), X))
    assert len(plan.questions) == 10


def test_a_table_without_texts_will_not():
    with pytest.raises(DataError, match="no prompt with a text"):
        planned(data=table(80, texts=False))


@pytest.mark.parametrize("wrong", [{"prompts": 0}, {"concurrency": 0}, {"max_usd": -1}, {"max_usd": float("nan")}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError) as caught:
        settings_of(**wrong)
    assert caught.value.path == next(iter(wrong))


# The run


def test_answers_are_scored_and_counted():
    plan = planned()
    backend = ScriptedBackend("new", reply=lambda body: "yes" if "topic 1" in said(body) else "no")
    steps = []
    result = asked(plan, backend, progress=steps.append)
    assert result.scored == 10
    for question, kept in zip(plan.questions, result.answers, strict=True):
        assert kept.prompt_id == question.prompt_id
        assert kept.quality == float(question.text.endswith("topic 1"))
    assert result.spent_usd == pytest.approx(sum(kept.cost_usd for kept in result.answers))
    assert [step.done for step in steps] == list(range(1, 11))
    body = backend.bodies[0]
    assert body["max_tokens"] == 8
    assert list(body) == ["messages", "max_tokens"]


def test_the_name_of_the_limit_is_the_upstream_s():
    backend = ScriptedBackend("new")
    asked(planned(), backend, settings_of(limit_field="max_completion_tokens", body={"temperature": 0}))
    assert backend.bodies[0]["max_completion_tokens"] == 8
    assert backend.bodies[0]["temperature"] == 0


def test_at_most_so_many_calls_at_a_time():
    now = most = 0

    class Counting(ScriptedBackend):
        async def complete(self, body, **given):
            nonlocal now, most
            now += 1
            most = max(most, now)
            await asyncio.sleep(0.002)
            try:
                return await super().complete(body, **given)
            finally:
                now -= 1

    asked(planned(settings_of(prompts=20)), Counting("new"), settings_of(concurrency=3))
    assert most == 3


@settings(max_examples=30, deadline=None)
@given(share=st.floats(0, 1.2), concurrency=st.integers(1, 8))
def test_the_budget_is_never_exceeded(share, concurrency):
    plan = planned(settings_of(prompts=12))
    budget = share * plan.most_usd
    backend = ScriptedBackend("new", reply="eight words are in this answer, no more")
    result = asked(plan, backend, settings_of(max_usd=budget, concurrency=concurrency))
    assert result.spent_usd <= budget
    assert len(backend.bodies) + result.over_budget == 12
    assert len(backend.bodies) == sum(kept is not None for kept in result.answers)
    if share >= 1:
        assert result.over_budget == 0


def test_a_provider_that_counts_nothing_is_charged_the_most():
    class Silent(ScriptedBackend):
        async def complete(self, body, **given):
            response = await super().complete(body, **given)
            import dataclasses

            return dataclasses.replace(
                response, body=orjson.dumps({k: v for k, v in orjson.loads(response.body).items() if k != "usage"})
            )

    plan = planned()
    result = asked(plan, Silent("new"))
    assert result.spent_usd == pytest.approx(plan.most_usd)
    assert all(kept.cost_usd is None for kept in result.answers)


def test_what_may_pass_is_tried_again_and_what_may_not_is_not(monkeypatch):
    monkeypatch.setattr("llmrouter.learning._profile._FIRST_PAUSE_S", 0.001)
    tries: dict[str, int] = {}

    def reply(body):
        tries[said(body)] = tries.get(said(body), 0) + 1
        if said(body).endswith("topic 0") and tries[said(body)] < 3:
            return BackendConnectError("refused", model="new")
        if said(body).endswith("topic 1"):
            return BackendStatusError("no", model="new", status=400, body=b"")
        return "yes"

    plan = planned(settings_of(prompts=12))
    result = asked(plan, ScriptedBackend("new", reply=reply), settings_of(prompts=12))
    for question, kept in zip(plan.questions, result.answers, strict=True):
        if question.text.endswith("topic 1"):
            assert kept is None
            assert tries[question.text] == 1
        else:
            assert kept.quality == 1.0  # a failure is no judgement
    assert len(result.failures) == sum(question.text.endswith("topic 1") for question in plan.questions)


def test_mostly_failures_are_no_profile_but_what_succeeded_is_kept(tmp_path):
    def reply(body):
        return "yes" if said(body).endswith("topic 2") else BackendStatusError("no", model="new", status=400, body=b"")

    plan = planned(settings_of(prompts=12))
    kept = AnswerFile(tmp_path / "answers.jsonl")
    with pytest.raises(DataError, match="failed, so this is no profile"):
        asked(plan, ScriptedBackend("new", reply=reply), kept=kept)
    again = ScriptedBackend("new", reply="yes")
    result = asked(plan, again, kept=AnswerFile(tmp_path / "answers.jsonl"))
    assert result.scored == 12
    assert not any(said(body).endswith("topic 2") for body in again.bodies)


# What is kept


def test_a_second_run_asks_nothing_and_spends_nothing(tmp_path):
    plan = planned()
    asked(plan, ScriptedBackend("new", reply="yes"), kept=AnswerFile(tmp_path / "a.jsonl"))
    backend = ScriptedBackend("new", reply="no")
    result = asked(plan, backend, kept=AnswerFile(tmp_path / "a.jsonl"))
    assert backend.bodies == []
    assert result.spent_usd == 0
    assert result.scored == 10


def test_another_scorer_judges_the_kept_answers_anew(tmp_path):
    plan = planned()
    asked(plan, ScriptedBackend("new", reply="yes"), kept=AnswerFile(tmp_path / "a.jsonl"))

    class Half:
        name = "half"

        async def score(self, _question, _answer, /):
            return Score(0.5, cost_usd=0.01)

    backend = ScriptedBackend("new")
    result = asked(plan, backend, scorer=Half(), kept=AnswerFile(tmp_path / "a.jsonl"))
    assert backend.bodies == []
    assert {kept.quality for kept in result.answers} == {0.5}
    assert result.spent_usd == pytest.approx(0.1)


def test_a_scorer_that_fails_loses_no_answer(tmp_path):
    def broken(*_):
        raise DataError("the judge is away")

    plan = planned()
    with pytest.raises(DataError, match="the judge is away"):
        asked(
            plan,
            ScriptedBackend("new", reply="yes"),
            scorer=FunctionScorer(broken, name="x"),
            kept=AnswerFile(tmp_path / "a.jsonl"),
        )
    backend = ScriptedBackend("new")
    assert asked(plan, backend, kept=AnswerFile(tmp_path / "a.jsonl")).scored == 10
    assert backend.bodies == []


def test_a_crash_in_the_middle_of_a_line_costs_that_line_only(tmp_path):
    path = tmp_path / "a.jsonl"
    file = AnswerFile(path)
    for number in range(3):
        file.put(KeptAnswer(f"p{number}", f"h{number}", "text", 1, 2, 0.1))
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    again = AnswerFile(path)
    assert set(again.answers) == {"h0", "h1"}
    again.put(KeptAnswer("p3", "h3", "ünï\udc80", None, None, None, quality=0.5, scorer="s"))
    assert set(AnswerFile(path).answers) == {"h0", "h1", "h3"}
    assert AnswerFile(path).get("h3").quality == 0.5


def test_answers_are_for_their_owner_only(tmp_path):
    path = tmp_path / "folder" / "a.jsonl"
    AnswerFile(path).put(KeptAnswer("p", "h", "secret", 1, 1, 0.0))
    assert path.stat().st_mode & 0o077 == 0
    AnswerFile(path).forget()
    assert not path.exists()


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "a.jsonl").mkdir()
    with pytest.raises(DataError, match=r"a\.jsonl"):
        AnswerFile(tmp_path / "a.jsonl")
