"""Routers of the study: what each chooses, how it adapts, and that a model trains and generates with it."""

from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from training.pocket.cli import KINDS as OFFERED  # noqa: E402
from training.pocket.routing import (  # noqa: E402
    BIAS_STEP,
    KINDS,
    LossFreeRouter,
    NullRouter,
    ReluRouter,
    StudyRouter,
    install,
    max_violation,
)
from training.pocket.routing_study import STUDY, study  # noqa: E402
from training.pocket.train import build_model  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_torch_thread")


def own(experts=4, chosen=2, hidden=8):
    weight = torch.nn.Parameter(torch.randn(experts, hidden, generator=torch.Generator().manual_seed(3)))
    return SimpleNamespace(num_experts=experts, top_k=chosen, weight=weight)


TOKENS = torch.randn(50, 8, generator=torch.Generator().manual_seed(4))
ALL = torch.ones(50, dtype=torch.bool)


def test_the_plain_one_is_the_models_own():
    model = build_model(STUDY)
    inputs = torch.arange(4, 24).view(2, 10)
    with torch.no_grad():
        expected = model(inputs).logits
        routers = install(model, "plain")
        torch.testing.assert_close(model(inputs).logits, expected, rtol=1e-5, atol=1e-5)
    assert len(routers) == 2


def test_null_experts_take_slots_but_no_weight():
    router = NullRouter(own())
    logits, weights, index = router(TOKENS)
    assert logits.shape == (50, 12)
    assert index.shape == (50, 3)
    null = index >= 4
    assert null.any()
    assert not weights[null].any()
    sums = weights.sum(-1)
    assert torch.allclose(sums[~null.all(-1)], torch.tensor(1.0))
    assert not sums[null.all(-1)].any()
    assert int(router.loads(ALL).sum()) == int((~null).sum())


def test_relu_weights_are_the_positive_logits():
    router = ReluRouter(own())
    logits, weights, index = router(TOKENS)
    assert torch.equal(weights, logits.relu())
    assert torch.equal(index < 4, logits > 0)
    used = float((logits > 0).sum()) / 50
    assert 1 < used < 4
    before = router.penalty
    for chosen, factor in ((1, 1.2), (4, 1 / 1.2)):
        router.chosen, router.penalty = chosen, before
        router.after_step(ALL)
        assert router.penalty / before == pytest.approx(factor)
    assert float(router.auxiliary(ALL).detach()) == pytest.approx(
        router.penalty * float((logits.detach().relu() * (logits > 0).float().mean(0) * 4 / 4).sum(-1).mean()), rel=1e-4
    )


def test_the_bias_moves_choices_and_no_weights():
    router = LossFreeRouter(own())
    _, before, _ = router(TOKENS)
    scores = router.logits.softmax(-1)
    router.bias += torch.tensor([5.0, 0.0, 0.0, 0.0])
    _, weights, index = router(TOKENS)
    assert (index == 0).any(-1).all()
    chosen = scores.gather(1, index)
    torch.testing.assert_close(weights, chosen / chosen.sum(-1, keepdim=True))
    assert not torch.equal(before, weights)
    bias, loads = router.bias.clone(), router.loads(ALL).float()
    router.after_step(ALL)
    torch.testing.assert_close(router.bias - bias, BIAS_STEP * torch.sign(25 - loads), rtol=1e-3, atol=1e-6)
    assert float(router.auxiliary(ALL)) == 0


def test_biases_even_out_fixed_tokens():
    router = LossFreeRouter(own(chosen=1))
    with torch.no_grad():
        router.weight[0] += 0.5 * TOKENS.mean(0) / TOKENS.mean(0).norm()
        router(TOKENS)
        before = max_violation([router.loads(ALL)])
        for _ in range(1500):
            router(TOKENS)
            router.after_step(ALL)
    assert max_violation([router.loads(ALL)]) < 0.5 * before


def test_padding_is_not_counted():
    router = StudyRouter(own())
    router(TOKENS)
    few = torch.arange(50) < 10
    assert int(router.loads(few).sum()) == 20


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_trains_and_answers_with_it(kind):
    row = study(kind, steps=3, each=1)
    assert row["steps"] == 3
    assert row["loss"] > 0
    assert 0 <= row["quality"] <= 1
    assert 0 < row["experts_a_token"] <= 8
    assert row["max_violation"] >= 0
    if kind in ("plain", "loss-free"):
        assert row["experts_a_token"] == pytest.approx(2)


def test_violation_is_that_of_the_fullest():
    assert max_violation([torch.tensor([2, 2]), torch.tensor([3, 1])]) == pytest.approx(0.25)


def test_what_cannot_be_routed():
    with pytest.raises(ValueError, match="routing is 'best'; one of plain, null, relu, loss-free"):
        install(build_model(STUDY), "best")
    with pytest.raises(ValueError, match="not a mixture of experts whose router weights sum to one"):
        install(torch.nn.Linear(2, 2), "plain")


def test_the_command_offers_all():
    assert OFFERED == KINDS
