"""What a learner rank is started with, and with what it takes up a phase.

Apart from the modules that use them because the driver builds these records too, and it should not
load DeepSpeed and torch for that: it would cost seconds at each start.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rzero_ray.config.cluster import Attention, LoraConfig, Offload, WeightBackend
from rzero_ray.config.method import LearningConfig, LossConfig, OptimizerConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerOptions:
    """What a rank is set up with."""

    rank: int
    world_size: int
    attempt: int = 1
    """Which learner of this start of the run it belongs to: one that dies is followed by another,
    and one that is only cut off may go on writing."""
    device: str
    """`cpu` or `cuda`."""
    dtype: str
    zero_stage: int
    tokens_per_micro_batch: int
    num_threads: int
    weight_backend: WeightBackend
    gradient_checkpointing: bool = False
    reference: Literal["device", "cpu"] = "device"
    attention: Attention = "sdpa"
    offload: Offload = "none"
    collective_s: float = 3600.0
    """Seconds that a rank waits for the others: as long as the update that they are in may take."""
    workers_per_engine: int = 1
    """Parts of an engine (`sampler.tensor_parallel`), each of which takes weights by itself."""
    lora: LoraConfig = field(default_factory=LoraConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseOptions:
    """How one role learns."""

    optimizer: OptimizerConfig
    loss: LossConfig
    prompts_per_update: int
    temperature: float
    """Temperature at which rollouts are sampled; log-probabilities are taken at it, too."""
    max_tokens: int
    """Longest completion sampled: the divisor of `LossConfig.aggregation` fixed_length."""

    @classmethod
    def of(cls, settings: LearningConfig) -> PhaseOptions:
        """Return what the learner needs of a role's settings."""
        return cls(
            optimizer=settings.optimizer,
            loss=settings.loss,
            prompts_per_update=settings.prompts_per_update,
            temperature=settings.sampling.temperature,
            max_tokens=settings.sampling.max_tokens,
        )
