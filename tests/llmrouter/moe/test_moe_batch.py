"""The running batch gives the logits of a plain forward pass, whoever joins and leaves."""

import random

import pytest
import torch
from tiny_checkpoints import make_checkpoint

from llmrouter.moe import _batch, load_engine
from llmrouter.moe._batch import RunningBatch

TOLERANCE = 1e-5


def prompts(*lengths, seed=0):
    draw = random.Random(seed)
    return [[draw.randrange(3, 300) for _ in range(length)] for length in lengths]


def reference(model, tokens):
    with torch.inference_mode():
        return model(torch.tensor([tokens])).logits[0, -1]


class Follower:
    """Runs a batch beside plain forward passes over the whole sequences."""

    def __init__(self, model):
        self.model = model
        self.batch = RunningBatch(model)
        self.sequences = []
        self.next = []

    def join(self, new):
        new = sorted(new, key=len, reverse=True)
        self._check(self.batch.prefill(new), new)
        self.sequences += [list(tokens) for tokens in new]

    def decode(self, steps):
        for _ in range(steps):
            for tokens, following in zip(self.sequences, self.next, strict=True):
                tokens.append(following)
            following, self.next = self.next, []
            self._check(self.batch.decode(following), self.sequences)

    def leave(self, row):
        self.batch.remove(row)
        for rows in (self.sequences, self.next):
            rows[row] = rows[-1]
            rows.pop()

    def _check(self, logits, sequences):
        expected = torch.stack([reference(self.model, tokens) for tokens in sequences])
        torch.testing.assert_close(logits, expected, atol=TOLERANCE, rtol=0)
        self.next += logits.argmax(-1).tolist()


def test_joining_and_leaving_mid_flight(engine):
    follower = Follower(engine.model)
    follower.join(prompts(17, 3))
    follower.decode(3)
    follower.join(prompts(40, 1, 9, seed=1))
    follower.decode(3)
    follower.leave(0)
    follower.decode(2)
    follower.leave(3)
    follower.leave(1)
    follower.decode(2)
    follower.join(prompts(5, seed=2))
    follower.decode(2)
    assert len(follower.batch) == 3


def test_a_long_prompt_is_prefilled_in_chunks(engine, monkeypatch):
    monkeypatch.setattr(_batch, "PREFILL_TOKENS", 24)
    monkeypatch.setattr(_batch, "MIN_CHUNK", 8)
    follower = Follower(engine.model)
    follower.join(prompts(30, 7, 1))
    follower.decode(2)
    follower.join(prompts(100, 16, 8, seed=3))
    follower.decode(2)


def test_growing_beyond_a_block_of_columns(engine):
    follower = Follower(engine.model)
    follower.join(prompts(_batch.COLUMN_BLOCK - 2, 2))
    follower.decode(4)


@pytest.mark.parametrize("window", [4, 8])
def test_sliding_window_attention(tmp_path, window):
    follower = Follower(load_engine(make_checkpoint(tmp_path / "m", "mixtral", sliding_window=window)).model)
    follower.join(prompts(20, 3))
    follower.decode(8)


def test_eager_attention_takes_additive_masks(checkpoints):
    model = load_engine(checkpoints["olmoe"]).model
    model.set_attn_implementation("eager")
    follower = Follower(model)
    follower.join(prompts(20, 3))
    follower.decode(3)


def test_logits_do_not_depend_on_batch_mates(engine):
    alone = RunningBatch(engine.model).prefill(prompts(12))
    for mates in range(1, 8):
        together = RunningBatch(engine.model).prefill(prompts(12) + prompts(*[12] * mates, seed=mates))
        torch.testing.assert_close(together[:1], alone, atol=TOLERANCE, rtol=0)


def test_unsorted_or_empty_prompts_are_refused(engine):
    with pytest.raises(ValueError, match="sorted"):
        RunningBatch(engine.model).prefill(prompts(2, 3))
    with pytest.raises(ValueError, match="non-empty"):
        RunningBatch(engine.model).prefill([[1], []])


def test_an_empty_batch_keeps_no_memory(engine):
    batch = RunningBatch(engine.model)
    batch.prefill(prompts(30, 20))
    batch.remove(0)
    batch.remove(0)
    assert len(batch) == 0
    assert batch._cache._stores == {}


def test_writing_outside_a_forward_pass_is_an_error(engine):
    with pytest.raises(RuntimeError, match="forward pass"):
        RunningBatch(engine.model)._cache.update(torch.zeros(1, 2, 1, 8), torch.zeros(1, 2, 1, 8), 0)
