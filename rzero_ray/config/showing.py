"""The sections of who is shown a run's figures while it goes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from rzero_ray.config.rules import a_path, optional_path


@dataclass(frozen=True)
class MetricsConfig:
    """What a run shows at the metrics endpoint of its Ray nodes, which Prometheus reads."""

    run: bool = True
    """The run's own figures, `ray_rl_*` (`actors.metrics`)."""
    vllm: bool = True
    """vLLM's own of each engine, `ray_vllm_*`; `model_name` is the engine's name."""


@dataclass(frozen=True)
class TrackersConfig:
    """Services that draw a run's curves, beside TensorBoard (`run.trackers`)."""

    wandb: Annotated[str, optional_path()] = ""
    """The project at Weights & Biases; empty for none. WANDB_MODE=offline keeps it on the disk."""
    mlflow: Annotated[str, optional_path()] = ""
    """The address of an MLflow server, or of a store such as `file:///path`; empty for none."""
    experiment: Annotated[str, a_path()] = "rzero_ray"
    """The experiment of MLflow that the run is one of."""
