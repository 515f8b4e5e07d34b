"""What the actors are started with.

Apart from the modules that use them because the driver builds these records too, and it should
not load vLLM, DeepSpeed and torch for that: it would cost seconds at each start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rzero_ray.config.cluster import WeightBackend
from rzero_ray.config.method import ChallengerConfig, LossConfig, OptimizerConfig, SolverConfig

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
    weight_backend: WeightBackend
    takes_turns: bool = False
    """Whether it gives its memory back between its turns (`actors.turns`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerOptions:
    """What a rank is set up with."""

    rank: int
    world_size: int
    device: str
    """`cpu` or `cuda`."""
    dtype: str
    zero_stage: int
    tokens_per_micro_batch: int
    num_threads: int
    weight_backend: WeightBackend
    gradient_checkpointing: bool = False
    reference: Literal["device", "cpu"] = "device"


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseOptions:
    """How one role learns."""

    optimizer: OptimizerConfig
    loss: LossConfig
    prompts_per_update: int
    temperature: float
    """At which rollouts are sampled; log-probabilities are taken at it."""
    max_tokens: int
    """Longest completion sampled: the divisor of `LossConfig.aggregation` fixed_length."""

    @classmethod
    def of(cls, settings: ChallengerConfig | SolverConfig) -> PhaseOptions:
        """Return what the learner needs of a role's settings."""
        return cls(
            optimizer=settings.optimizer,
            loss=settings.loss,
            prompts_per_update=settings.prompts_per_update,
            temperature=settings.sampling.temperature,
            max_tokens=settings.sampling.max_tokens,
        )
