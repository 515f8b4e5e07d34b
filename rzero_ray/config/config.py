"""The configuration of a run: typed, frozen, checked once at load, never changed after.

One YAML file of `conf/` describes an experiment (another may be laid over it); it names an
algorithm preset of `conf/algorithm/` and may name ablations of `conf/ablation/`. Later sources win:
the defaults below, the preset, the experiment, the ablations, then `key.path=value` arguments,
which may not contradict an ablation. A key that does not exist is refused with the nearest one that
does.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rzero_ray.types import RepetitionRule, UserError, VotingRule

C = TypeVar("C")

LayoutKind = Literal["disaggregated", "colocated"]
WeightBackend = Literal["object_store", "nccl", "cuda_ipc"]

LABELLED_METHODS = ("labelled_grpo", "labelled_sft")
"""The values of `method` that learn from labelled problems."""

TINY_MODEL = "tiny"
"""The value of `model.path` that stands for the built-in base model."""


@dataclass(frozen=True)
class ModelConfig:
    """The base model, from which both policies start."""

    path: str = TINY_MODEL
    """A Hugging Face model folder, a hub name (`Qwen/Qwen3-8B-Base`), or `tiny`."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the sampler, and of the learner's forward pass; the optimizer's masters are float32."""
    max_model_len: int = 6144
    """Longest prompt plus completion, in tokens."""
    cache_dir: str = "~/.cache/rzero_ray"
    """Where the built-in base model is kept once built."""
    tiny_seed: int = 0
    """Seed of the built-in base model: its corpus and its initial weights."""


@dataclass(frozen=True)
class SamplingConfig:
    """How a role draws tokens."""

    temperature: float = 1.0
    top_p: float = 1.0
    """Below 1 biases the trainer-sampler ratio, because the sampler renormalises."""
    top_k: int = -1
    max_tokens: int = 4096


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW, fresh at the start of each phase, as the official code's stages are."""

    learning_rate: float = 1e-6
    weight_decay: float = 1e-2
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    warmup_updates: int = 0
    """Linear warm-up, in optimizer steps; constant after."""
    max_grad_norm: float = 1.0


@dataclass(frozen=True)
class LossConfig:
    """The clipped policy-gradient loss with a KL term (`losses.py`)."""

    clip_low: float = 0.2
    clip_high: float = 0.3
    dual_clip: float = 3.0
    """Bound on ratio x |advantage| for negative advantages; 0 is off."""
    kl_coefficient: float = 1e-2
    """Against the policy at the start of the phase."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """Of the KL term: the log-ratio (no gradient in expectation), half its square, or the
    official code's `low_var_kl`. The metric `kl` is k3 with each of them."""
    aggregation: Literal["token_mean", "sequence_mean", "fixed_length"] = "token_mean"
    """Mean over the tokens of the mini-batch (DAPO), mean over sequences of their token means
    (GRPO; also the official code with micro-batches of one sequence), or sum over tokens divided
    by sequences x sampling.max_tokens (Dr. GRPO). Exact over micro-batches and ranks."""
    importance_cap: float = 2.0
    """Truncation of the trainer/sampler probability ratio; 0 is off."""


@dataclass(frozen=True)
class ChallengerConfig:
    """Training of the Challenger (paper, section 3.2)."""

    frozen: bool = False
    """The base Challenger poses all questions and never learns: the baseline `Base Challenger`."""
    num_steps: int = 5
    num_prompts: int = 128
    """Prompts of one step."""
    samples_per_prompt: int = 4
    prompts_per_update: int = 128
    """Prompts of one optimizer step."""
    advantage: Literal["per_prompt", "whole_batch"] = "per_prompt"
    """Normalise rewards over a prompt's samples, or over the whole step: all Challenger prompts
    are one text, so the second has the same expectation and less variance."""
    normalize_std: bool = True
    """Divide centred rewards by their standard deviation (GRPO), or only centre (Dr. GRPO)."""
    num_votes: int = 10
    """Solver samples per question, m."""
    question_format: Literal["question_and_answer", "question"] = "question_and_answer"
    """What is well-formed, here and in the curriculum: a tagged question with a boxed answer after
    it (paper), or a tagged question (in effect the official code: `parsing.parse_question`)."""
    reward: Literal["paper", "official"] = "paper"
    """`rewards.CHALLENGER_REWARDS`."""
    repetition_rule: RepetitionRule = "symmetric"
    """`repetition.REPETITION_RULES`; `official` also counts malformed questions in the batch."""
    repetition_threshold: float = 0.5
    """Distance 1-BLEU below which questions join a cluster (average linkage)."""
    repetition_weight: float = 1.0
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loss: LossConfig = field(default_factory=LossConfig)


