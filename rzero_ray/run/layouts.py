"""The layouts that a run could have, side by side by the plan's own estimate.

Where the GPUs that a config names are there, every role can have its own; on the same GPUs, or on
fewer, the roles can take turns. Which is faster depends on how much of the time is sampling: roles
of their own leave GPUs idle while the others work, turns cost copies over the bus. `layout=auto`
takes the fastest that fits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rzero_ray.config.config import Config
from rzero_ray.config.layout import Layout, resolve_layout, uses_gpus, wanted_gpus
from rzero_ray.run.plan import (
    GIB,
    PhasePlan,
    gpu_bytes,
    num_full_sequences,
    rank_bytes,
    run_seconds,
)
from rzero_ray.run.shape import ModelShape
from rzero_ray.types import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutEstimate:
    """One layout on the GPUs that are there."""

    layout: Layout
    lends: bool
    """Whether engines that nothing asks sample for the role that learns (`sampler.lends`)."""
    num_gpus: float
    """GPUs that it takes."""
    gpu_bytes: int
    """The most that one of them holds."""
    host_bytes: int
    """What all of its ranks keep in their nodes' memory, and the engines that sleep there."""
    fits: bool
    """Whether the cluster has all of that, and an engine's share of a GPU has room for one sequence
    beside the weights."""
    seconds: float
    """The rough time of the run."""


def compare_layouts(
    config: Config, shape: ModelShape, plan: Sequence[PhasePlan], has: Mapping[str, float]
) -> list[LayoutEstimate]:
    """Return an estimate of each layout, with lending and without; those that the config rules out
    are left out. `plan` is of one iteration, `has` what the cluster has in Ray's words: `GPU`, and
    `memory` where that is known."""
    estimates = []
    for kind in ("disaggregated", "colocated"):
        for lends in (True, False):
            of_kind = replace(config, layout=kind, sampler=replace(config.sampler, lends=lends))
            try:
                layout = resolve_layout(of_kind, has)
            except UserError:
                continue
            taken = layout.num_ranks if layout.takes_turns else wanted_gpus(config)
            largest = max(gpu_bytes(of_kind, shape, layout).values())
            in_hosts = layout.num_ranks * rank_bytes(of_kind, shape, layout)
            # vLLM does not start where its KV cache holds less than one sequence.
            samples = num_full_sequences(of_kind, shape, layout) >= 1
            fits_gpus = samples and taken <= has["GPU"] and largest <= config.gpu_gib * GIB
            estimates.append(
                LayoutEstimate(
                    layout=layout,
                    lends=lends,
                    num_gpus=taken,
                    gpu_bytes=largest,
                    host_bytes=in_hosts,
                    fits=fits_gpus and in_hosts <= has.get("memory", math.inf),
                    seconds=run_seconds(of_kind, shape, layout, plan),
                )
            )
    return estimates


def fastest_layout(
    config: Config, shape: ModelShape, plan: Sequence[PhasePlan], has: Mapping[str, float]
) -> Layout | None:
    """Return the layout that `layout=auto` stands for; None where an estimate decides nothing: on
    CPUs, for a layout that is named, and where none fits."""
    if config.layout != "auto" or not uses_gpus(config) or not has.get("GPU"):
        return None
    fitting = [
        estimate
        for estimate in compare_layouts(config, shape, plan, has)
        if estimate.fits and estimate.lends == config.sampler.lends
    ]
    if not fitting:
        return None
    best, *others = sorted(fitting, key=lambda estimate: estimate.seconds)
    than = "".join(f", {e.layout.kind} {e.seconds / 3600:.0f} h" for e in others)
    reason = f"{has['GPU']:g} GPUs, the plan counts {best.seconds / 3600:.0f} h{than}"
    return replace(best.layout, reason=reason if others else "the only one that fits")
