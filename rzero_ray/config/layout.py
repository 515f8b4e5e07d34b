"""Where the roles run: each on devices of its own, or all on the same ones, in turns.

- `disaggregated`: every engine and every learner rank has the resources that the config names.
- `colocated`: each GPU holds one learner rank and one engine of each role, which take turns
  (`actors.turns`): while the learner works the engines sleep, while engines sample the learner's
  states are in the host's memory. How many of each there are follows from the GPUs.

The choice is made once per start of a run, from the configuration and what the cluster has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rzero_ray.config.cluster import Attention, LayoutKind, SamplerConfig, WeightBackend
from rzero_ray.config.config import Config
from rzero_ray.config.roles import ROLES
from rzero_ray.types import Role, UserError

ENGINES_PER_PLACE = sum(role.is_policy for role in ROLES)
"""In a colocated layout each place has one of every role."""
SHARE_OF_GPU = 0.9 / (ENGINES_PER_PLACE + 1)
"""What each engine and the learner rank have of a shared GPU, as Ray counts it: all of them see the
GPU whole, and Ray only has to find room for them on one."""


REDUCE_BUCKET_ELEMENTS = 50_000_000
"""Gradients that travel between learner ranks at a time, in a buffer of their own: 200 MB in
float32, long enough for any network. DeepSpeed's own size is ten times that, 1.9 GiB of a GPU."""

_FIXED_AT_START = (
    "task",
    "layout",
    "model.",
    "learner.",
    "sampler.",
    "reward.",
    "weights.",
    "deadline.",
    "recovery.",
    "metrics.",
)
_OF_THE_WEIGHTS = ("model.base_seed", "model.cache_dir")
"""Which model of a shape a run starts from: engines and learner are given its weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How many engines and ranks there are, and what one of them gets."""

    kind: LayoutKind
    num_engines: Mapping[Role, int]
    """The engines of each role that has its own, in the order of `ROLES`, at the start."""
    num_ranks: int
    """Learner ranks."""
    gpus_per_engine: float
    """The GPUs, or the part of one, that Ray sets aside for each engine."""
    gpus_per_rank: float
    """The GPUs, or the part of one, that Ray sets aside for each rank."""
    gpu_memory_utilization: float
    """Share of its GPU's memory that one engine may take."""
    weight_backend: WeightBackend
    reason: str
    """Why this layout, in one line."""
    most_engines: Mapping[Role, int] = field(default_factory=dict)
    """To how many engines a role may grow, where that is more than it starts with."""
    rank_bytes: int = 0
    """What a rank, with the engines that share its place, keeps in its node's memory beside their
    programs (`run.plan.rank_bytes`); 0 where the shape of the model is not known."""

    @property
    def takes_turns(self) -> bool:
        """Whether the roles share their devices."""
        return self.kind == "colocated"

    @property
    def is_elastic(self) -> bool:
        """Whether engines may come and go: each has devices of its own."""
        return not self.takes_turns and self.weight_backend != "cuda_ipc"

    def describe(self) -> str:
        """Return the line of a run's log."""
        counts = (
            f"{' + '.join(map(self._range, self.num_engines))} engines, {self.num_ranks} learner "
            f"rank{'' if self.num_ranks == 1 else 's'}"
        )
        return f"layout {self.kind}: {self.reason}; {counts}, weights by {self.weight_backend}"

    def _range(self, role: Role) -> str:
        least, most = self.num_engines[role], self.most_engines.get(role)
        return str(least) if most is None else f"{least} to {most}"


def resolve_layout(config: Config, has: Mapping[str, float]) -> Layout:
    """Return the layout of a run on a cluster with the resources `has` (Ray's names: `GPU`).

    `auto` is disaggregated where the config's GPUs are there or none at all is, and colocated where
    there are some. Whether everything else fits is for `actors.placement.check_resources` to say.
    Raises UserError, in one line, when the choice contradicts another key.
    """
    num_gpus = int(has.get("GPU", 0.0))
    wanted = wanted_gpus(config)
    gpus = f"{num_gpus} GPU{'' if num_gpus == 1 else 's'}"
    if config.layout == "disaggregated":
        return disaggregated(config, "as configured")
    if config.layout == "colocated":
        return _colocated(config, num_gpus, "as configured")
    if not uses_gpus(config):
        return disaggregated(config, "the config names no GPUs to share")
    if wanted <= num_gpus:
        return disaggregated(config, f"{gpus}, the roles on their own take {wanted:g}")
    if num_gpus == 0:
        return disaggregated(config, f"no GPU here, the roles on their own take {wanted:g}")
    return _colocated(config, num_gpus, f"{gpus}, the roles on their own would take {wanted:g}")


def disaggregated(config: Config, reason: str = "as configured") -> Layout:
    """Return the layout in which every actor has what the config names."""
    layout = Layout(
        kind="disaggregated",
        num_engines={r.name: n for r in ROLES if (n := r.engines(config.sampler))},
        num_ranks=config.learner.num_ranks,
        gpus_per_engine=config.sampler.gpus_per_engine * config.sampler.tensor_parallel,
        gpus_per_rank=config.learner.gpus_per_rank,
        gpu_memory_utilization=config.sampler.gpu_memory_utilization,
        weight_backend=backend_of(config, "disaggregated"),
        most_engines={"solver": config.sampler.num_solver.max} if _is_range(config) else {},
        reason=reason,
    )
    if layout.most_engines and not layout.is_elastic:
        raise UserError(
            f"sampler.num_solver.max={config.sampler.num_solver.max} is above .min, but with "
            "weights.backend=cuda_ipc an engine gets its weights from the GPU that it shares with "
            "the learner, so that none can join; set sampler.num_solver=N, or "
            "weights.backend=object_store"
        )
    return layout