@dataclass(frozen=True)
class CurriculumConfig:
    """Candidates, votes and the consistency band (paper, section 3.3)."""

    num_candidates: int = 8000
    """Most candidates of an iteration; all of them unless `num_wanted` is reached before."""
    candidates_per_step: int = 1000
    """Resume granularity: a step is sampled, voted on and written as one."""
    num_wanted: int = 0
    """Kept questions after which no further step is sampled; 0 always spends `num_candidates`."""
    num_votes: int = 10
    early_stopping: bool = False
    """Take no votes that can no longer change whether a question is kept, and with which label
    (`early_stopping.py`). Under `voting.rule=official` all votes are taken all the same."""
    min_agreement: float = 0.25
    max_agreement: float = 0.75
    """Questions whose majority share lies outside [min, max] are dropped."""
    min_answered: float = 0.5
    """Least share of votes that must hold an answer at all."""
    filters: Literal["none", "official"] = "none"
    """Further reasons to drop a question; `official`: `curriculum.officially_refused`."""
    max_per_cluster: int = 0
    """Most kept questions of one BLEU cluster of the iteration's kept questions; 0 is no limit."""
    cluster_threshold: float = 0.5
    """Distance 1-BLEU below which questions join such a cluster."""
    labels: Literal["majority", "oracle"] = "majority"
    """What the Solver is taught: the majority's answers, or the true ones where the task has an
    oracle. `label_accuracy` is about the majority's answers in both cases."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """Of the candidates."""


@dataclass(frozen=True)
class VotingConfig:
    """How the Solver votes, in both phases that vote."""

    rule: VotingRule = "by_value"
    """`voting.VOTING_RULES`. The evaluation's maj@k is always by value."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)


@dataclass(frozen=True)
class SolverConfig:
    """Training of the Solver on the curriculum (paper, section 3.4)."""

    num_steps: int = 15
    num_prompts: int = 128
    samples_per_prompt: int = 5
    prompts_per_update: int = 128
    normalize_std: bool = True
    """Divide centred rewards by their standard deviation (GRPO), or only centre (Dr. GRPO)."""
    reward: Literal["paper", "official"] = "paper"
    """`rewards.SOLVER_REWARDS`."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loss: LossConfig = field(default_factory=LossConfig)


@dataclass(frozen=True)
class LabelledConfig:
    """Labelled data, for the methods that learn from it."""

    path: str = ""
    """JSON lines with `question`, `answer` and, for imitation, `solution`; or `tiny`, problems of
    task=arithmetic made here."""


@dataclass(frozen=True)
class EvalConfig:
    """Evaluation on the task's held-out problems after each iteration, and of the base."""

    num_samples: int = 8
    """k of mean@k and maj@k."""
    max_tokens: int = 4096


@dataclass(frozen=True)
class EndpointConfig:
    """An OpenAI-compatible chat endpoint (`endpoint.py`): a hosted model, or a vLLM server."""

    url: str = ""
    """Its base, with the version: `http://127.0.0.1:8000/v1`."""
    model: str = ""
    """The name by which the endpoint knows the model."""
    key_env: str = "RZERO_ENDPOINT_KEY"
    """The environment variable that holds the key. The key itself is in no configuration; an
    endpoint that asks for none needs no variable."""
    temperature: float = 0.0
    max_tokens: int = 1024
    timeout: float = 120.0
    """Seconds of one attempt."""
    max_retries: int = 3
    """Further attempts after one that failed, with growing pauses between them."""
    concurrency: int = 16
    """Requests under way at once."""


