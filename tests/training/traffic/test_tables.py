"""Token tables that carry another encoder's vectors, without torch."""

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from llmrouter.encoders import HeadEncoder, ProjectionHead, StaticEncoder, save_head
from llmrouter.exceptions import DataError, EncoderError
from training.distill import write_static
from training.traffic import tables

WORDS = [f"w{number}" for number in range(40)]
DIMENSION = 6


def tokenizer(words=WORDS):
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="w0"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made


@pytest.fixture
def base(tmp_path):
    table = np.random.default_rng(0).normal(size=(len(WORDS), DIMENSION))
    write_static(table, tokenizer(), tmp_path / "base", name="toy", about={"source": "toy"})
    return StaticEncoder(tmp_path / "base")


@pytest.fixture
def prompts():
    rng = np.random.default_rng(1)
    return [" ".join(rng.choice(WORDS[1:35], size=rng.integers(3, 12))) for _ in range(160)]


@pytest.fixture
def teacher(base, prompts):
    """Vectors of 9 dimensions from a table that shares nothing with the base."""
    table = np.random.default_rng(2).normal(size=(len(WORDS), 9))
    rows = np.array([table[ids].mean(axis=0) for ids in base.token_ids(prompts)])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def neighbours(rows):
    rows = rows - rows.mean(axis=0)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows @ rows.T)[np.triu_indices(len(rows), 1)]


def test_a_carried_table_places_new_prompts_as_the_other_encoder_does(base, prompts, teacher, tmp_path):
    made = tables.write_carried(base.path, prompts[:120], teacher[:120], tmp_path / "carried", about={"source": "toy"})
    assert made.prompts == 120
    assert made.after > made.before + 0.2
    carried = StaticEncoder(tmp_path / "carried")
    wanted = neighbours(teacher[120:])
    before, after = (np.corrcoef(neighbours(of.encode(prompts[120:])), wanted)[0, 1] for of in (base, carried))
    assert after > before + 0.3
    assert carried.fingerprint != base.fingerprint


def test_tokens_that_no_prompt_has_are_only_turned(base, prompts, teacher):
    made = tables.carry(base, prompts, teacher)
    unseen, table = slice(35, 40), base.table.astype(np.float64)
    np.testing.assert_allclose(made.table[unseen] @ made.table[unseen].T, table[unseen] @ table[unseen].T, atol=1e-9)


def test_the_left_out_residuals_are_those_of_fits_without_the_prompt():
    rng = np.random.default_rng(3)
    counts, goal, penalty = rng.normal(size=(9, 4)), rng.normal(size=(9, 2)), 0.7
    values, basis = np.linalg.eigh(counts @ counts.T)
    left_out, dual = tables._left_out(values, basis, basis.T @ goal, penalty)
    eye = np.eye(4)
    np.testing.assert_allclose(
        counts.T @ dual, np.linalg.solve(counts.T @ counts + penalty * eye, counts.T @ goal), atol=1e-9
    )
    for row in range(9):
        rest = np.arange(9) != row
        weights = np.linalg.solve(counts[rest].T @ counts[rest] + penalty * eye, counts[rest].T @ goal[rest])
        np.testing.assert_allclose(left_out[row], goal[row] - counts[row] @ weights, atol=1e-9)


def test_carrying_is_seeded_and_bounded(base, prompts, teacher, monkeypatch):
    monkeypatch.setattr(tables, "MOST_PROMPTS", 50)
    first, again, other = (tables.carry(base, prompts, teacher, seed=seed) for seed in (1, 1, 2))
    assert first.prompts == 50
    np.testing.assert_array_equal(first.table, again.table)
    assert not np.array_equal(first.table, other.table)


def test_what_cannot_be_carried_is_said(base, prompts, teacher):
    with pytest.raises(DataError, match=r"6 dimensions needs as many prompts.*got 5; .*--dimension"):
        tables.carry(base, prompts[:5], teacher[:5])
    with pytest.raises(DataError, match="got 160 prompts and vectors of shape"):
        tables.carry(base, prompts, teacher[:9])
    with pytest.raises(DataError, match="at least 6 dimensions"):
        tables.carry(base, prompts, teacher[:, :4])


def test_a_folded_head_gives_the_heads_vectors(base, prompts, tmp_path):
    head = ProjectionHead((np.random.default_rng(4).normal(scale=9.0, size=(DIMENSION, 5)),))
    save_head(tmp_path / "head", head, base=str(base.path), base_fingerprint=base.fingerprint, about={})
    config = tables.fold_head(base, head, tmp_path / "folded", about={"source": base.fingerprint})
    assert config["source"] == base.fingerprint
    folded, whole = StaticEncoder(tmp_path / "folded"), HeadEncoder(tmp_path / "head")
    np.testing.assert_allclose(folded.encode(prompts), whole.encode(prompts), atol=3e-3)


def test_only_one_layer_over_this_table_is_folded(base, tmp_path):
    two = ProjectionHead((np.ones((DIMENSION, 3)), np.ones((3, 2))))
    with pytest.raises(EncoderError, match="one layer over 6 dimensions"):
        tables.fold_head(base, two, tmp_path / "folded", about={})
    with pytest.raises(EncoderError, match="one layer over 6 dimensions"):
        tables.fold_head(base, ProjectionHead((np.ones((7, 3)),)), tmp_path / "folded", about={})


def test_a_table_goes_with_its_own_tokenizer(tmp_path):
    with pytest.raises(EncoderError, match="tokenizer has 39 tokens, the table 40 rows"):
        write_static(np.zeros((40, 2)), tokenizer(WORDS[:39]), tmp_path / "static", name="toy", about={})
    assert not (tmp_path / "static").exists()
