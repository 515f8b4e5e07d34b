"""What a sampler is started with.

Apart from the modules that use it because the driver builds this record too, and it should not load
vLLM and torch for that: it would cost seconds at each start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rzero_ray.config.cluster import WeightBackend

PARTS = ("weights", "kv_cache")
"""What an engine gives back when it sleeps, by vLLM's names; each wakes on its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What a vLLM engine is started with."""

    model: str
    dtype: str
    max_model_len: int
    max_num_seqs: int
    kv_cache_bytes: int | None
    """None lets vLLM fill `gpu_memory_utilization` of the GPU."""
    gpu_memory_utilization: float
    enforce_eager: bool
    on_cpu: bool
    in_process: bool
    """Whether vLLM runs in its sampler's process, not in one beside it (`actors.placement`)."""
    weight_backend: WeightBackend
    tensor_parallel: int = 1
    """Worker processes over which the model is cut."""
    takes_turns: bool = False
    """Whether it gives its memory back between its turns (`actors.turns`)."""
    metrics_name: str = ""
    """The `model_name` under which vLLM shows its own metrics; empty where it shows none."""
    load_format: Literal["auto", "dummy"] = "auto"
    """How vLLM reads the weights in `model`; `dummy` leaves them out."""
