"""Whether a step of learning may be kept. Apart from `losses`: the driver asks, without torch."""

from __future__ import annotations

import math
from dataclasses import asdict

from rzero_ray.types import LearningReport, RunError, Step


def check_finite(report: LearningReport, step: Step) -> None:
    """Raise RunError when a figure of a step of learning is not a finite number.

    DeepSpeed leaves out a step whose gradient overflows, without a word, and a loss that is not a
    number teaches nothing any more: nothing of such a step may be saved or published.
    """
    bad = [
        f"{name}={value}"
        for name, value in asdict(report).items()
        if isinstance(value, float) and not math.isfinite(value)
    ]
    if bad:
        raise RunError(
            f"iteration {step.iteration}, {step.phase} step {step.index}: {', '.join(bad)}; the "
            "step is not kept: look at its rollouts, and lower the learning rate or raise the "
            "temperature"
        )
