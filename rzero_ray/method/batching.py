"""How one step's rollouts are cut into mini-batches, shards and micro-batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rzero_ray.types import Rollout

T = TypeVar("T")

MICRO_BATCH_TOKENS = 256
"""What a micro-batch costs by itself, in tokens: it starts every kernel of the model once, and adds
to all gradients."""


def mini_batches(rollouts: Sequence[Rollout], prompts_per_update: int) -> list[list[Rollout]]:
    """Cut rollouts by prompt into the batches of successive optimizer steps.

    The last batch may be smaller: nothing is dropped (the official code drops it, and crashes
    when fewer prompts exist than one batch).
    """
    batches: dict[int, list[Rollout]] = {}
    for rollout in rollouts:
        batches.setdefault(rollout.prompt_index // prompts_per_update, []).append(rollout)
    return [batches[index] for index in sorted(batches)]


def shard(items: Sequence[T], rank: int, world_size: int) -> list[T]:
    """Return every `world_size`-th item from `rank` on; shards differ by one item at most."""
    return list(items[rank::world_size])


def micro_batches(lengths: Sequence[int], tokens_per_batch: int) -> list[list[int]]:
    """Group sequence indices so that (sequences x longest) stays within `tokens_per_batch`.

    Sequences of near length go together. Of all cuts of the sorted sequences the cheapest is taken:
    the fewest tokens, padding included, where each batch costs `MICRO_BATCH_TOKENS` more. A
    sequence longer than the budget is a batch of its own.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    longest_S = np.array([lengths[i] for i in order])
    cost_S = np.zeros(len(order) + 1)
    first_S = np.zeros(len(order) + 1, dtype=np.int64)
    for end in range(1, len(order) + 1):
        tokens_S = longest_S[:end] * np.arange(end, 0, -1)
        allowed_S = tokens_S <= tokens_per_batch
        allowed_S[-1] = True
        costs_S = np.where(allowed_S, cost_S[:end] + tokens_S + MICRO_BATCH_TOKENS, np.inf)
        first_S[end] = np.argmin(costs_S)
        cost_S[end] = costs_S[first_S[end]]
    batches: list[list[int]] = []
    end = len(order)
    while end > 0:
        batches.append(order[first_S[end] : end])
        end = int(first_S[end])
    return batches[::-1]


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Sequences of one forward pass, and their N completion tokens one after another."""

    inputs_BT: Tensor
    """Prompt and completion without its last token, from which nothing is predicted; padded right
    with zeros."""
    positions_N: Tensor
    """Position in the flattened `inputs_BT` at which each completion token is predicted."""
    tokens_N: Tensor
    weights_N: Tensor
    """What each token weighs in the loss of the mini-batch; 0 for sequences that only fill up a
    rank's micro-batches."""
    sampler_logprobs_N: Tensor
    advantages_N: Tensor
    old_logprobs_N: Tensor | None = None
    """Scores under the policy that the step began with; None while that is the one in training."""
    reference_logprobs_N: Tensor | None = None
    """Scores under the policy that the phase began with; None where the old ones are the same."""


def collate(
    rollouts: Sequence[Rollout], weights: Sequence[float], device: torch.device
) -> MicroBatch:
    """Return the rollouts as one micro-batch; `weights` are of each one's tokens."""
    counts_B = np.array([len(r.token_ids) for r in rollouts])
    starts_B = np.array([len(r.prompt_ids) for r in rollouts]) - 1
    inputs_BT = np.zeros((len(rollouts), int((starts_B + counts_B).max())), dtype=np.int64)
    for row, rollout in zip(inputs_BT, rollouts, strict=True):
        sequence = np.concatenate([rollout.prompt_ids, rollout.token_ids[:-1]])
        row[: len(sequence)] = sequence
    rows = np.arange(len(rollouts)) * inputs_BT.shape[1] + starts_B
    positions = [start + np.arange(count) for start, count in zip(rows, counts_B, strict=True)]

    def on_device(values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(values).to(device)

    def per_token(values: Sequence[float]) -> Tensor:
        return on_device(np.repeat(np.asarray(values, dtype=np.float32), counts_B))

    return MicroBatch(
        inputs_BT=on_device(inputs_BT),
        positions_N=on_device(np.concatenate(positions)),
        tokens_N=on_device(np.concatenate([r.token_ids for r in rollouts]).astype(np.int64)),
        weights_N=per_token(weights),
        sampler_logprobs_N=on_device(np.concatenate([r.logprobs for r in rollouts])),
        advantages_N=per_token([r.advantage for r in rollouts]),
    )


def micro_batches_of_rank(
    batch: Sequence[Rollout],
    weights_S: Sequence[float],
    rank: int,
    world_size: int,
    tokens_per_batch: int,
    device: torch.device,
) -> list[MicroBatch]:
    """Return a rank's part of a mini-batch; as many micro-batches on every rank.

    Ranks must make the same collective calls, so a rank with fewer repeats the shortest sequence,
    with weight 0. `weights_S` are of the tokens of each sequence.
    """
    lengths = [len(r.prompt_ids) + len(r.token_ids) for r in batch]
    by_length = sorted(range(len(batch)), key=lambda i: -lengths[i])
    per_rank = []
    for each in range(world_size):
        mine = shard(by_length, each, world_size)
        cut = micro_batches([lengths[i] for i in mine], tokens_per_batch)
        per_rank.append([[mine[i] for i in indices] for indices in cut])
    micros = [
        collate([batch[i] for i in indices], [weights_S[i] for i in indices], device)
        for indices in per_rank[rank]
    ]
    filler = collate([batch[by_length[-1]]], [0.0], device)
    return micros + [filler] * (max(map(len, per_rank)) - len(micros))
