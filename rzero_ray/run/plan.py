"""What a run will do, before it does it: samples, tokens, updates, memory and a rough time.

Pure functions of the configuration and the base model's shape. Memory and time are estimates; every
number they rest on is a named constant below with its source, and `assumptions` prints them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rzero_ray.config.config import Config
from rzero_ray.config.layout import REDUCE_BUCKET_ELEMENTS, Layout
from rzero_ray.protocols import Task
from rzero_ray.run.shape import ModelShape

GIB = 2**30

# Memory.
MASTER_AND_MOMENTS_BYTES = 12
"""Adam per parameter: float32 master, momentum and variance (ZeRO, arXiv 1910.02054, section 3.1).
In float32 without ZeRO there is no master, and this is 4 too many."""
GRADIENT_BYTES = 4
"""Per parameter: gradients of micro-batches add up in float32."""
LOGITS_BYTES = 4 * 2**25
"""Bytes of a chunk of logits (`logprobs.CHUNK_ELEMENTS`) in float32, however many tokens."""
LOGITS_COPIES = 3
"""Such chunks that exist at a time."""
HEAD_GRADIENT_BYTES = 6
"""Per weight of a trained output head while a micro-batch's loss is taken: float32, and 16 bits."""
BUFFER_BYTES = 100 << 20
"""Of a learner rank beside all that is counted: libraries' own, and what an allocator keeps.
Measured on CPUs beside models of 5 and 24 million parameters (`python -m tests.bench memory`)."""
CONTEXT_BYTES = 3 * GIB
"""Bytes of a shared GPU that are taken whoever has the turn: the CUDA contexts of three processes
and the engines' captured graphs, which do not sleep. Reasoned, not measured."""

# Time.
TOKENS_PER_S_GPU_ENGINE = 1_100.0
"""Sampled by one engine. NVIDIA's NeMo-RL (performance summary, v0.6) reports 1,102 per GPU for
Qwen3-30B-A3B on 32 H100, of the whole on-policy step and with training: low for an engine alone."""
TOKENS_PER_S_GPU_RANK = 17_900.0
"""Trained by one rank, for a model of `RANK_PARAMETERS`: `python -m tests.bench gpu_learner` on one
H100, all weights, packed sequences of 1,085 tokens on average; with ranks that exchange gradients
it is less."""
RANK_PARAMETERS = 1_720_574_976
"""Parameters of Qwen3-1.7B, to which that figure belongs; time is proportional to parameters."""
HOST_COPY_BYTES_PER_S = 40e9
"""Bytes that pass between a GPU and page-locked memory of its host. The same benchmark saw 44e9 to
48e9 on the way back; the first way out, which page-locks the memory, has 3e9 and is not counted."""
PASSES_PER_TRAINED_TOKEN = 5 / 3
"""Cost beside a plain training pass of 3 (forward 1, backward 2): the reference's forward pass, and
one for log-probabilities before the first of several updates."""
LENGTH_SHARE = 0.25
"""Mean completion as a share of its limit: SkyRL reports 834 tokens for Qwen2.5-7B, here of 4,096
about 0.2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhasePlan:
    """One phase of one iteration, at most: malformed questions get no votes."""

    phase: str
    samples: int
    """Completions drawn from both roles."""
    challenger_tokens: int
    """Sampled by the Challenger if every completion were as long as its limit."""
    solver_tokens: int
    """The same of the Solver."""
    trained_tokens: int
    """The part of the tokens that the learner gets."""
    updates: int
    """Optimizer steps."""
    turns: int = 0
    """Steps: on shared GPUs the learner has one turn in each."""

    @property
    def max_tokens(self) -> int:
        """Sampled by both roles, at most."""
        return self.challenger_tokens + self.solver_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Bytes that one actor of a role holds on its device."""

    role: str
    num_actors: int
    weights: int
    reference: int = 0
    gradients: int = 0
    bucket: int = 0
    """Gradients that are being reduced."""
    optimizer: int = 0
    activations: int = 0
    """Or what else is there when they are not, where that is larger."""
    kv_cache: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        parts = (self.weights, self.reference, self.gradients, self.bucket, self.optimizer)
        return sum(parts) + self.activations + self.kv_cache


