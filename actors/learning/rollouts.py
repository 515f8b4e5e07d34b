"""Rollouts on their way to the learner: few large arrays in place of thousands of small ones.

The ranks of a node then read one copy in shared memory, as it is, and no rank makes objects of its
bytes: 7,680 arrays of a step of 2,560 answers become eight, and a prompt travels once, not once an
answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from actors.sampling.packing import cut
from rzero_ray.types import Rollout


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PackedRollouts:
    """S rollouts of D different prompts."""

    prompt_ids: NDArray[np.int32]
    """The tokens of the different prompts, one after the other."""
    prompt_lengths_D: NDArray[np.int64]
    prompts_S: NDArray[np.int64]
    """Which of the D prompts each rollout answers."""
    prompt_indices_S: NDArray[np.int64]
    """`Rollout.prompt_index`: two prompts of a step may have the same tokens."""
    token_ids: NDArray[np.int32]
    """The completions, one after the other."""
    logprobs: NDArray[np.float32]
    """Of the same tokens."""
    lengths_S: NDArray[np.int64]
    advantages_S: NDArray[np.float64]


def pack_rollouts(rollouts: Sequence[Rollout]) -> PackedRollouts:
    """Pack at least one rollout."""
    places: dict[bytes, int] = {}
    prompts: list[NDArray[np.int32]] = []
    prompts_S = np.zeros(len(rollouts), np.int64)
    for place, rollout in enumerate(rollouts):
        prompts_S[place] = places.setdefault(rollout.prompt_ids.tobytes(), len(prompts))
        if prompts_S[place] == len(prompts):
            prompts.append(rollout.prompt_ids)
    return PackedRollouts(
        prompt_ids=np.concatenate(prompts),
        prompt_lengths_D=_lengths(prompts),
        prompts_S=prompts_S,
        prompt_indices_S=np.array([r.prompt_index for r in rollouts], np.int64),
        token_ids=np.concatenate([r.token_ids for r in rollouts]),
        logprobs=np.concatenate([r.logprobs for r in rollouts]),
        lengths_S=_lengths([r.token_ids for r in rollouts]),
        advantages_S=np.array([r.advantage for r in rollouts], np.float64),
    )


def unpack_rollouts(packed: PackedRollouts) -> list[Rollout]:
    """Return what was packed, in its order; the arrays are views of the packed ones."""
    prompts = cut(packed.prompt_ids, packed.prompt_lengths_D.tolist())
    lengths = packed.lengths_S.tolist()
    return [
        Rollout(
            prompt_ids=prompts[prompt],
            token_ids=token_ids,
            logprobs=logprobs,
            advantage=advantage,
            prompt_index=prompt_index,
        )
        for prompt, prompt_index, token_ids, logprobs, advantage in zip(
            packed.prompts_S.tolist(),
            packed.prompt_indices_S.tolist(),
            cut(packed.token_ids, lengths),
            cut(packed.logprobs, lengths),
            packed.advantages_S.tolist(),
            strict=True,
        )
    ]


def _lengths(arrays: Iterable[NDArray[np.int32]]) -> NDArray[np.int64]:
    return np.array([len(array) for array in arrays], np.int64)
