"""How one step's rollouts are cut into mini-batches, shards and micro-batches.

A micro-batch is laid out in one of two ways. Padded sequences are rows of one length, which every
attention takes. Packed ones lie one after the other in a single row, without a token between them:
for an attention that is told where each begins.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
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


def packed_batches(lengths: Sequence[int], tokens_per_batch: int) -> list[list[int]]:
    """Group sequence indices so that their sum stays within `tokens_per_batch`.

    The longest go first, each into the first batch that has room for it. A sequence longer than the
    budget is a batch of its own.
    """
    batches: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fits = (place for place, left in enumerate(room) if lengths[index] <= left)
        place = next(fits, len(batches))
        if place == len(batches):
            batches.append([])
            room.append(tokens_per_batch)
        batches[place].append(index)
        room[place] -= lengths[index]
    return batches


@dataclass(frozen=True, slots=True)
class Packing:
    """Where S sequences lie in one row of T tokens."""

    position_ids_1T: Tensor
    """Of each token, counted from the beginning of its own sequence."""
    bounds_S1: Tensor
    """[S + 1] where each sequence begins in the row, and where the last one ends."""
    longest: int
    """Tokens of the longest sequence."""


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Sequences of one forward pass, and their N completion tokens one after another."""

    inputs_BT: Tensor
    """Prompt and completion without its last token, from which nothing is predicted: padded right
    with zeros, or packed into one row."""
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
    packing: Packing | None = None
    """None for padded sequences."""


def collate(
    rollouts: Sequence[Rollout], weights: Sequence[float], device: torch.device
) -> MicroBatch:
    """Return the rollouts as one padded micro-batch; `weights` are of each one's tokens."""
    sequences = _sequences(rollouts)
    inputs_BT = np.zeros((len(sequences), max(map(len, sequences))), dtype=np.int64)
    for row, sequence in zip(inputs_BT, sequences, strict=True):
        row[: len(sequence)] = sequence
    begins_B = np.arange(len(sequences)) * inputs_BT.shape[1]
    return _micro_batch(rollouts, weights, inputs_BT, begins_B, device)


def pack(rollouts: Sequence[Rollout], weights: Sequence[float], device: torch.device) -> MicroBatch:
    """Return the rollouts as one packed micro-batch; `weights` are of each one's tokens."""
    sequences = _sequences(rollouts)
    lengths = list(map(len, sequences))
    bounds_S1 = np.array([0, *accumulate(lengths)])
    inputs_1T = np.concatenate(sequences, dtype=np.int64)[None]
    position_ids_1T = np.concatenate([np.arange(length) for length in lengths])[None]
    packing = Packing(
        torch.from_numpy(position_ids_1T).to(device),
        torch.from_numpy(bounds_S1.astype(np.int32)).to(device),
        max(lengths),
    )
    return _micro_batch(rollouts, weights, inputs_1T, bounds_S1[:-1], device, packing)


def _sequences(rollouts: Sequence[Rollout]) -> list[NDArray[np.int32]]:
    return [np.concatenate([r.prompt_ids, r.token_ids[:-1]]) for r in rollouts]


def _micro_batch(
    rollouts: Sequence[Rollout],
    weights: Sequence[float],
    inputs_BT: NDArray[np.int64],
    begins_S: NDArray[np.int64],
    device: torch.device,
    packing: Packing | None = None,
) -> MicroBatch:
    """Return sequences that begin at `begins_S` of the flattened inputs as a micro-batch."""
    counts_S = np.array([len(r.token_ids) for r in rollouts])
    starts_S = begins_S + np.array([len(r.prompt_ids) for r in rollouts]) - 1
    positions = [start + np.arange(count) for start, count in zip(starts_S, counts_S, strict=True)]

    def on_device(values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(values).to(device)

    def per_token(values: Sequence[float]) -> Tensor:
        return on_device(np.repeat(np.asarray(values, dtype=np.float32), counts_S))

    return MicroBatch(
        inputs_BT=on_device(inputs_BT),
        positions_N=on_device(np.concatenate(positions)),
        tokens_N=on_device(np.concatenate([r.token_ids for r in rollouts]).astype(np.int64)),
        weights_N=per_token(weights),
        sampler_logprobs_N=on_device(np.concatenate([r.logprobs for r in rollouts])),
        advantages_N=per_token([r.advantage for r in rollouts]),
        packing=packing,
    )


@dataclass(frozen=True, slots=True)
class BatchLayout:
    """How sequences become micro-batches."""

    cut: Callable[[Sequence[int], int], list[list[int]]]
    """From lengths and a budget of tokens to the sequences of each micro-batch."""
    collate: Callable[[Sequence[Rollout], Sequence[float], torch.device], MicroBatch]
    """From the rollouts of one, and what each one's tokens weigh, to its tensors."""


PADDED = BatchLayout(micro_batches, collate)
PACKED = BatchLayout(packed_batches, pack)


def micro_batches_of_rank(
    batch: Sequence[Rollout],
    weights_S: Sequence[float],
    rank: int,
    world_size: int,
    tokens_per_batch: int,
    device: torch.device,
    layout: BatchLayout = PADDED,
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
        cut = layout.cut([lengths[i] for i in mine], tokens_per_batch)
        per_rank.append([[mine[i] for i in indices] for indices in cut])
    micros = [
        layout.collate([batch[i] for i in indices], [weights_S[i] for i in indices], device)
        for indices in per_rank[rank]
    ]
    filler = layout.collate([batch[by_length[-1]]], [0.0], device)
    return micros + [filler] * (max(map(len, per_rank)) - len(micros))
