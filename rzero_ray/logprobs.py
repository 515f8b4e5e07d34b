"""Log-probabilities and entropies of sampled tokens from logits.

Shapes: B sequences, T positions, V vocabulary.
"""

import torch
from torch import Tensor


def token_logprobs(logits_BTV: Tensor, tokens_BT: Tensor, temperature: float) -> Tensor:
    """Return [B, T] log-probability in nats of each token under softmax(logits / temperature).

    Computed in float32 whatever the logits' type, so that it compares with the sampler's.
    """
    scaled = logits_BTV.float() / temperature
    picked = scaled.gather(-1, tokens_BT.unsqueeze(-1)).squeeze(-1)
    return picked - scaled.logsumexp(-1)


@torch.no_grad()
def token_entropies(logits_BTV: Tensor, temperature: float) -> Tensor:
    """Return [B, T] entropy in nats of softmax(logits / temperature)."""
    log_p = torch.log_softmax(logits_BTV.float() / temperature, dim=-1)
    return -(log_p.exp() * log_p).sum(-1)
