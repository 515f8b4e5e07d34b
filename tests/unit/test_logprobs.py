"""Scores and gradients of chosen tokens, chunk by chunk, against torch on all logits at once."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rzero_ray.method import logprobs
from rzero_ray.method.logprobs import score_and_lose, score_tokens

NUM_TOKENS, HIDDEN, VOCAB = 37, 8, 50


@pytest.fixture(params=[1, VOCAB * 5, 2**25], ids=["token-by-token", "chunks", "one-chunk"])
def chunk_elements(request, monkeypatch) -> None:
    monkeypatch.setattr(logprobs, "CHUNK_ELEMENTS", request.param)


def _tensors(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(NUM_TOKENS, HIDDEN, generator=generator, dtype=dtype)
    head = torch.randn(VOCAB, HIDDEN, generator=generator, dtype=dtype)
    tokens = torch.randint(VOCAB, (NUM_TOKENS,), generator=generator)
    return hidden.requires_grad_(), head.requires_grad_(), tokens


def _expected(hidden: Tensor, head: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    scores = torch.log_softmax((hidden @ head.T).float() / temperature, dim=-1)
    return scores.gather(-1, tokens[:, None])[:, 0]


def _token_loss(logprobs_C: Tensor, rows: slice) -> Tensor:
    """Depends on the token's own place and, in a curved way, on its log-probability."""
    weights = torch.arange(NUM_TOKENS, dtype=torch.float32)[rows] - NUM_TOKENS / 3
    return (weights * (logprobs_C * 0.1).exp()).sum()


def test_scores_of_known_distributions():
    logits = torch.tensor([[0.0, math.log(3.0)], [1.0, 1.0]])
    tokens = torch.tensor([1, 0])
    scores, entropies = score_tokens(logits, torch.eye(2), tokens, temperature=1.0)
    torch.testing.assert_close(scores, torch.tensor([0.75, 0.5]).log())
    expected = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    torch.testing.assert_close(entropies, torch.tensor([expected, math.log(2.0)]))
    hot, _ = score_tokens(logits, torch.eye(2), tokens, temperature=0.5)
    torch.testing.assert_close(hot[0], torch.tensor(0.9).log())


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_loss_and_gradients_in_chunks_are_those_of_all_logits_at_once(chunk_elements, temperature):
    hidden, head, tokens = _tensors()
    whole = _expected(hidden, head, tokens, temperature)
    expected_loss = _token_loss(whole, slice(None))
    expected = torch.autograd.grad(3.0 * expected_loss, (hidden, head))
    loss, scores, entropies = score_and_lose(hidden, head, tokens, temperature, _token_loss)
    gradients = torch.autograd.grad(3.0 * loss, (hidden, head))
    torch.testing.assert_close(loss, expected_loss.float(), rtol=1e-5, atol=0)
    torch.testing.assert_close(scores, whole.detach(), rtol=0, atol=1e-5)
    assert not scores.requires_grad
    alone = score_tokens(hidden, head, tokens, temperature)
    torch.testing.assert_close((scores, entropies), alone, rtol=0, atol=0)
    for gradient, value in zip(gradients, expected, strict=True):
        assert value.abs().max() > 1
        torch.testing.assert_close(gradient, value, rtol=1e-4, atol=1e-4)


def test_of_some_tokens_alone_the_others_have_no_probability_and_no_gradient(chunk_elements):
    hidden, head, tokens = _tensors()
    allowed = torch.unique(tokens)
    assert len(allowed) < len(head)
    places = torch.searchsorted(allowed, tokens)
    whole = _expected(hidden, head[allowed], places, 0.7)
    expected_loss = _token_loss(whole, slice(None))
    expected = torch.autograd.grad(expected_loss, (hidden, head))
    loss, scores, entropies = score_and_lose(hidden, head, tokens, 0.7, _token_loss, allowed)
    gradients = torch.autograd.grad(loss, (hidden, head))
    torch.testing.assert_close(scores, whole.detach(), rtol=0, atol=1e-5)
    alone = score_tokens(hidden, head, tokens, 0.7, allowed)
    torch.testing.assert_close((scores, entropies), alone, rtol=0, atol=0)
    few = score_tokens(hidden, head[allowed], places, 0.7)
    torch.testing.assert_close(entropies, few[1], rtol=1e-4, atol=1e-5)
    for gradient, value in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, value, rtol=1e-4, atol=1e-4)
    forbidden = torch.ones(len(head), dtype=torch.bool)
    forbidden[allowed] = False
    assert gradients[1][forbidden].abs().max() == 0


def test_bfloat16_weights_are_scored_in_float32_and_get_bfloat16_gradients(chunk_elements):
    hidden, head, tokens = _tensors(torch.bfloat16)
    loss, scores, _ = score_and_lose(hidden, head, tokens, 1.0, _token_loss)
    gradients = torch.autograd.grad(loss, (hidden, head))
    torch.testing.assert_close(scores, _expected(hidden, head, tokens, 1.0).detach())
    exact_hidden, exact_head = hidden.detach().double(), head.detach().double()
    leaves = exact_hidden.requires_grad_(), exact_head.requires_grad_()
    exact = _token_loss(_expected(*leaves, tokens, 1.0), slice(None))
    for gradient, value in zip(gradients, torch.autograd.grad(exact, leaves), strict=True):
        assert gradient.dtype == torch.bfloat16
        off = (gradient.double() - value).norm() / value.norm()
        assert off < 0.02, off
