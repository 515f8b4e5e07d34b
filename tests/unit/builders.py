"""Records for tests: each builder fills in what a test does not care about."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rzero_ray.evaluation.answering import AnsweredProblem
from rzero_ray.types import Completion, Phase, Rollout


def answered(
    greedy: str | None, answers: tuple[str | None, ...], majority: str | None, **fields: Any
) -> AnsweredProblem:
    """Return an answered problem whose reference is 5; `fields` replace what stands here."""
    k = len(answers)
    others: dict[str, Any] = {
        "question": "q",
        "reference": "5",
        "options": (),
        "category": "",
        "greedy_text": "",
        "greedy_truncated": greedy is None,
        "greedy_num_tokens": 10,
        "texts": ("",) * k,
        "truncated": (False,) * (k - 1) + (True,),
        "num_tokens": np.arange(k, dtype=np.int32),
    }
    return AnsweredProblem(
        greedy_answer=greedy, answers=answers, majority=majority, **(others | fields)
    )


def rollout(
    prompt: ArrayLike,
    completion: ArrayLike,
    *,
    logprobs: ArrayLike | None = None,
    advantage: float = 0.0,
    prompt_index: int = 0,
) -> Rollout:
    """Return a rollout of these tokens; without `logprobs` they are all 0."""
    token_ids = np.asarray(completion, dtype=np.int32)
    return Rollout(
        prompt_ids=np.asarray(prompt, dtype=np.int32),
        token_ids=token_ids,
        logprobs=np.zeros(len(token_ids), np.float32)
        if logprobs is None
        else np.asarray(logprobs, dtype=np.float32),
        advantage=advantage,
        prompt_index=prompt_index,
    )


def opposed_rollouts(completions: Sequence[Completion]) -> list[Rollout]:
    """Return one prompt's completions as rollouts with advantages of 1 and -1 in turn."""
    return [
        Rollout(
            prompt_ids=c.prompt_ids,
            token_ids=c.token_ids,
            logprobs=c.logprobs,
            advantage=(-1.0) ** k,
            prompt_index=0,
        )
        for k, c in enumerate(completions)
    ]


def phase_of(model: Path, **changes: Any) -> Phase:
    """Return the Solver's phase of iteration 1 that begins with `model`."""
    settings: dict[str, Any] = {
        "iteration": 1,
        "role": "solver",
        "initial_model": model,
        "checkpoint": None,
        "num_finished_steps": 0,
        "final_model": model,
    }
    return Phase(**(settings | changes))
