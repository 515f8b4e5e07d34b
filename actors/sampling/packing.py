"""Completions on their way from a sampler to the driver: few large arrays in place of many small.

An array costs Ray more than its bytes: some 30 of them for an answer of ten samples become three.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rzero_ray.types import Completion, Weights


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PackedCompletions:
    """The completions of one prompt, their tokens one after the other."""

    prompt_ids: NDArray[np.int32]
    token_ids: NDArray[np.int32]
    """[sum of lengths]"""
    logprobs: NDArray[np.float32]
    """[sum of lengths]"""
    lengths: tuple[int, ...]
    texts: tuple[str, ...]
    finished: tuple[bool, ...]
    weight_versions: tuple[tuple[tuple[Weights | None, int, int], ...], ...]


def pack(completions: Sequence[Completion]) -> PackedCompletions:
    """Pack at least one completion; all answer the same prompt."""
    return PackedCompletions(
        prompt_ids=completions[0].prompt_ids,
        token_ids=np.concatenate([c.token_ids for c in completions]),
        logprobs=np.concatenate([c.logprobs for c in completions]),
        lengths=tuple(len(c.token_ids) for c in completions),
        texts=tuple(c.text for c in completions),
        finished=tuple(c.finished for c in completions),
        weight_versions=tuple(c.weight_versions for c in completions),
    )


def unpack(packed: PackedCompletions) -> list[Completion]:
    """Return what was packed; the arrays are views of the packed ones."""
    ends = np.cumsum(packed.lengths)[:-1]
    return [
        Completion(
            prompt_ids=packed.prompt_ids,
            token_ids=token_ids,
            logprobs=logprobs,
            text=text,
            finished=finished,
            weight_versions=versions,
        )
        for token_ids, logprobs, text, finished, versions in zip(
            np.split(packed.token_ids, ends),
            np.split(packed.logprobs, ends),
            packed.texts,
            packed.finished,
            packed.weight_versions,
            strict=True,
        )
    ]