@dataclass(frozen=True)
class AuditConfig:
    """The label audit of each iteration: an oracle answers a sample of the kept questions."""

    oracle: Literal["none", "exact", "openai", "human"] = "none"
    """Nobody, the task's own solver (`task=arithmetic`), the model behind `endpoint`, or a person
    who fills in `iteration-NN/audit-human.csv` (`python -m rzero_ray.evaluation.labels.command` reads it back)."""
    num_questions: int = 200
    """Size of the sample; 200 is what the paper asked GPT-4o about."""
    min_accuracy: float = 0.6
    """Label accuracy below which the run warns. The paper reports 79, 69 and 63 % over its three
    iterations: at .6 two labels in five teach the Solver a wrong answer."""
    stop: bool = False
    """End the run there instead of warning."""
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)


@dataclass(frozen=True)
class DriftConfig:
    """The drift monitors of each iteration (`drift.py`): what is measured, and when to warn.

    The thresholds are reasoned, not fitted: each marks where a person should look, not where a run
    is lost. Shares and ratios of answers compare with the answers of the first Solver step, which
    the base model gave; those of questions compare with the first curriculum.
    """

    num_sequences: int = 64
    """Rollouts per role that the base model scores for the KL; 0 leaves the KL out."""
    num_questions: int = 500
    """Questions whose diversity is measured; BLEU compares all pairs of them."""
    max_kl: float = 0.5
    """Nats per token of KL(policy || base). Updates hold the KL to the start of their own phase
    near .01; half a nat means that the base model would rarely write such a text."""
    min_length_ratio: float = 0.5
    """Mean tokens of an answer, relative to the base model's."""
    max_length_ratio: float = 2.0
    max_unanswered: float = 0.2
    """Share of answers without a box."""
    max_truncated: float = 0.1
    """Share of answers that the length limit cut."""
    max_script_change: float = 0.1
    """Total variation distance between the Unicode scripts of the letters now and at first."""
    max_refusals: float = 0.02
    """Share of answers with a phrase of `drift.REFUSALS`."""
    max_degenerate: float = 0.05
    """Share of answers that repeat themselves (`drift.is_degenerate`)."""
    min_distinct_ratio: float = 0.5
    """Distinct 2-grams per 2-gram of the questions, relative to the first curriculum's."""
    min_clusters: float = 0.2
    """BLEU clusters per question; 1 is all different."""
    max_gini: float = 0.6
    """Of the sizes of the clusters: 0 is all of one size."""
    stop: bool = False
    """End the run where a threshold is crossed instead of warning."""


@dataclass(frozen=True)
class LearnerConfig:
    """The DeepSpeed ranks."""

    num_ranks: int = 1
    zero_stage: int = 2
    tokens_per_micro_batch: int = 16384
    """Prompt and completion tokens of one forward pass, padding included."""
    cpus_per_rank: float = 1.0
    gpus_per_rank: float = 0.0
    threads_per_rank: int = 1
    """CPU threads of torch."""
    gradient_checkpointing: bool = False
    """Keep only each decoder layer's input for the backward pass and compute the rest again: a
    third more work, a fraction of the memory."""
    reference: Literal["device", "cpu"] = "device"
    """Where the KL term's frozen policy is kept; from `cpu` it visits the device once a step."""


@dataclass(frozen=True)
class SamplerConfig:
    """The vLLM engines."""

    num_challenger: int = 1
    num_solver: int = 1
    cpus_per_engine: float = 1.0
    gpus_per_engine: float = 0.0
    threads_per_engine: int = 1
    """CPU threads of torch."""
    max_num_seqs: int = 256
    """Sequences that one engine decodes at once."""
    kv_cache_gib: float = 0.0
    """Size of the KV cache; 0 lets vLLM fill the GPU."""
    gpu_memory_utilization: float = 0.85
    enforce_eager: bool = False


@dataclass(frozen=True)
class RewardConfig:
    """The reward workers: parsing, votes, clustering."""

    num_workers: int = 1
    cpus_per_worker: float = 1.0