def plan_iteration(config: Config, task: Task) -> list[PhasePlan]:
    """Return the phases of one iteration, and its evaluation."""
    challenger, curriculum, solver = config.challenger, config.curriculum, config.solver
    vote_tokens = config.voting.sampling.max_tokens
    num_steps = 0 if challenger.frozen else challenger.num_steps
    questions = num_steps * challenger.num_prompts * challenger.samples_per_prompt
    votes = questions * challenger.num_votes
    pool_votes = curriculum.num_candidates * curriculum.num_votes
    answers = solver.num_steps * solver.num_prompts * solver.samples_per_prompt
    heldout = len(task.heldout()) * (1 + config.eval.num_samples)
    return [
        PhasePlan(
            phase="challenger",
            samples=questions + votes,
            challenger_tokens=questions * challenger.sampling.max_tokens,
            solver_tokens=votes * vote_tokens,
            trained_tokens=questions * challenger.sampling.max_tokens,
            updates=num_steps * num_updates(challenger.num_prompts, challenger.prompts_per_update),
            turns=num_steps,
        ),
        PhasePlan(
            phase="curriculum",
            samples=curriculum.num_candidates + pool_votes,
            challenger_tokens=curriculum.num_candidates * curriculum.sampling.max_tokens,
            solver_tokens=pool_votes * vote_tokens,
            trained_tokens=0,
            updates=0,
        ),
        PhasePlan(
            phase="solver",
            samples=answers,
            challenger_tokens=0,
            solver_tokens=answers * solver.sampling.max_tokens,
            trained_tokens=answers * solver.sampling.max_tokens,
            updates=solver.num_steps * num_updates(solver.num_prompts, solver.prompts_per_update),
            turns=solver.num_steps,
        ),
        PhasePlan(
            phase="evaluation",
            samples=heldout,
            challenger_tokens=0,
            solver_tokens=heldout * config.eval.max_tokens,
            trained_tokens=0,
            updates=0,
        ),
    ]


