"""Choosing tokens: greedy, sampled by the right distribution, reproducible by seed, with exact log-probabilities."""

from collections import Counter
from random import Random

import pytest
import torch

from llmrouter.moe._sampling import Sampling, choose_tokens

LOGITS = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
DRAWS = 4000


def sampling(temperature=1.0, top_p=1.0, top_k=0, seed=0, **values):
    return Sampling(temperature, top_p, top_k, Random(seed), **values)


def shares(**values):
    rows = [sampling(seed=seed, **values) for seed in range(DRAWS)]
    counts = Counter(choice.token for choice in choose_tokens(LOGITS.expand(DRAWS, -1), rows))
    return [counts[token] / DRAWS for token in range(4)]


def test_zero_temperature_is_greedy():
    assert shares(temperature=0.0) == [1, 0, 0, 0]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, [0.5, 0.3, 0.15, 0.05]),
        ({"temperature": 2.0}, [0.379, 0.294, 0.208, 0.120]),
        ({"temperature": 1e-6}, [1, 0, 0, 0]),
        ({"temperature": 1e-300}, [1, 0, 0, 0]),
        ({"top_k": 2}, [0.625, 0.375, 0, 0]),
        ({"top_k": 100}, [0.5, 0.3, 0.15, 0.05]),
        ({"top_p": 0.8}, [0.625, 0.375, 0, 0]),
        ({"top_p": 0.81}, [0.526, 0.316, 0.158, 0]),
        ({"top_p": 1e-9}, [1, 0, 0, 0]),
        ({"top_p": 0.99, "top_k": 1}, [1, 0, 0, 0]),
    ],
)
def test_samples_follow_the_truncated_distribution(values, expected):
    assert shares(**values) == pytest.approx(expected, abs=0.03)


def test_a_row_draws_the_same_in_any_company():
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    alone = choose_tokens(logits[1:2], [sampling(seed=7)])[0]
    rows = [sampling(0.0), sampling(seed=7), sampling(0.5, 0.9, 5, seed=1)]
    assert choose_tokens(logits, rows)[1] == alone


def test_logprobs_are_those_of_the_plain_distribution():
    rows = [sampling(0.5, seed=3, logprobs=True, top_logprobs=2), sampling(0.0), sampling(0.0, logprobs=True)]
    scored, silent, bare = choose_tokens(LOGITS.expand(3, -1), rows)
    assert scored.logprob == pytest.approx(LOGITS[scored.token].item(), abs=1e-6)
    assert [token for token, _ in scored.top] == [0, 1]
    assert [p for _, p in scored.top] == pytest.approx(LOGITS[:2].tolist(), abs=1e-6)
    assert silent.logprob is None
    assert bare.logprob == pytest.approx(LOGITS[0].item(), abs=1e-6)
    assert bare.top == ()


def test_more_top_logprobs_than_tokens():
    choice = choose_tokens(LOGITS[None], [sampling(0.0, logprobs=True, top_logprobs=20)])[0]
    assert len(choice.top) == 4


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_row_with_broken_logits_is_marked_and_spoils_no_other(bad):
    logits = torch.stack([LOGITS, LOGITS.clone().index_fill(0, torch.tensor(1), bad)])
    rows = [sampling(seed=1, logprobs=True), sampling(seed=1, logprobs=True)]
    good, broken = choose_tokens(logits, rows)
    assert good.finite
    assert good.logprob is not None
    assert not broken.finite
    assert choose_tokens(logits[:1], [sampling(seed=1, logprobs=True)]) == [good]


def test_impossible_tokens_are_fine():
    logits = torch.tensor([[float("-inf"), 0.0]])
    assert choose_tokens(logits, [sampling(seed=1)])[0].token == 1