@dataclass(frozen=True)
class WeightSyncConfig:
    """Learner to samplers."""

    backend: Literal["auto", "object_store", "nccl", "cuda_ipc"] = "auto"
    """`object_store` works everywhere, `nccl` needs learner and engines on GPUs of their own,
    `cuda_ipc` on shared ones; `auto` takes the fastest that fits the layout (`backend_of`)."""
    bucket_mib: int = 256
    """Size of one flat buffer in the object store."""
    max_probe_difference: float = 0.0
    """Nats; above it the run stops. 0 stands for what the type of the weights can hold: 1e-3 for
    float32, held against the largest difference; 0.05 for bfloat16, against the mean."""


@dataclass(frozen=True)
class PipelineConfig:
    """Overlap of sampling and learning."""

    staleness: int = 0
    """Steps by which rollouts may be behind the policy. 0 is strictly on-policy: sampling and
    learning take turns. With k, the next k steps are sampled while the learner updates, and
    `loss.importance_cap` corrects for the weights that sampled them."""


@dataclass(frozen=True)
class CheckpointConfig:
    """Of the policy in training."""

    every_steps: int = 1
    """A resumed run repeats at most this many updates, from rollouts kept on disk."""
    keep: int = 2


@dataclass(frozen=True)
class DeadlineConfig:
    """Seconds after which waiting becomes an error that names what it waited for."""

    placement: float = 60.0
    start: float = 600.0
    """Loading of an engine or a learner."""
    sample: float = 3600.0
    """One request, its time in the queue included."""
    grade: float = 600.0
    update: float = 3600.0
    sync: float = 600.0


@dataclass(frozen=True)
class Config:
    """One run."""

    name: str = "run"
    method: Literal["coevolution", "labelled_grpo", "labelled_sft"] = "coevolution"
    """R-Zero, or teaching the Solver labelled data: by GRPO with the known answers as labels, or by
    imitation of the solutions (cross-entropy). Each goes on from `model.path`, whatever made it."""
    algorithm: str = "recommended"
    """Preset in `conf/algorithm/`."""
    ablation: str = ""
    """Files of `conf/ablation/`, one or several with commas between: `no_band_filter`."""
    task: Literal["arithmetic", "math"] = "math"
    """Prompts, held-out problems and, where one exists, the oracle."""
    seed: int = 0
    run_dir: str = "runs/${name}-seed${seed}"
    num_iterations: int = 3
    layout: Literal["auto", "disaggregated", "colocated"] = "auto"
    """Every engine and learner rank on devices of its own, or one of each on every GPU, in turns
    (`layout.py`). `auto` is disaggregated where the cluster has the GPUs that this config names."""
    shared_weights: bool = False
    """One model in both roles: each phase goes on from the model of the phase before, whichever
    role learned in it, and a curriculum is posed and voted on by the same model."""
    model: ModelConfig = field(default_factory=ModelConfig)
    challenger: ChallengerConfig = field(default_factory=ChallengerConfig)
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    voting: VotingConfig = field(default_factory=VotingConfig)
    solver: SolverConfig = field(default_factory=SolverConfig)
    labelled: LabelledConfig = field(default_factory=LabelledConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    audit: AuditConfig = field(default_factory=AuditConfig)
    drift: DriftConfig = field(default_factory=DriftConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    weights: WeightSyncConfig = field(default_factory=WeightSyncConfig)
    pipeline: PipelineConfig = field(default_factory=PipelineConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    deadline: DeadlineConfig = field(default_factory=DeadlineConfig)


def load_config(arguments: Sequence[str]) -> Config:
    """Read `conf=NAME|PATH[,...]` and `key.path=value` arguments into a checked `Config`.

    Of several confs a later one wins: `conf=qwen3_4b,labelled_grpo`.

    Raises UserError, in one line, for an unknown conf, an unknown key or a bad value.
    """
    conf, overrides = split_arguments(arguments)
    names = _split_names("tiny" if conf is None else conf)
    experiments = {name: read_yaml(find_conf(name)) for name in names}
    experiment = cast(DictConfig, OmegaConf.merge(*experiments.values()))
    override_tree = read_arguments(overrides, Config)
    preset_name = override_tree.get("algorithm") or experiment.get("algorithm") or Config.algorithm
    preset = read_yaml(find_conf(f"algorithm/{preset_name}"))
    ablation_names = override_tree.get("ablation", experiment.get("ablation")) or ""
    ablations = {name: _read_ablation(name) for name in _split_names(ablation_names)}
    sources = {f"conf/algorithm/{preset_name}.yaml": preset, **experiments}
    sources |= {f"conf/ablation/{name}.yaml": tree for name, tree in ablations.items()}
    for name, source in sources.items():
        check_keys(source, name, Config)
    for name, tree in ablations.items():
        _check_not_contradicted(name, tree, override_tree)
    config = build(Config, preset, experiment, *ablations.values(), override_tree)
    _validate(config)
    return config


def build(schema: type[C], *sources: DictConfig) -> C:
    """Return the dataclass that the sources describe; later ones win. UserError on a bad value."""
    try:
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), *sources))
    except OmegaConfBaseException as error:
        raise UserError(f"bad value for {error.full_key}: {_first_line(error)}") from None
    assert isinstance(config, schema)
    return config


