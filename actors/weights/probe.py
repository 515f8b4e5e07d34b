"""Verification of a weight sync: the engine must give the learner's log-probabilities.

Checksums cannot see what an engine does with its weights after loading (prepacking, fusing,
tying); log-probabilities of fixed prompts can, on every device and backend.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rzero_ray.types import ProbeReport, RunError, Weights


class WeightMismatchError(RunError):
    """An engine samples from other weights than the learner's; the text names it."""


def compare_probes(
    learner: Sequence[NDArray[np.float32]],
    engines: Mapping[str, Sequence[NDArray[np.float32]]],
    version: Weights,
    dtype: str,
    bound: float,
) -> ProbeReport:
    """Compare [len - 1] log-probabilities per probe prompt, engine by engine.

    The figure held against `bound` is the largest absolute difference in float32, and the mean
    absolute difference in bfloat16, whose rounding makes single tokens differ. Raises
    WeightMismatchError above it, or when a figure is not a number.
    """
    expected = np.concatenate(list(learner))
    largest, means = 0.0, []
    for name, probe in engines.items():
        difference = np.abs(np.concatenate(list(probe)) - expected)
        figure = float(difference.max() if dtype == "float32" else difference.mean())
        if not figure <= bound:
            raise WeightMismatchError(
                f"{name} does not sample from weights {version.name}: its log-probabilities of the "
                f"probe prompts differ from the learner's by {figure:.3g} nats, allowed "
                f"{bound:g} (weights.max_probe_difference); the run stops because it would learn "
                "from another policy's samples"
            )
        largest = max(largest, float(difference.max()))
        means.append(float(difference.mean()))
    return ProbeReport(max_difference=largest, mean_difference=float(np.mean(means)))
