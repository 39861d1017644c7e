"""Grouped experts against the definition in float64: types, skipped experts, extreme routings, errors."""

import pytest
import torch
from tiny_experts import exact, make_layer

from llmrouter.moe.experts import ExpertWeights, grouped_experts, swiglu_weights

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 4e-2, torch.float16: 4e-3}


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("tokens", [1, 2, 16, 50])
def test_the_definition(tokens, dtype, deterministic):
    layer = make_layer(6, 40, 24, 3, tokens, dtype=dtype)
    output = grouped_experts(*layer, deterministic=deterministic)
    assert output.dtype == dtype
    torch.testing.assert_close(output.double(), exact(*layer), atol=TOLERANCE[dtype], rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_matrices_large_enough_to_be_multiplied_by_columns(dtype):
    hidden, index, weights, layer = make_layer(3, 1024, 512, 1, 82, dtype=dtype)
    index[:3], index[3:14], index[14:] = 0, 1, 2  # 3, 11 and 68 rows: both ways of multiplying
    output = grouped_experts(hidden, index, weights, layer)
    torch.testing.assert_close(output.double(), exact(hidden, index, weights, layer), atol=TOLERANCE[dtype], rtol=0)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("tokens", [1, 5, 40])
def test_an_id_that_is_no_expert_computes_nothing(tokens, deterministic):
    hidden, index, weights, layer = make_layer(4, 32, 24, 2, tokens, dtype=torch.float32)
    index[0, 1] = 4
    index[-1] = torch.tensor([9, -1])
    output = grouped_experts(hidden, index, weights, layer, deterministic=deterministic)
    torch.testing.assert_close(output.double(), exact(hidden, index, weights, layer), atol=1e-5, rtol=0)
    assert not output[-1].any()


def test_all_tokens_skipped():
    hidden, index, weights, layer = make_layer(4, 32, 24, 2, 7, dtype=torch.float32)
    assert not grouped_experts(hidden, torch.full_like(index, 4), weights, layer).any()


def test_no_tokens():
    hidden, index, weights, layer = make_layer(4, 32, 24, 2, 1, dtype=torch.float32)
    assert grouped_experts(hidden[:0], index[:0], weights[:0], layer).shape == (0, 32)


def test_nothing_is_dropped_when_all_tokens_choose_one_expert():
    hidden, index, weights, layer = make_layer(8, 32, 24, 1, 200, dtype=torch.float32)
    index[:] = 3
    output = grouped_experts(hidden, index, weights, layer)
    torch.testing.assert_close(output.double(), exact(hidden, index, weights, layer), atol=1e-5, rtol=0)


def test_biases_and_a_gate_of_its_own():
    draw = torch.Generator().manual_seed(1)
    up, down = torch.randn(3, 16, 8, generator=draw), torch.randn(3, 8, 8, generator=draw)
    up_bias, down_bias = torch.randn(3, 16, generator=draw), torch.randn(3, 8, generator=draw)
    layer = ExpertWeights(
        up=up, down=down, up_bias=up_bias, down_bias=down_bias, activation=lambda x: x[..., ::2] * x[..., 1::2]
    )
    hidden = torch.randn(5, 8, generator=draw)
    index, weights = torch.tensor([[0], [2], [2], [1], [0]]), torch.rand(5, 1, generator=draw)
    for row, (expert,) in enumerate(index.tolist()):
        doubled = up[expert] @ hidden[row] + up_bias[expert]
        expected = weights[row] * (down[expert] @ (doubled[::2] * doubled[1::2]) + down_bias[expert])
        output = grouped_experts(hidden, index, weights, layer)[row]
        torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)


def test_matrices_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match=r"gate_up has shape \(2, 6, 4\) and down \(2, 4, 4\)"):
        swiglu_weights(torch.zeros(2, 6, 4), torch.zeros(2, 4, 4))