def read_arguments(overrides: Sequence[tuple[str, str]], schema: type) -> DictConfig:
    """Return `key.path=value` arguments as a tree. UserError for a key that `schema` has not."""
    tree = OmegaConf.create()
    for key, value in overrides:
        _check_key(key, f"argument {key}={value}", schema)
        OmegaConf.update(tree, key, _parse_value(key, value))
    return tree


def check_keys(tree: DictConfig, name: str, schema: type) -> None:
    """Raise UserError when the file `name` holds a key that `schema` has not."""
    for key in _leaf_keys(tree):
        _check_key(key, f"{key} in {name}", schema)


def to_yaml(config: Any) -> str:
    """Return a resolved configuration as YAML; its loader reads it back unchanged."""
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False, allow_unicode=True)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return {key path: value} of every leaf of a tree, such as `dataclasses.asdict(config)`."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        leaves |= flatten(value, f"{path}.") if isinstance(value, Mapping) else {path: value}
    return leaves


def probe_bound(config: Config) -> float:
    """Return the largest log-probability difference, in nats, that a weight sync may show."""
    by_dtype = {"float32": 1e-3, "bfloat16": 0.05}
    return config.weights.max_probe_difference or by_dtype[config.model.dtype]


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
        raise UserError(
            f"weights.backend={wanted} does not fit layout {layout} with learner.gpus_per_rank="
            f"{shares[0]:g} and sampler.gpus_per_engine={shares[1]:g}; use {fits}, object_store or "
            "auto"
        )
    return wanted


def find_conf(name: str) -> Path:
    """Return the file of a conf given by name (in `conf/`) or by path.

    `conf/` is looked for in the current folder (an unpacked Ray job) and then beside the package.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name).expanduser()
        if path.is_file():
            return path
        raise UserError(f"conf={name}: no such file; give a name in conf/ or a path to a YAML file")
    folders = [Path("conf"), Path(__file__).resolve().parent.parent / "conf"]
    for folder in folders:
        path = folder / f"{name}.yaml"
        if path.is_file():
            return path
    parent = Path(name).parent
    known = sorted({p.stem for f in folders for p in (f / parent).glob("*.yaml")})
    raise UserError(f"no {name}.yaml in conf/{_suggest(Path(name).name, known)}")


def split_arguments(arguments: Sequence[str]) -> tuple[str | None, list[tuple[str, str]]]:
    """Return the value of `conf=`, where there is one, and the other `key=value` arguments."""
    conf: str | None = None
    overrides: list[tuple[str, str]] = []
    for argument in arguments:
        key, separator, value = argument.partition("=")
        if not separator:
            raise UserError(f"argument {argument!r} is not of the form key=value")
        if key == "conf":
            conf = value
        else:
            overrides.append((key, value))
    return conf, overrides


def read_yaml(path: Path) -> DictConfig:
    """Return a file's keys and values. UserError when it holds none."""
    try:
        tree = OmegaConf.load(path)
    except Exception as error:  # any parser error of any YAML library means: not a YAML file
        raise UserError(f"{path} is not valid YAML: {_first_line(error)}") from None
    if not isinstance(tree, DictConfig):
        raise UserError(f"{path} must hold keys and values, not a list")
    return tree


