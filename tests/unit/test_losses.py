import math

import pytest
import torch

from rzero_ray.config.method import LossConfig
from rzero_ray.method.losses import (
    AGGREGATIONS,
    KL_ESTIMATORS,
    UPDATE_RULES,
    imitation_loss,
    importance_weights,
    k3_divergence,
    mismatch_sums,
    policy_loss,
)
from tests.unit.builders import rollout

NO_KL = LossConfig(clip_low=0.2, clip_high=0.3, dual_clip=3.0, kl_coefficient=0.0)


def _loss(ratio: float, advantage: float, config: LossConfig = NO_KL, weight: float = 1.0):
    logprobs = torch.tensor([[math.log(ratio)]], requires_grad=True)
    zero = torch.zeros(1, 1)
    parts = policy_loss(
        logprobs, zero, zero, torch.tensor([[advantage]]), zero + 1, zero + weight, config
    )
    parts.loss.backward()
    assert logprobs.grad is not None
    return parts.loss.item(), logprobs.grad.item(), parts.num_clipped.item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient", "clipped"),
    [
        (1.0, 2.0, -2.0, -2.0, 0),  # on policy: the gradient is -advantage
        (1.2, 1.0, -1.2, -1.2, 0),  # inside the band
        (1.5, 1.0, -1.3, 0.0, 1),  # above 1 + clip_high
        (0.5, 1.0, -0.5, -0.5, 0),  # a good action made rarer is not clipped
        (0.5, -1.0, 0.8, 0.0, 1),  # below 1 - clip_low
        (2.0, -1.0, 2.0, 2.0, 0),  # a bad action made likelier is punished ...
        (5.0, -1.0, 3.0, 0.0, 1),  # ... up to the dual clip
    ],
)
def test_clipped_loss_by_hand(ratio, advantage, loss, gradient, clipped):
    got = _loss(ratio, advantage)
    assert got == pytest.approx((loss, gradient, clipped), abs=1e-6)


def test_tokens_of_weight_zero_count_for_nothing():
    assert _loss(1.1, 1.0, weight=0.0) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("estimator", "value", "gradient"),
    [
        # ratio 2: policy - reference is log 2, d = -log 2
        ("k1", math.log(2), 1.0),
        ("k2", math.log(2) ** 2 / 2, math.log(2)),
        ("k3", 0.5 + math.log(2) - 1, 0.5),  # exp(d) - d - 1, and 1 - exp(d)
    ],
)
def test_kl_term_has_the_value_and_gradient_of_its_estimator(estimator, value, gradient):
    config = LossConfig(kl_coefficient=0.5, kl_estimator=estimator)
    assert _loss(2.0, 0.0, config)[:2] == pytest.approx((0.5 * value, 0.5 * gradient), abs=1e-6)


POLICY, REFERENCE = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.5, 0.3, 0.2])


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_k1_and_k3_are_unbiased(estimator: str):
    exact = (POLICY * (POLICY / REFERENCE).log()).sum()
    estimates = KL_ESTIMATORS[estimator](POLICY.log(), REFERENCE.log())
    torch.testing.assert_close((POLICY * estimates).sum(), exact)


def _kl_gradient(divergence) -> torch.Tensor:
    """Return the gradient of `divergence` by the logits of the policy."""
    logits = POLICY.log().requires_grad_()
    (gradient,) = torch.autograd.grad(divergence(logits.log_softmax(-1)), logits)
    return gradient


def test_expected_gradients_of_the_estimators_are_those_their_docstrings_name():
    expected = {
        "k1": torch.zeros(3),
        "k2": _kl_gradient(lambda log_p: (log_p.exp() * (log_p - REFERENCE.log())).sum()),
        "k3": _kl_gradient(lambda log_p: (REFERENCE * (REFERENCE.log() - log_p)).sum()),
    }
    for name, estimator in KL_ESTIMATORS.items():
        got = _kl_gradient(lambda log_p, e=estimator: (POLICY * e(log_p, REFERENCE.log())).sum())
        torch.testing.assert_close(got, expected[name], rtol=0, atol=1e-6, msg=name)


def test_k3_is_bounded_and_has_no_gradient_beyond():
    logprobs = torch.tensor([-30.0, -3.0], requires_grad=True)
    k3 = k3_divergence(logprobs, torch.zeros(2))
    (gradient,) = torch.autograd.grad(k3.sum(), logprobs)
    assert k3.tolist() == [10.0, 10.0]
    assert gradient.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("aggregation", "weights"),
    [
        ("token_mean", [1 / 8, 1 / 8, 1 / 8]),
        ("sequence_mean", [1 / (3 * 1), 1 / (3 * 2), 1 / (3 * 5)]),
        ("fixed_length", [1 / (3 * 10)] * 3),
    ],
)
def test_weights_of_three_sequences_by_hand(aggregation: str, weights: list[float]):
    assert AGGREGATIONS[aggregation]([1, 2, 5], 10) == pytest.approx(weights)


