"""vLLM's own metrics, which an engine shows through Ray (`ray_vllm_*`).

`vllm.v1.metrics.ray_wrappers` looks for Ray's metrics beside `ray.serve`, which `ray[default]` does
not have, and then does without both. It is given the metrics alone.
"""

from __future__ import annotations

import ray.util.metrics
from vllm.engine.arg_utils import EngineArgs
from vllm.v1.metrics import ray_wrappers
from vllm.v1.metrics.loggers import StatLoggerFactory


def stat_loggers(arguments: EngineArgs) -> list[StatLoggerFactory]:
    """Return what the engine of these arguments takes as `stat_loggers`."""
    if arguments.disable_log_stats:
        return []
    ray_wrappers.ray_metrics = ray.util.metrics  # pyright: ignore[reportPrivateImportUsage]
    return [ray_wrappers.RayPrometheusStatLogger]
