"""Vocabulary dropout: which tokens a Challenger may write in a step.

Source: vocabulary dropout (arXiv 2604.03472): a random hard mask on the proposer's logits, another
one in every batch, while it learns and while it poses the curriculum. What it would always write is
sometimes forbidden, so that it cannot settle on one kind of question. Tokens of the format are
never forbidden. Not checked against the paper: whether a token is kept by its own chance, as here,
and what exactly counts as format.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from rzero_ray.types import Vocabulary

FORMAT_TEXTS = (
    "<question>",
    "</question>",
    "<question>\n",
    "\n</question>\n\n",
    "\\boxed{",
    "}",
)
"""What a well-formed question is written with, also as it is tokenized beside a line end."""


def allowed_tokens(
    num_tokens: int, protected: Iterable[int], vocabulary: Vocabulary
) -> NDArray[np.int32]:
    """Return the ids that may be drawn, in order: each of `num_tokens` with the probability
    `vocabulary.keep`, by its seed alone, and all of `protected`."""
    is_kept = np.random.default_rng(vocabulary.seed).random(num_tokens) < vocabulary.keep
    is_kept[list(protected)] = True
    return np.flatnonzero(is_kept).astype(np.int32)