def _is_range(config: Config) -> bool:
    return config.sampler.num_solver.max > config.sampler.num_solver.min


def is_fixed_at_start(key: str) -> bool:
    """Return whether the actors of a run are started by this key, so that runs that are served by
    the same ones have to agree on it: all others of a configuration are each run's own."""
    return key.startswith(_FIXED_AT_START) and key not in _OF_THE_WEIGHTS


def engines_alone(sampler: SamplerConfig) -> Layout:
    """Return the layout of an evaluation: the Solver's engines, which share with nobody."""
    return Layout(
        kind="disaggregated",
        num_engines={"solver": sampler.num_solver.min},
        num_ranks=0,
        gpus_per_engine=sampler.gpus_per_engine * sampler.tensor_parallel,
        gpus_per_rank=0.0,
        gpu_memory_utilization=sampler.gpu_memory_utilization,
        weight_backend="object_store",
        reason="nothing learns",
    )


def _colocated(config: Config, num_gpus: int, reason: str) -> Layout:
    """Return the layout of a rank and an engine of each role in each place: a GPU, or some CPUs.

    A cluster without GPUs gets the demand of one, which it will be found not to meet.
    """
    if config.pipeline.staleness:
        raise UserError(
            f"pipeline.staleness={config.pipeline.staleness} overlaps sampling and learning, which "
            f"take turns when colocated (layout={config.layout}: {reason}); set "
            "pipeline.staleness=0, or layout=disaggregated on enough GPUs"
        )
    if config.sampler.tensor_parallel > 1:
        raise UserError(
            f"sampler.tensor_parallel={config.sampler.tensor_parallel} cuts an engine over GPUs, "
            f"which a colocated one shares with a rank (layout={config.layout}: {reason}); set it "
            "to 1, or layout=disaggregated on enough GPUs"
        )
    if config.learner.offload != "none":
        raise UserError(
            f"learner.offload={config.learner.offload} keeps states in the host's memory, where a "
            f"colocated learner goes as a whole between its turns (layout={config.layout}: {reason}"
            "); set it to none, or layout=disaggregated on enough GPUs"
        )
    if _is_range(config):
        raise UserError(
            f"sampler.num_solver.max={config.sampler.num_solver.max} is above .min, but colocated "
            f"roles have an engine in each place (layout={config.layout}: {reason}); set "
            "sampler.num_solver=N, or layout=disaggregated on enough GPUs"
        )
    if config.method == "judged":
        raise UserError(
            "method=judged needs engines of the referee's own beside the others', and colocated "
            f"places have none (layout={config.layout}: {reason}); set layout=disaggregated"
        )
    places, share = config.learner.num_ranks, 0.0
    if uses_gpus(config):
        places, share = min(max(1, num_gpus), places), SHARE_OF_GPU
    return Layout(
        kind="colocated",
        num_engines={role.name: places for role in ROLES if role.is_policy},
        num_ranks=places,
        gpus_per_engine=share,
        gpus_per_rank=share,
        gpu_memory_utilization=config.sampler.gpu_memory_utilization / ENGINES_PER_PLACE,
        weight_backend=backend_of(config, "colocated"),
        reason=reason,
    )


def wanted_gpus(config: Config) -> float:
    """Return the GPUs that the roles take on their own."""
    sampler, learner = config.sampler, config.learner
    num_parts = sampler.tensor_parallel * sum(role.engines(config.sampler) for role in ROLES)
    return num_parts * sampler.gpus_per_engine + learner.num_ranks * learner.gpus_per_rank


def uses_gpus(config: Config) -> bool:
    """Return whether engines and learner ranks run on GPUs, which they could then share."""
    return min(config.learner.gpus_per_rank, config.sampler.gpus_per_engine) > 0


def backend_of(config: Config, layout: LayoutKind) -> WeightBackend:
    """Return the weight backend that `weights.backend` stands for, or raise UserError.

    Disaggregated engines and learner ranks that have parts of GPUs share them with each other, too,
    though they do not take turns.
    """
    shares = (config.learner.gpus_per_rank, config.sampler.gpus_per_engine)
    fits: WeightBackend
    if not uses_gpus(config):
        fits = "object_store"
    else:
        fits = "cuda_ipc" if layout == "colocated" or max(shares) < 1 else "nccl"
    wanted = config.weights.backend
    if wanted == "auto":
        return fits
    if wanted not in ("object_store", fits):
        others = ", ".join(dict.fromkeys((fits, "object_store")))
        raise UserError(
            f"weights.backend={wanted} does not fit layout {layout} with learner.gpus_per_rank="
            f"{shares[0]:g} and sampler.gpus_per_engine={shares[1]:g}; use {others} or auto"
        )
    return wanted


def attention_of(config: Config) -> Attention:
    """Return the attention that `learner.attention` stands for, or raise UserError."""
    fits = config.learner.gpus_per_rank > 0 and config.model.dtype != "float32"
    wanted = config.learner.attention
    if wanted == "auto":
        return "varlen" if fits else "sdpa"
    if wanted != "sdpa" and not fits:
        raise UserError(
            f"learner.attention={wanted} runs on GPUs in 16 bits, but learner.gpus_per_rank="
            f"{config.learner.gpus_per_rank:g} and model.dtype={config.model.dtype}; use sdpa or "
            "auto"
        )
    return wanted
