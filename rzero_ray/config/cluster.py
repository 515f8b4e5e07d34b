"""The sections of the cluster: base model, engines, learner ranks, workers, and their limits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from rzero_ray.config.rules import (
    LARGEST_SEED,
    LONGEST_S,
    MOST_ACTORS,
    a_path,
    above,
    at_least,
    between,
    count,
    gpus,
    names,
    one_of,
    positive,
)
from rzero_ray.config.showing import MetricsConfig

TINY_MODEL = "tiny"
"""The value of `model.path` that stands for the built-in base model of `task=arithmetic`."""

LADDER_MODEL = "ladder"
"""The value of `model.path` that stands for the built-in base model of `task=ladder`."""

LADDER_COINS_MODEL = "ladder_coins"
"""The same of a base model that also asks questions without an answer, the coins of that task."""

BOUQUET_MODEL = "bouquet"
"""The value of `model.path` that stands for the built-in base model of `task=bouquet`."""

BUILT_IN_MODELS = {
    TINY_MODEL: "arithmetic",
    LADDER_MODEL: "ladder",
    LADDER_COINS_MODEL: "ladder",
    BOUQUET_MODEL: "bouquet",
}
"""{value of `model.path` that stands for a built-in base model: the one task that it knows}."""


LayoutKind = Literal["disaggregated", "colocated"]


WeightBackend = Literal["object_store", "nccl", "cuda_ipc"]
Offload = Literal["none", "optimizer", "all"]
Attention = Literal["sdpa", "varlen", "flash_attention_2", "flash_attention_3"]


@dataclass(frozen=True)
class ModelConfig:
    """The base model, from which both policies start."""

    path: Annotated[str, a_path()] = TINY_MODEL
    """A Hugging Face model folder, a hub name (`Qwen/Qwen3-8B-Base`), or a built-in model,
    `tiny`, `ladder`, `ladder_coins` or `bouquet`."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """The type of weights and activations in the engines and in the learner's forward pass; the
    optimizer's master copy is float32."""
    max_model_len: Annotated[int, count(2)] = 6144
    """Longest prompt plus completion, in tokens."""
    cache_dir: Annotated[str, a_path()] = "~/.cache/rzero_ray"
    """Where a built-in base model is kept once built."""
    base_seed: Annotated[int, between(0, LARGEST_SEED)] = 0
    """Seed of a built-in base model: its corpus and its initial weights."""


@dataclass(frozen=True)
class LoraConfig:
    """An adapter that is trained in place of the model (LoRA, arXiv 2106.09685)."""

    rank: Annotated[int, count(0, 1_024)] = 0
    """Width of the adapter; 0 trains the whole model."""
    alpha: Annotated[float, positive()] = 32.0
    """The adapter's product counts alpha / rank times."""
    targets: Annotated[str, names()] = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"
    """The linear layers of the decoder that get one, by the last part of their names."""


@dataclass(frozen=True)
class LearnerConfig:
    """The DeepSpeed ranks."""

    num_ranks: Annotated[int, count(1, MOST_ACTORS)] = 1
    zero_stage: Annotated[int, one_of(0, 1, 2, 3)] = 2
    tokens_per_micro_batch: Annotated[int, count()] = 16384
    """Prompt and completion tokens of one forward pass, padding included."""
    cpus_per_rank: Annotated[float, between(0, 1_024)] = 1.0
    gpus_per_rank: Annotated[float, gpus()] = 0.0
    threads_per_rank: Annotated[int, count(1, 1_024)] = 1
    """CPU threads of torch."""
    memory_gib_per_rank: Annotated[float, between(0, 100_000)] = 0.0
    """Memory of its node that Ray sets aside for each rank, so that two runs do not fill one node.
    0 stands for what the plan expects, which is rough. Nothing ends a rank that takes more."""
    gradient_checkpointing: bool = False
    """Keep only each decoder layer's input for the backward pass and compute the rest again: a
    third more work, a fraction of the memory."""
    reference: Literal["device", "cpu"] = "device"
    """Where the KL term's frozen policy is kept; from `cpu` it visits the device once a step."""
    offload: Offload = "none"
    """What lies in the host's memory instead of on the GPU while the rank learns: the optimizer, or
    with `all` the parameters too (ZeRO 3 alone). DeepSpeed's own; a step then takes place on the
    host's processors. Not for colocated roles, whose learner leaves its GPU as a whole."""
    attention: Literal["auto", "sdpa", "varlen", "flash_attention_2", "flash_attention_3"] = "auto"
    """Attention of the learner's model. `varlen` is PyTorch's FlashAttention over sequences packed
    without padding, on GPUs and in 16 bits; `flash_attention_2` and `flash_attention_3` are the
    packages of these names, which you install, over packed sequences too; `sdpa` pads sequences of
    near length. `auto` is `varlen` where it runs, else `sdpa` (`attention_of`)."""
    lora: LoraConfig = field(default_factory=LoraConfig)


@dataclass(frozen=True)
class EngineRange:
    """How many engines a role has. A plain number in place of the section is both ends of it."""

    min: Annotated[int, count(1, MOST_ACTORS)] = 1
    """So many a run starts with, and never gives back."""
    max: Annotated[int, count(1, MOST_ACTORS)] = 1
    """So many it takes while requests wait for them and the cluster has room, or grows."""


