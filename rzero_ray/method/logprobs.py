"""Log-probabilities, entropies and the loss of chosen tokens, from hidden states in chunks.

The logits of a micro-batch, tokens x vocabulary, are what a learner's memory goes to: 1.2 GB in
float32 for 2,000 tokens of Qwen3's vocabulary, several times over with their gradient. Here only a
chunk of them exists at a time, and only of positions whose next token is learned from.

Where only some tokens may be drawn, the others have no probability.

Shapes: N chosen tokens, C of a chunk, D hidden size, V vocabulary, A tokens that may be drawn.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

CHUNK_ELEMENTS = 2**25
"""Logits of one chunk, 128 MiB in float32: two or three such tensors exist at a time.

On a CPU too, although no cache holds it: each chunk reads the head and adds to its gradient, so
small ones cost more than they save. Processor time of loss and gradient on one core, 2**20 against
2**25, hidden size 128 to 192: 1.4 times with 32,000 tokens in the vocabulary, 1.9 with 152,000, and
0.95 with 1,024."""

TokenLoss = Callable[[Tensor, slice], Tensor]
"""From [C] log-probabilities, and which of the N tokens they belong to, to the sum of their losses.

The loss of a token may depend on its own log-probability alone, not on another token's."""


_IMPOSSIBLE = -1e30
"""The logit of a token that may not be drawn: its probability is 0, and so is their product, which
minus infinity would make no number."""


@torch.no_grad()
def score_tokens(
    hidden_ND: Tensor,
    head_VD: Tensor,
    tokens_N: Tensor,
    temperature: float,
    allowed_A: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return [N] log-probability of each token and [N] entropy, nats.

    Of softmax(hidden @ head.T / temperature) over the tokens `allowed_A`, None for all, in float32
    whatever the type of the weights, so that they compare with the sampler's.
    """
    logprobs_N = hidden_ND.new_empty(len(tokens_N), dtype=torch.float32)
    entropies_N = torch.empty_like(logprobs_N)
    forbidden_V = _forbidden(allowed_A, len(head_VD))
    for rows in _chunks(len(tokens_N), len(head_VD)):
        logits_CV = _logits(hidden_ND[rows], head_VD, temperature, forbidden_V)
        logprobs_N[rows], entropies_N[rows], _ = _read(logits_CV, tokens_N[rows])
    return logprobs_N, entropies_N


def score_and_lose(
    hidden_ND: Tensor,
    head_VD: Tensor,
    tokens_N: Tensor,
    temperature: float,
    token_loss: TokenLoss,
    allowed_A: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss, and what `score_tokens` returns, which carry no gradient.

    Gradients of hidden states and head are taken chunk by chunk while the chunk's logits are there,
    because the loss of a token needs no other token: nothing is computed twice, and nothing of size
    N x V is kept for the backward pass. A frozen head gets no gradient, and no memory for one.
    """
    forbidden_V = _forbidden(allowed_A, len(head_VD))
    return _HeadLoss.apply(hidden_ND, head_VD, tokens_N, temperature, token_loss, forbidden_V)  # type: ignore[return-value]


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        head_VD: Tensor,
        tokens_N: Tensor,
        temperature: float,
        token_loss: TokenLoss,
        forbidden_V: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        grad_hidden_ND = torch.empty_like(hidden_ND)
        # In float32: one of many small terms would round away in bfloat16.
        is_trained = ctx.needs_input_grad[1]
        grad_head_VD = torch.zeros_like(head_VD, dtype=torch.float32) if is_trained else None
        logprobs_N = hidden_ND.new_empty(len(tokens_N), dtype=torch.float32)
        entropies_N = torch.empty_like(logprobs_N)
        loss = logprobs_N.new_zeros(())
        for rows in _chunks(len(tokens_N), len(head_VD)):
            tokens_C = tokens_N[rows]
            logits_CV = _logits(hidden_ND[rows], head_VD, temperature, forbidden_V)
            logprobs_N[rows], entropies_N[rows], probabilities_CV = _read(logits_CV, tokens_C)
            part, grad_C = _value_and_gradient(token_loss, logprobs_N[rows], rows)
            loss += part
            # d logprob / d logits = (1 at the token) - probabilities.
            grad_C = grad_C / temperature
            grad_CV = probabilities_CV.mul_(-grad_C[:, None])
            grad_CV.scatter_add_(1, tokens_C[:, None], grad_C[:, None])
            grad_CV = grad_CV.to(hidden_ND.dtype)
            torch.mm(grad_CV, head_VD, out=grad_hidden_ND[rows])
            if grad_head_VD is None:
                continue
            if grad_head_VD.dtype == grad_CV.dtype:
                grad_head_VD.addmm_(grad_CV.T, hidden_ND[rows])
            else:
                grad_head_VD += grad_CV.T @ hidden_ND[rows]
        if grad_head_VD is not None:
            grad_head_VD = grad_head_VD.to(head_VD.dtype)
        ctx.save_for_backward(grad_hidden_ND, grad_head_VD)
        ctx.mark_non_differentiable(logprobs_N, entropies_N)
        return loss, logprobs_N, entropies_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden_ND, grad_head_VD = ctx.saved_tensors
        # In place: nothing else needs them, and the second is as large as the head.
        of_head = None if grad_head_VD is None else grad_head_VD.mul_(grads[0])
        return grad_hidden_ND.mul_(grads[0]), of_head, None, None, None, None


def _chunks(num_tokens: int, vocab_size: int) -> Iterator[slice]:
    size = max(1, CHUNK_ELEMENTS // vocab_size)
    for start in range(0, num_tokens, size):
        yield slice(start, min(start + size, num_tokens))


def _forbidden(allowed_A: Tensor | None, vocab_size: int) -> Tensor | None:
    """Return [V] whether a token may not be drawn; None where all may."""
    if allowed_A is None:
        return None
    forbidden_V = torch.ones(vocab_size, dtype=torch.bool, device=allowed_A.device)
    forbidden_V[allowed_A] = False
    return forbidden_V


def _logits(
    hidden_CD: Tensor, head_VD: Tensor, temperature: float, forbidden_V: Tensor | None
) -> Tensor:
    logits_CV = (hidden_CD @ head_VD.T).float()
    if temperature != 1.0:
        logits_CV.div_(temperature)
    return logits_CV if forbidden_V is None else logits_CV.masked_fill_(forbidden_V, _IMPOSSIBLE)


def _read(logits_CV: Tensor, tokens_C: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return [C] log-probabilities and entropies, and the [C, V] probabilities."""
    normalizer_C = logits_CV.logsumexp(-1)
    logprobs_C = logits_CV.gather(-1, tokens_C[:, None])[:, 0] - normalizer_C
    probabilities_CV = (logits_CV - normalizer_C[:, None]).exp_()
    entropies_C = normalizer_C - torch.linalg.vecdot(probabilities_CV, logits_CV)
    return logprobs_C, entropies_C, probabilities_CV


def _value_and_gradient(
    token_loss: TokenLoss, logprobs_C: Tensor, rows: slice
) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        leaf_C = logprobs_C.detach().requires_grad_()
        loss = token_loss(leaf_C, rows)
        (grad_C,) = torch.autograd.grad(loss, leaf_C)
    return loss.detach(), grad_C
