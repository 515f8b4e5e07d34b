"""Records for tests: each builder fills in what a test does not care about."""

from __future__ import annotations

from typing import Any

import numpy as np

from rzero_ray.evaluation.answering import AnsweredProblem


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