@dataclass(frozen=True)
class SamplerConfig:
    """The vLLM engines."""

    num_challenger: Annotated[int, count(0, MOST_ACTORS)] = 1
    num_solver: EngineRange = field(default_factory=EngineRange)
    num_verifier: Annotated[int, count(0, MOST_ACTORS)] = 0
    """Engines of the verifier's own; with none it borrows the Challenger's, which nothing asks
    meanwhile."""
    num_referee: Annotated[int, count(0, MOST_ACTORS)] = 0
    """Engines of the referee's own, which `method=judged` needs: it is asked while the others
    learn."""
    cpus_per_engine: Annotated[float, between(0, 1_024)] = 1.0
    gpus_per_engine: Annotated[float, gpus()] = 0.0
    """GPUs of one engine, of each of its parts with `tensor_parallel`."""
    tensor_parallel: Annotated[int, count(1, 64)] = 1
    """Parts into which an engine's weights are cut: so many GPUs each engine takes, or processes on
    a CPU. The model's attention heads must divide by it."""
    threads_per_engine: Annotated[int, count(1, 1_024)] = 1
    """CPU threads of torch."""
    idle_seconds: Annotated[float, above(0, LONGEST_S)] = 600.0
    """Seconds without a request after which an engine above `num_solver.min` is given back."""
    lends: bool = True
    """Whether engines that nothing asks sample for the role that learns. On shared GPUs there has
    to be room for the weights of both engines beside the learner's."""
    max_num_seqs: Annotated[int, count(1, 1_000_000)] = 256
    """Sequences that one engine decodes at once."""
    kv_cache_gib: Annotated[float, between(0, 100_000)] = 0.0
    """Size of the KV cache, of each part with `tensor_parallel`; 0 lets vLLM fill the GPU."""
    gpu_memory_utilization: Annotated[float, above(0, 1)] = 0.85
    enforce_eager: bool = False


@dataclass(frozen=True)
class RewardConfig:
    """The reward workers: parsing, votes, clustering."""

    num_workers: Annotated[int, count(1, MOST_ACTORS)] = 1
    cpus_per_worker: Annotated[float, between(0, 1_024)] = 1.0


@dataclass(frozen=True)
class WeightSyncConfig:
    """Learner to samplers."""

    backend: Literal["auto", "object_store", "nccl", "cuda_ipc"] = "auto"
    """`object_store` works everywhere, `nccl` needs learner and engines on GPUs of their own,
    `cuda_ipc` on shared ones; `auto` takes the fastest that fits the layout (`backend_of`)."""
    bucket_mib: Annotated[int, count(1, 65_536)] = 256
    """Size of one flat buffer in the object store."""
    max_probe_difference: Annotated[float, at_least(0)] = 0.0
    """Nats; above it the run stops. 0 stands for what the type of the weights can hold: 1e-3 for
    float32, held against the largest difference; 0.05 for bfloat16, against the mean. In bfloat16
    it is a cap: the bound is 4 times what equal weights show, and never below a tenth of this."""


@dataclass(frozen=True)
class KeepModelsConfig:
    """Which models of finished iterations stay in `models/` (`run.retention`).

    The last one of each role always does: the next phase starts from it, and so does a run that is
    prolonged.
    """

    every: Annotated[int, count(0)] = 5
    """Keep those of every n-th iteration too: 1 keeps all, 0 none."""
    best: bool = True
    """Keep the Solver with the highest mean@k on the held-out problems too, where there are any."""


@dataclass(frozen=True)
class CheckpointConfig:
    """How often the policy in training is saved, so that a stopped run can go on."""

    every_steps: Annotated[int, count()] = 1
    """A resumed run repeats at most this many updates, from rollouts kept on disk."""
    keep: Annotated[int, count()] = 2
    """How many checkpoints of the phase in progress stay; the others go as new ones come."""
    keep_models: KeepModelsConfig = field(default_factory=KeepModelsConfig)


@dataclass(frozen=True)
class DeadlineConfig:
    """Seconds after which waiting becomes an error that names what it waited for."""

    placement: Annotated[float, above(0, LONGEST_S)] = 60.0
    start: Annotated[float, above(0, LONGEST_S)] = 600.0
    """Loading of an engine or a learner."""
    sample: Annotated[float, above(0, LONGEST_S)] = 3600.0
    """An engine that is asked and ends nothing. How long a request waits for its turn is not
    limited: a step of a large model takes hours."""
    grade: Annotated[float, above(0, LONGEST_S)] = 600.0
    update: Annotated[float, above(0, LONGEST_S)] = 3600.0
    sync: Annotated[float, above(0, LONGEST_S)] = 600.0


@dataclass(frozen=True)
class RecoveryConfig:
    """What becomes of an actor that dies while a run goes on."""

    silence: Annotated[float, above(0, LONGEST_S)] = 60.0
    """Seconds without a sign of life after which an actor counts as dead, though its process may
    be there: stopped, hung, or on a node that is cut off. It is ended, and a new one takes its
    place. After a third of them nobody asks it any more."""
    max_restarts: Annotated[int, count(0, 10_000)] = 5
    """How often an actor is replaced within an hour, and without an update being finished. Beyond
    that the run goes on without it, or ends with what it died of where nobody else can do its work.
    0 replaces none."""


@dataclass(frozen=True)
class SamplingSettings:
    """What it takes to sample from one model that does not learn: engines and reward workers."""

    name: str
    """Names the actors of this start, so that those of two starts differ in the dashboard."""
    task: str
    """The task by whose rules the reward workers read and grade answers."""
    model: ModelConfig
    sampler: SamplerConfig
    reward: RewardConfig
    deadline: DeadlineConfig
    recovery: RecoveryConfig
    metrics: MetricsConfig
