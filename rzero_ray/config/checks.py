"""What must hold of the values of a configuration, beyond their types."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from rzero_ray.config.cluster import TINY_MODEL
from rzero_ray.config.config import Config
from rzero_ray.config.layout import backend_of, uses_gpus
from rzero_ray.config.sources import flatten
from rzero_ray.types import UserError

_COUNTS = ("num_", "samples_per_", "prompts_per_", "candidates_per_", "max_per_")
"""How the names of keys begin whose value is a number of things, at least 1."""
_ALSO_COUNTS = ("max_tokens", "every_steps", "keep")
"""Names of other such keys."""
_MAY_BE_INFINITE = ("deadline.", "drift.")
"""Sections in which no limit is a limit; an infinite number anywhere else is a mistake."""


_MAY_BE_ZERO = ("curriculum.num_wanted", "curriculum.max_per_cluster", "drift.num_sequences")
"""Counts of which 0 stands for no limit, or for leaving the thing out."""


_NOT_NEGATIVE = (
    "repetition_threshold",
    "repetition_weight",
    "cluster_threshold",
    "temperature",
    "learning_rate",
    "weight_decay",
    "warmup_updates",
    "max_grad_norm",
    "clip_low",
    "clip_high",
    "dual_clip",
    "kl_coefficient",
    "importance_cap",
    "every",
)
"""Names of keys of which no value below 0 has a meaning."""


_SHARES = (
    "voting.min_answered",
    "audit.min_accuracy",
    "drift.max_unanswered",
    "drift.max_truncated",
    "drift.max_script_change",
    "drift.max_refusals",
    "drift.max_degenerate",
    "drift.min_clusters",
    "drift.max_gini",
)


def check_counts(config: Any, may_be_zero: Sequence[str]) -> None:
    """Raise UserError when a key that counts things is below 1, or 0 where that has a meaning."""
    for key, value in flatten(dataclasses.asdict(config)).items():
        name = key.rsplit(".", 1)[-1]
        if name.startswith(_COUNTS) or name in _ALSO_COUNTS:
            least = 0 if key in may_be_zero else 1
            if value < least:
                raise UserError(f"{key}={value} must be at least {least}")


def check_temperature(key: str, value: float) -> None:
    """Raise UserError when a temperature is no finite number above 0.

    Rollouts need a distribution: the learner divides by the temperature that they were sampled at.
    """
    if not 0 < value < float("inf"):
        raise UserError(f"{key}={value} must be a number above 0: a distribution is sampled from")


def _check_ranges(config: Config) -> None:
    """Refuse a value that is outside what its key can mean."""
    check_counts(config, _MAY_BE_ZERO)
    for key, temperature in (
        ("challenger.sampling.temperature", config.challenger.sampling.temperature),
        ("solver.sampling.temperature", config.solver.sampling.temperature),
        ("eval.temperature", config.eval.temperature),
    ):
        check_temperature(key, temperature)
    for key, value in flatten(dataclasses.asdict(config)).items():
        name = key.rsplit(".", 1)[-1]
        if name in _NOT_NEGATIVE and not 0 <= value < float("inf"):
            raise UserError(f"{key}={value} must be a number from 0 on")
        if name == "top_p" and not 0 < value <= 1:
            raise UserError(f"{key}={value} must be above 0 and at most 1")
        is_limit = key.startswith(_MAY_BE_INFINITE) and value in (-math.inf, math.inf)
        if isinstance(value, float) and not (math.isfinite(value) or is_limit):
            raise UserError(f"{key}={value} must be a finite number")
        if key in _SHARES and not 0 <= value <= 1:
            raise UserError(f"{key}={value} must be between 0 and 1")


def check_config(config: Config) -> None:
    """Raise UserError for a value out of its range, or for keys that do not fit together."""
    _check_ranges(config)
    if (config.method == "coevolution") == bool(config.labelled.path):
        raise UserError(
            f"method={config.method} and labelled.path={config.labelled.path!r} do not fit: "
            "labelled_grpo and labelled_sft need labelled problems, coevolution reads none"
        )
    if config.challenger.frozen and config.shared_weights:
        raise UserError(
            "challenger.frozen and shared_weights contradict each other: a shared model learns as "
            "the Solver; set one of them to false"
        )
    _check_layout(config)
    if config.pipeline.staleness < 0:
        raise UserError(f"pipeline.staleness={config.pipeline.staleness} must be 0 or more steps")
    for role, loss in (("challenger", config.challenger.loss), ("solver", config.solver.loss)):
        if config.pipeline.staleness and loss.importance_cap == 0:
            raise UserError(
                f"pipeline.staleness={config.pipeline.staleness} needs the importance correction; "
                f"set {role}.loss.importance_cap above 0 (2.0 is usual)"
            )
    if not 0 <= config.learner.zero_stage <= 3:
        raise UserError(f"learner.zero_stage={config.learner.zero_stage} must be 0, 1, 2 or 3")
    low, high = config.curriculum.min_agreement, config.curriculum.max_agreement
    if not 0 <= low <= high <= 1:
        raise UserError(
            f"curriculum.min_agreement={low} and curriculum.max_agreement={high} must satisfy "
            "0 <= min <= max <= 1"
        )
    longest = max(
        config.challenger.sampling.max_tokens,
        config.curriculum.sampling.max_tokens,
        config.voting.sampling.max_tokens,
        config.solver.sampling.max_tokens,
        config.eval.max_tokens,
    )
    if longest >= config.model.max_model_len:
        raise UserError(
            f"a completion of max_tokens={longest} does not fit model.max_model_len="
            f"{config.model.max_model_len}; raise the latter above it, with room for the prompt"
        )
    if config.model.path == TINY_MODEL and config.task != "arithmetic":
        raise UserError(f"model.path={TINY_MODEL} knows only task=arithmetic, not {config.task}")


def _check_layout(config: Config) -> None:
    """What is wrong whatever the cluster has; `layout.resolve_layout` checks the rest."""
    learner, sampler = config.learner, config.sampler
    if config.layout == "colocated" and (learner.gpus_per_rank > 0) != (
        sampler.gpus_per_engine > 0
    ):
        raise UserError(
            f"layout=colocated shares devices, but learner.gpus_per_rank={learner.gpus_per_rank:g} "
            f"and sampler.gpus_per_engine={sampler.gpus_per_engine:g}; set both above 0, or both "
            "to 0 for CPUs"
        )
    kind = config.layout
    if kind == "auto":  # CUDA IPC fits where the roles share GPUs, which the cluster decides
        is_ipc = config.weights.backend == "cuda_ipc" and uses_gpus(config)
        kind = "colocated" if is_ipc else "disaggregated"
    backend_of(config, kind)