@pytest.mark.parametrize(
    ("aggregation", "loss"),
    [
        ("token_mean", -(1 * 3.0 - 3 * 1.0) / 4),
        ("sequence_mean", -(3.0 - 1.0) / 2),
        ("fixed_length", -(1 * 3.0 - 3 * 1.0) / (2 * 5)),
    ],
)
def test_aggregated_loss_on_policy_by_hand(aggregation: str, loss: float):
    """One token of advantage 3, three tokens of advantage -1, at most five tokens."""
    first, second = AGGREGATIONS[aggregation]([1, 3], 5)
    weights = torch.tensor([[first, 0.0, 0.0], [second, second, second]])
    zeros, advantages = torch.zeros(2, 3), torch.tensor([[3.0], [-1.0]])
    parts = policy_loss(zeros, zeros, zeros, advantages, zeros + 1, weights, NO_KL)
    assert parts.loss.item() == pytest.approx(loss, abs=1e-6)


def test_metrics_count_tokens_whatever_their_weight():
    logprobs = torch.tensor([[math.log(1.5), math.log(1.5), 0.0]])
    zeros, weights = torch.zeros(1, 3), torch.tensor([[0.25, 0.0, 0.125]])
    ones, advantage = torch.ones(1, 3), torch.ones(1, 1)
    parts = policy_loss(logprobs, zeros, zeros, advantage, ones, weights, NO_KL)
    assert parts.num_clipped.item() == 1
    assert parts.kl.item() == pytest.approx(1 / 1.5 + math.log(1.5) - 1, abs=1e-6)


def test_importance_weighs_the_surrogate_and_not_the_kl_term():
    config = LossConfig(kl_coefficient=1.0, kl_estimator="k1")
    zeros, ones = torch.zeros(1, 1), torch.ones(1, 1)
    parts = policy_loss(zeros, zeros, zeros - 0.25, ones, 2 * ones, ones, config)
    assert parts.loss.item() == pytest.approx(-2.0 + 0.25)


def test_importance_weights_are_truncated_ratios_without_gradient():
    trainer = torch.tensor([math.log(0.5), math.log(0.9), -1.0], requires_grad=True)
    sampler = torch.tensor([math.log(0.4), math.log(0.1), -1.0])
    weights = importance_weights(trainer, sampler, cap=2.0)
    torch.testing.assert_close(weights, torch.tensor([1.25, 2.0, 1.0]))
    assert not weights.requires_grad
    assert importance_weights(trainer, sampler, cap=0.0).tolist() == [1.0, 1.0, 1.0]


def test_mismatch_of_trainer_and_sampler_by_hand():
    sampler = torch.tensor([[0.5, 0.4, 0.2, 0.9]]).log()
    trainer = torch.tensor([[0.5, 0.5, 0.6, 0.1]]).log()
    mask = torch.tensor([[1.0, 1.0, 1.0, 0.0]])  # ratios 1, 1.25, 3
    sums = mismatch_sums(trainer, sampler, mask, cap=2.0)
    assert sums.importance.item() == pytest.approx(1 + 1.25 + 2)
    assert sums.num_truncated.item() == 1
    assert sums.kl.item() == pytest.approx((1.25 - math.log(1.25) - 1) + (3 - math.log(3) - 1))
    assert sums.difference.item() == pytest.approx(math.log(1.25) + math.log(3))
    assert sums.max_difference.item() == pytest.approx(math.log(3))
    off = mismatch_sums(trainer, sampler, mask, cap=0.0)
    assert (off.importance.item(), off.num_truncated.item()) == (3, 0)


def test_imitation_is_the_cross_entropy_with_the_gradient_of_advantage_one():
    torch.manual_seed(0)
    values, weights = torch.randn(3, 5) - 2, torch.rand(3, 5)
    gradients = []
    for loss_of in (
        lambda x: imitation_loss(x, values, weights),
        lambda x: policy_loss(
            x, values, values, torch.ones(3, 1), torch.ones(3, 5), weights, NO_KL
        ),
    ):
        logprobs = values.clone().requires_grad_()
        parts = loss_of(logprobs)
        parts.loss.backward()
        gradients.append(logprobs.grad)
        last = parts.loss.item()
    assert torch.allclose(gradients[0], gradients[1])
    assert imitation_loss(values, values, weights).loss.item() == pytest.approx(
        -(values * weights).sum().item()
    )
    assert last != pytest.approx(-(values * weights).sum().item())


def test_what_has_a_gradient():
    silent, taught = (rollout([1], [2], advantage=value) for value in (0.0, -0.5))
    has_gradient = UPDATE_RULES["with_gradient"]
    assert not has_gradient([silent, silent], NO_KL)
    assert has_gradient([silent, taught], NO_KL)
    assert has_gradient([silent, silent], LossConfig(kl_coefficient=1e-3))
    assert UPDATE_RULES["every"]([silent, silent], NO_KL)
