"""Verification of a weight sync: the engine must give the learner's log-probabilities.

Checksums cannot see what an engine does with its weights after loading (prepacking, fusing,
tying); log-probabilities of fixed prompts can, on every device and backend.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rzero_ray.types import ProbeReport, RunError, Weights


class WeightMismatchError(RunError):
    """An engine samples from other weights than the learner's; the text names it."""


_FLOOR_FACTOR = 4
"""How far above what rounding gives equal weights a sync in bfloat16 may be."""
_LEAST_SHARE = 0.1
"""Of the configured bound: no calibration goes below it, however well engine and learner agree."""


class Probe:
    """Fixed prompts, and the largest difference that a sync may show on them.

    In float32 it is the configured bound, held against the largest difference of a token.

    In bfloat16, whose rounding makes single tokens differ, it is held against the mean, and is only
    a cap. Where an engine holds the very weights that are published before they are, what it shows
    is rounding alone, whatever the sync does. From then on the bound is four times that, so that a
    sync that is not whole does not hide below a bound for all models and devices.
    """

    def __init__(self, prompts: Sequence[NDArray[np.int32]], dtype: str, bound: float) -> None:
        """`prompts` are token ids, `bound` is in nats."""
        self.prompts = prompts
        self._dtype = dtype
        self._cap = self._bound = bound

    def compare(
        self,
        learner: Sequence[NDArray[np.float32]],
        engines: Mapping[str, Sequence[NDArray[np.float32]]],
        version: Weights,
        equal: Collection[str] = (),
    ) -> ProbeReport:
        """Compare [len - 1] log-probabilities per prompt, engine by engine.

        The engines named in `equal` held these very weights before. Raises WeightMismatchError
        where a figure is above the bound or no number.
        """
        expected = np.concatenate(list(learner))
        differences = {
            name: np.abs(np.concatenate(list(scores)) - expected)
            for name, scores in engines.items()
        }
        figures = {name: self._figure(difference) for name, difference in differences.items()}
        if equal and self._dtype != "float32":
            floor = max(figures[name] for name in equal)
            self._bound = min(self._cap, max(_FLOOR_FACTOR * floor, _LEAST_SHARE * self._cap))
        for name, figure in figures.items():
            if not figure <= self._bound:
                raise WeightMismatchError(self._mismatch(name, version, figure))
        return ProbeReport(
            max_difference=max(float(difference.max()) for difference in differences.values()),
            mean_difference=float(np.mean([d.mean() for d in differences.values()])),
            bound=self._bound,
        )

    def _figure(self, difference: NDArray[np.float32]) -> float:
        return float(difference.max() if self._dtype == "float32" else difference.mean())

    def _mismatch(self, name: str, version: Weights, figure: float) -> str:
        calibrated = (
            f", {_FLOOR_FACTOR} times what equal weights have shown, at least {_LEAST_SHARE:.0%} of"
            if self._bound < self._cap
            else ":"
        )
        return (
            f"{name} does not sample from weights {version.name}: its log-probabilities of the "
            f"probe prompts differ from the learner's by {figure:.3g} nats, allowed are "
            f"{self._bound:g}{calibrated} weights.max_probe_difference; the run stops because it "
            "would learn from another policy's samples"
        )
