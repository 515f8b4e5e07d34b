"""vLLM's own metrics, which an engine shows through Ray (`ray_vllm_*`).

`vllm.v1.metrics.ray_wrappers` looks for Ray's metrics beside `ray.serve`, which `ray[default]` does
not have, and then does without both. It is given the metrics alone.
"""

from __future__ import annotations

from typing import Any

import ray.util.metrics
from vllm.engine.arg_utils import EngineArgs
from vllm.v1.metrics import ray_wrappers
from vllm.v1.metrics.loggers import StatLoggerFactory

_OF_EACH_TOKEN = ("vllm:inter_token_latency_seconds",)


class _Histogram(ray_wrappers.RayHistogramWrapper):
    """A histogram, unless there is an observation for each token.

    The agent of a Ray node makes every observation of a histogram again, one by one in Python
    (Ray's issue 54538). What an engine samples in a second would keep it busy for longer.
    """

    def __init__(self, name: str, *arguments: Any, **named: Any) -> None:
        super().__init__(name, *arguments, **named)
        self._is_left_out = name in _OF_EACH_TOKEN

    def observe(self, value: float) -> None:
        if not self._is_left_out:
            super().observe(value)


class EngineMetrics(ray_wrappers.RayPrometheusStatLogger):
    """What vLLM shows through Ray, without what it would show of each token."""

    _histogram_cls = _Histogram


def stat_loggers(arguments: EngineArgs) -> list[StatLoggerFactory]:
    """Return what the engine of these arguments takes as `stat_loggers`."""
    if arguments.disable_log_stats:
        return []
    ray_wrappers.ray_metrics = ray.util.metrics  # pyright: ignore[reportPrivateImportUsage]
    return [EngineMetrics]
