"""The log as training reads it: which outcomes count, what is known of their propensities, and files of them."""

import dataclasses

import numpy as np
import pytest
from logged_traffic import MODELS, START, KindEncoder, outcomes

from llmrouter.exceptions import ConfigError, DataError
from llmrouter.learning import TrainingLog, outcomes_of
from llmrouter.outcomes import export_outcomes, open_store


def of(made, **settings):
    return TrainingLog.of(made, KindEncoder(), **settings)


def test_rows_are_in_order_of_time_and_hold_what_was_logged():
    made = outcomes(40)
    log = of(made[::-1])
    assert log.models == MODELS
    assert log.table.prompt_ids == tuple(outcome.request_id for outcome in made)
    np.testing.assert_array_equal(log.quality(), [outcome.quality for outcome in made])
    np.testing.assert_array_equal(log.cost(), [outcome.cost_usd for outcome in made])
    np.testing.assert_allclose(log.utility(0.5, 0.01), log.quality() - 0.5 * log.cost() / 0.01)
    decisions = log.decisions(log.quality())
    np.testing.assert_array_equal(decisions.propensity, [outcome.propensity for outcome in made])
    np.testing.assert_allclose(decisions.propensities.sum(axis=1), 1.0)
    assert decisions.cluster is None


def test_texts_or_embeddings_give_the_same():
    np.testing.assert_allclose(of(outcomes(30)).X, of(outcomes(30, prompts="embedding")).X, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"cache": "hit"}, "no outcome to learn from"),
        ({"prompt": None}, "text or embedding"),
        ({"status": "error", "quality": None}, "no outcome to learn from"),
    ],
)
def test_what_says_nothing_is_left_out(changes, match):
    one, *rest = outcomes(20)
    log = of([dataclasses.replace(one, **changes), *rest])
    assert one.request_id not in log.table.prompt_ids
    assert len(log) == 19
    with pytest.raises(DataError, match=match):
        of([dataclasses.replace(outcome, **changes) for outcome in rest])


def test_a_fallback_and_a_named_model_were_drawn_by_nobody():
    first, second, *rest = outcomes(20)
    other = MODELS[1 - MODELS.index(first.model)]
    log = of([dataclasses.replace(first, served_by=other), dataclasses.replace(second, policy="pinned"), *rest])
    decisions = log.decisions(log.quality())
    assert np.isnan(decisions.propensity[:2]).all()
    assert np.isnan(decisions.propensities[:2]).all()
    assert np.isfinite(decisions.propensity[2:]).all()
    assert decisions.left_out["propensity unknown"] == 2
    assert log.served[0] == MODELS.index(other)


def test_propensities_of_old_logs_are_unknown_not_wrong():
    made = outcomes(10)
    old = [
        dataclasses.replace(
            outcome,
            candidates={model: {"quality": 0.5, "cost_usd": 0.001} for model in MODELS},
        )
        for outcome in made
    ]
    log = of(old)
    assert np.isnan(log.propensities).all()
    assert np.isfinite(log.decisions(log.quality()).propensity).all()


def test_models_that_could_not_take_the_request_are_not_offered():
    one, *rest = outcomes(10)
    facts = {**one.candidates, "huge": {"quality": 0.9, "propensity": 0.0, "eligible": 0.0}}
    log = of([dataclasses.replace(one, candidates=facts), *rest])
    assert log.requests()[0].allowed_models == MODELS
    assert log.requests()[1].allowed_models is None
    assert all(request.dry_run and not request.explore for request in log.requests())


def test_conversations_are_clusters():
    made = [dataclasses.replace(o, conversation_id=f"c{n % 3}" if n < 9 else None) for n, o in enumerate(outcomes(20))]
    assert len(set(of(made).decisions(of(made).quality()).cluster.tolist())) == 3 + 11


def test_split_in_time():
    made = [dataclasses.replace(o, quality=None if n % 4 else o.quality) for n, o in enumerate(outcomes(200))]
    early, late = of(made).split(0.3)
    assert early.span[1] < late.span[0]
    assert late.judged.sum() / 50 == pytest.approx(0.3, abs=0.03)
    same = [dataclasses.replace(o, time=START) for o in made]
    with pytest.raises(DataError, match="same moment"):
        of(same).split(0.3)
    with pytest.raises(DataError, match="within"):
        of(made).split(1.0)


def test_bounds_of_time():
    assert len(of(outcomes(60), since=START + 600, until=START + 1200)) == 10


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_an_exported_file_is_the_log(tmp_path, suffix):
    made = outcomes(50)
    store = open_store(f"sqlite:///{tmp_path}/log.db")
    store.append(made)
    with outcomes_of(f"sqlite:///{tmp_path}/log.db") as found:
        stored = list(found)
    export_outcomes(store.scan(), tmp_path / f"log.{suffix}")
    store.close()
    with outcomes_of(str(tmp_path / f"log.{suffix}")) as found:
        read = list(found)
    assert len(read) == len(stored) == 50
    for ours, theirs in zip(of(read).outcomes, of(stored).outcomes):
        assert (ours.request_id, ours.model, ours.quality, ours.propensity) == (
            theirs.request_id,
            theirs.model,
            theirs.quality,
            theirs.propensity,
        )
        assert ours.candidates == theirs.candidates
    with outcomes_of(str(tmp_path / f"log.{suffix}"), since=START + 600) as found:
        assert len(list(found)) == 40


@pytest.mark.parametrize(
    ("source", "error", "match"),
    [
        ("nowhere.jsonl", DataError, "neither the URL"),
        ("sqlite:///nowhere.db", DataError, "no gateway has logged"),
        ("nonsense://x", ConfigError, "nonsense"),
    ],
)
def test_logs_that_are_not_there(source, error, match, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=match), outcomes_of(source):
        pass


def test_files_that_are_something_else(tmp_path):
    (tmp_path / "other.jsonl").write_text('{"prompt": "x", "model": "y"}\n')
    (tmp_path / "broken.jsonl").write_text('{"prompt_id": \n')
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    for name, match in (("other.jsonl", "outcomes export"), ("broken.jsonl", "line 1"), ("broken.parquet", "Parquet")):
        with pytest.raises(DataError, match=match), outcomes_of(str(tmp_path / name)) as found:
            list(found)
