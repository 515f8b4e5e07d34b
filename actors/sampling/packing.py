"""Completions on their way from a sampler to the driver: few large arrays in place of many small.

An array costs Ray more than its bytes: some 30 of them for an answer of ten samples become three,
and none where the request reads no tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from rzero_ray.types import Completion, RunError, UserError, Weights

N = TypeVar("N", bound=np.generic)

_NO_IDS = np.empty(0, dtype=np.int32)
_NO_LOGPROBS = np.empty(0, dtype=np.float32)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PackedTokens:
    """The tokens of completions, one after the other, with the prompt that they share."""

    prompt_ids: NDArray[np.int32]
    token_ids: NDArray[np.int32]
    """[sum of lengths]"""
    logprobs: NDArray[np.float32]
    """[sum of lengths]"""
    weight_versions: tuple[tuple[tuple[Weights | None, int, int], ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PackedCompletions:
    """The completions of one prompt."""

    texts: tuple[str, ...]
    lengths: tuple[int, ...]
    finished: tuple[bool, ...]
    tokens: PackedTokens | None
    """None where the request reads none."""


FinishedRequests = list[tuple[int, PackedCompletions | RunError | UserError]]
"""Requests of an actor call that have ended: the place of each in it, and its answer or why there
is none."""


def pack(completions: Sequence[Completion], reads_tokens: bool) -> PackedCompletions:
    """Pack at least one completion; all answer the same prompt."""
    tokens = None
    if reads_tokens:
        tokens = PackedTokens(
            prompt_ids=completions[0].prompt_ids,
            token_ids=np.concatenate([c.token_ids for c in completions]),
            logprobs=np.concatenate([c.logprobs for c in completions]),
            weight_versions=tuple(c.weight_versions for c in completions),
        )
    return PackedCompletions(
        texts=tuple(c.text for c in completions),
        lengths=tuple(c.num_tokens for c in completions),
        finished=tuple(c.finished for c in completions),
        tokens=tokens,
    )


def unpack(packed: PackedCompletions) -> list[Completion]:
    """Return what was packed; the arrays are views of the packed ones, or empty."""
    parts = zip(packed.texts, packed.lengths, packed.finished, strict=True)
    tokens = packed.tokens
    if tokens is None:
        return [
            Completion(
                text=text,
                num_tokens=length,
                finished=finished,
                prompt_ids=_NO_IDS,
                token_ids=_NO_IDS,
                logprobs=_NO_LOGPROBS,
                weight_versions=(),
            )
            for text, length, finished in parts
        ]
    return [
        Completion(
            text=text,
            num_tokens=length,
            finished=finished,
            prompt_ids=tokens.prompt_ids,
            token_ids=token_ids,
            logprobs=logprobs,
            weight_versions=versions,
        )
        for (text, length, finished), token_ids, logprobs, versions in zip(
            parts,
            cut(tokens.token_ids, packed.lengths),
            cut(tokens.logprobs, packed.lengths),
            tokens.weight_versions,
            strict=True,
        )
    ]


def cut(whole: NDArray[N], lengths: Sequence[int]) -> list[NDArray[N]]:
    """Return the parts of an array that lie one after the other, as views."""
    return [whole[start:end] for start, end in pairwise(accumulate(lengths, initial=0))]