def num_updates(num_prompts: int, prompts_per_update: int) -> int:
    """Return the optimizer steps of one step of a phase."""
    return -(-num_prompts // prompts_per_update)


def plan_memory(config: Config, shape: ModelShape, layout: Layout) -> list[MemoryPlan]:
    """Return what one engine of each role and one learner rank hold, each in its turn."""
    kv_cache = _kv_cache(config, shape, layout)
    weights = shape.num_parameters * element_bytes(config) // config.sampler.tensor_parallel
    return [
        *(
            MemoryPlan(role=f"{role}/sampler", num_actors=count, weights=weights, kv_cache=kv_cache)
            for role, count in layout.num_engines.items()
        ),
        _learner_memory(config, shape, layout),
    ]


def kept_weights(config: Config, shape: ModelShape, layout: Layout) -> list[MemoryPlan]:
    """Return what the object store of the learner's node keeps: the model that was published last,
    for engines that come later."""
    if layout.weight_backend != "object_store" or layout.takes_turns:
        return []
    weights = shape.num_parameters * element_bytes(config)
    return [MemoryPlan(role="object store", num_actors=1, weights=weights)]


def gpu_bytes(config: Config, shape: ModelShape, layout: Layout) -> dict[str, int]:
    """Return the most that each role fills of its GPU; colocated, each turn of the one they share.

    In between the weights pass from the learner's parameters into engines that are awake without
    KV caches: both, where one lends itself to the role that learns.
    """
    rows = plan_memory(config, shape, layout)
    if not layout.takes_turns:
        return {row.role: row.total for row in rows}
    *engines, learner = rows
    awake = [engine.weights for engine in engines][: None if config.sampler.lends else 1]
    turns = {
        "the learner's turn": learner.total,
        "the handover": learner.weights + sum(awake),
        "the samplers' turn": sum(engine.total for engine in engines),
    }
    return {turn: size + CONTEXT_BYTES for turn, size in turns.items()}


def host_bytes(config: Config, shape: ModelShape, layout: Layout) -> int:
    """Return what lies in the host's memory per shared GPU: engines' weights in the learner's turn,
    all of the learner's states in the samplers', and page-locked room for both at all times."""
    *engines, learner = plan_memory(config, shape, layout)
    states = learner.weights + learner.gradients + learner.optimizer
    reference = _reference_bytes(config, shape)
    return states + reference + sum(engine.weights for engine in engines)


def rank_bytes(config: Config, shape: ModelShape, layout: Layout) -> int:
    """Return what a learner rank keeps in its node's memory beside its program.

    On a CPU that is everything. On a GPU of its own it is the whole model, which passes through the
    host when it is loaded and when it is saved, a reference that is kept there, and what is
    offloaded. On a shared GPU it is what `host_bytes` says, that of the engines included.
    """
    if layout.gpus_per_rank == 0:
        return plan_memory(config, shape, layout)[-1].total
    if layout.takes_turns:
        return host_bytes(config, shape, layout)
    reference = _reference_bytes(config, shape) if config.learner.reference == "cpu" else 0
    whole = shape.num_parameters * element_bytes(config)
    return whole + reference + _offloaded_bytes(config, shape, layout)


def _offloaded_bytes(config: Config, shape: ModelShape, layout: Layout) -> int:
    """Return a rank's part of what DeepSpeed keeps on the host (`learner.offload`).

    That is masters and moments with the gradients that they are stepped by, in float32, and with
    `all` the parameters.
    """
    offload, ranks = config.learner.offload, layout.num_ranks
    if offload == "none":
        return 0
    optimizer = (MASTER_AND_MOMENTS_BYTES + GRADIENT_BYTES) * num_trained(config, shape) // ranks
    parameters = shape.num_parameters * element_bytes(config) // ranks
    return optimizer + (parameters if offload == "all" else 0)


def num_trained(config: Config, shape: ModelShape) -> int:
    """Return the parameters that a learner trains: all, or those of the adapter."""
    lora = config.learner.lora
    if not lora.rank:
        return shape.num_parameters
    widths = [sum(shape.linears.get(name, (0, 0))) for name in lora.targets.split(",")]
    return lora.rank * shape.num_layers * sum(widths)


def _reference_bytes(config: Config, shape: ModelShape) -> int:
    """Return the size of the KL term's second model. A policy with an adapter has none, unless it
    is held to the base model after the first iteration."""
    held = [loss for loss in (config.challenger.loss, config.solver.loss) if loss.kl_coefficient]
    is_own = config.learner.lora.rank and (
        config.num_iterations == 1 or all(loss.anchor != "base" for loss in held)
    )
    return 0 if is_own or not held else shape.num_parameters * element_bytes(config)


def _learner_memory(config: Config, shape: ModelShape, layout: Layout) -> MemoryPlan:
    """ZeRO divides the optimizer by the ranks from stage 1, gradients from 2, weights from 3.

    The frozen reference is whole on every rank. One that is kept in the host's memory visits the
    device when there are no activations. Nor are there any when the optimizer steps: DeepSpeed lays
    the gradients of a rank's part out in one piece beside them.
    """
    learner, size = config.learner, element_bytes(config)
    whole, trained = shape.num_parameters * size, num_trained(config, shape)
    reference = _reference_bytes(config, shape)
    stage, ranks = learner.zero_stage, layout.num_ranks
    layer = layer_activations(shape, size, is_adapter=learner.lora.rank > 0)
    per_token = layer * shape.num_layers
    if learner.gradient_checkpointing:
        per_token = layer + shape.hidden_size * size * shape.num_layers
    trained_head = 0 if learner.lora.rank else shape.vocab_size * shape.hidden_size
    tokens = learner.tokens_per_micro_batch
    logits = LOGITS_COPIES * min(LOGITS_BYTES, 4 * tokens * shape.vocab_size)
    head = logits + HEAD_GRADIENT_BYTES * trained_head
    activations = tokens * per_token + head + BUFFER_BYTES
    visitor = reference if learner.reference == "cpu" or layout.takes_turns else 0
    is_offloaded = learner.offload != "none"
    optimizer = MASTER_AND_MOMENTS_BYTES * trained // (ranks if stage >= 1 else 1)
    bucket = GRADIENT_BYTES * min(trained, REDUCE_BUCKET_ELEMENTS) if stage >= 1 else 0
    laid_out = GRADIENT_BYTES * trained // ranks if stage >= 1 and not is_offloaded else 0
    if layout.gpus_per_rank == 0:  # memory is taken when it is written: in place of activations
        bucket, laid_out = 0, laid_out + bucket
    return MemoryPlan(
        role="learner/rank",
        num_actors=ranks,
        weights=whole // (ranks if stage >= 3 else 1),
        reference=0 if visitor else reference,
        gradients=GRADIENT_BYTES * trained // (ranks if stage >= 2 else 1),
        bucket=bucket,
        optimizer=0 if is_offloaded else optimizer,
        activations=max(activations, visitor, laid_out),
    )


def layer_activations(shape: ModelShape, size: int, *, is_adapter: bool) -> int:
    """Return the bytes that a decoder layer keeps of each token for the backward pass.

    Counted for Qwen3 as transformers has it, where the norms of inputs, queries and keys keep what
    they have made in float32, and attention keeps no matrix; Llama has no norms of queries and
    keys and keeps a little less. `size` is that of an element. The inputs of frozen weights, beside
    an adapter, are kept for the adapter alone.
    """
    (hidden, queries), (_, keys) = shape.linears["q_proj"], shape.linears["k_proj"]
    inner = shape.linears["gate_proj"][1]
    of_hidden = (2 if is_adapter else 4) * size + 8
    of_heads = (2 if is_adapter else 3) * size + 4
    return of_hidden * hidden + of_heads * (queries + keys) + 4 * size * inner


def _kv_cache(config: Config, shape: ModelShape, layout: Layout) -> int:
    """Return the KV cache of an engine: as configured, else what is left of its GPU."""
    sampler = config.sampler
    if sampler.kv_cache_gib or not sampler.gpus_per_engine:
        return int(sampler.kv_cache_gib * GIB)
    weights = shape.num_parameters * element_bytes(config) // sampler.tensor_parallel
    return max(0, int(layout.gpu_memory_utilization * config.gpu_gib * GIB) - weights)


def num_full_sequences(config: Config, shape: ModelShape, layout: Layout) -> int:
    """Return how many sequences of `model.max_model_len` tokens fit an engine's KV cache."""
    per_sequence = config.model.max_model_len * shape.kv_elements * element_bytes(config)
    return config.sampler.tensor_parallel * _kv_cache(config, shape, layout) // per_sequence


def element_bytes(config: Config) -> int:
    """Return the size of a weight in the type of the model."""
    return 4 if config.model.dtype == "float32" else 2


def phase_seconds(config: Config, shape: ModelShape, layout: Layout, plan: PhasePlan) -> float:
    """Return the rough time of a phase on GPUs: sampling, then learning.

    The roles sample at the same time and the slower one counts; where the Challenger samples
    nothing, the Solver has its engines too, if they are lent. Engines that share a GPU share what
    it can do, and pass turns with the learner twice a step.
    """
    if layout.takes_turns:
        sampling = plan.max_tokens / layout.num_ranks
    else:
        engines = layout.num_engines
        lent = config.sampler.lends and plan.challenger_tokens == 0
        num_solver = engines["solver"] + (engines["challenger"] if lent else 0)
        of_challenger = plan.challenger_tokens / engines["challenger"]
        sampling = max(of_challenger, plan.solver_tokens / num_solver)
    per_rank = PASSES_PER_TRAINED_TOKEN * plan.trained_tokens / layout.num_ranks
    learning = per_rank / TOKENS_PER_S_GPU_RANK * shape.num_parameters / RANK_PARAMETERS
    seconds = LENGTH_SHARE * (sampling / TOKENS_PER_S_GPU_ENGINE + learning)
    if not layout.takes_turns:
        return seconds
    moved = 2 * host_bytes(config, shape, layout)  # away and back
    return seconds + plan.turns * moved / HOST_COPY_BYTES_PER_S


def run_seconds(
    config: Config, shape: ModelShape, layout: Layout, plan: Sequence[PhasePlan]
) -> float:
    """Return the rough time of all iterations and of the base model's evaluation."""
    seconds = {row.phase: phase_seconds(config, shape, layout, row) for row in plan}
    return config.num_iterations * sum(seconds.values()) + seconds["evaluation"]


def assumptions(
    config: Config, shape: ModelShape | None, plan: Sequence[PhasePlan], layout: Layout
) -> list[str]:
    """Return the lines that say how long the run may take, and what the estimates rest on."""
    if shape is None:
        why = f"the shape of model.path={config.model.path} is not known before it is there"
        return [f"memory and time: not estimated, {why}"]
    lines = [f"memory: {shape.num_parameters / 1e9:.2f}B parameters, {config.model.dtype}"]
    if not config.sampler.gpus_per_engine or not config.learner.gpus_per_rank:
        return [*lines, "time: not estimated on CPUs"]
    num_sequences = num_full_sequences(config, shape, layout)
    lines[0] += (
        f"; GPUs of {config.gpu_gib:g} GiB are assumed (gpu_gib), where an engine's KV cache then "
        f"holds {num_sequences} sequences of {config.model.max_model_len} tokens; "
        f"activations are {'recomputed' if config.learner.gradient_checkpointing else 'kept'}"
    )
    sizes = gpu_bytes(config, shape, layout)
    if layout.takes_turns:
        parts = ", ".join(f"{turn} {size / GIB:.1f} GiB" for turn, size in sizes.items())
        lines.append(
            f"memory of a shared GPU: {parts}, of which {CONTEXT_BYTES // GIB} GiB stay in both; "
            f"of the host, per GPU: {host_bytes(config, shape, layout) / GIB:.1f} GiB"
        )
    too_large = [what for what, size in sizes.items() if size > config.gpu_gib * GIB]
    if too_large:
        lines.append(
            f"memory: {' and '.join(too_large)} may not fit a GPU of {config.gpu_gib:g} GiB; lower "
            "learner.tokens_per_micro_batch, raise learner.num_ranks or learner.zero_stage, train "
            "an adapter (learner.lora.rank), or set sampler.lends=false on shared GPUs"
        )
    hours = run_seconds(config, shape, layout, plan) / 3600
    lines.append(
        f"time: roughly {hours:.0f} h for {config.num_iterations} iterations, with completions of "
        f"{LENGTH_SHARE:.0%} of their limit, {TOKENS_PER_S_GPU_ENGINE:,.0f} tokens/s per engine, "
        f"{TOKENS_PER_S_GPU_RANK:,.0f} per learner rank for {RANK_PARAMETERS / 1e9:.1f}B "
        "parameters (rzero_ray/run/plan.py has the sources); weight syncs, loading and grading "
        "come on top"
    )
    return lines