def _split_names(names: str) -> list[str]:
    return [name.strip() for name in str(names).split(",") if name.strip()]


def _read_ablation(name: str) -> DictConfig:
    return read_yaml(find_conf(f"ablation/{name}"))


def _check_not_contradicted(name: str, ablation: DictConfig, arguments: DictConfig) -> None:
    """Refuse an argument that undoes an ablation: its name in every report would be untrue."""
    for key in _leaf_keys(ablation):
        value, argument = OmegaConf.select(ablation, key), OmegaConf.select(arguments, key)
        if argument is not None and argument != value:
            raise UserError(
                f"{key}={argument} contradicts ablation={name}, which sets it to {value}; leave "
                "one of them out"
            )


def _parse_value(key: str, value: str) -> Any:
    try:
        return OmegaConf.select(OmegaConf.create(f"value: {value}"), "value")
    except Exception:  # as above
        raise UserError(f"argument {key}={value}: the value is not valid YAML") from None


def _leaf_keys(tree: DictConfig) -> list[str]:
    return list(flatten(cast(dict[str, Any], OmegaConf.to_container(tree))))


def _schema_keys(cls: type, prefix: str = "") -> Iterator[str]:
    hints = get_type_hints(cls)
    for item in dataclasses.fields(cls):
        path = f"{prefix}{item.name}"
        section = hints[item.name]
        if isinstance(section, type) and dataclasses.is_dataclass(section):
            yield from _schema_keys(section, f"{path}.")
        else:
            yield path


def _check_key(key: str, where: str, schema: type) -> None:
    known = list(_schema_keys(schema))
    if key in known:
        return
    inside = [name for name in known if name.startswith(f"{key}.")]
    if inside:
        raise UserError(f"{where}: {key} is a section; set one of its keys, such as {inside[0]}")
    raise UserError(f"unknown key: {where}{_suggest(key, known)}")


def _suggest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f"; the nearest is {near[0]}" if near else ""


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


_COUNTS = ("num_", "samples_per_", "prompts_per_", "candidates_per_", "max_per_")
"""How the names of keys begin whose value is a number of things, at least 1."""
_MAY_BE_ZERO = ("curriculum.num_wanted", "curriculum.max_per_cluster", "drift.num_sequences")
"""Counts of which 0 stands for no limit, or for leaving the thing out."""
_NOT_NEGATIVE = ("challenger.repetition_threshold", "curriculum.cluster_threshold")
_SHARES = (
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
        if key.rsplit(".", 1)[-1].startswith(_COUNTS):
            least = 0 if key in may_be_zero else 1
            if value < least:
                raise UserError(f"{key}={value} must be at least {least}")


def _validate(config: Config) -> None:
    """Checks that concern more than one key, or a range; all of them, once."""
    check_counts(config, _MAY_BE_ZERO)
    for key, value in flatten(dataclasses.asdict(config)).items():
        if key in _NOT_NEGATIVE and not 0 <= value < float("inf"):
            raise UserError(f"{key}={value} must be a number from 0 on")
        if key in _SHARES and not 0 <= value <= 1:
            raise UserError(f"{key}={value} must be between 0 and 1")
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


def resolve_run_dir(config: Config) -> Path:
    """Return the run directory as an absolute path (`resolve_folder`)."""
    return resolve_folder(config.run_dir)


def resolve_folder(folder: str) -> Path:
    """Return the absolute path of a folder that a program writes.

    A relative one lies in the current folder. Ray unpacks a submitted job into a folder of its own
    that it deletes later; there a relative one lies in `~/rzero_ray/` of the head node instead, so
    that submitting the same job again resumes it.
    """
    path = Path(folder).expanduser()
    if path.is_absolute():
        return path
    inside_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    base = Path.home() / "rzero_ray" if inside_job else Path.cwd()
    return base / path
