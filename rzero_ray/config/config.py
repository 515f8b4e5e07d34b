"""The configuration of a run: typed, frozen, checked once at load, never changed after.

`method`, `cluster` and `audits` hold its sections, each key with its meaning and default; `load`
reads it from files and arguments, `checks` says what does not fit together.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml

from rzero_ray.config.audits import AuditConfig, DriftConfig, EvalConfig
from rzero_ray.config.cluster import (
    CheckpointConfig,
    DeadlineConfig,
    LearnerConfig,
    ModelConfig,
    RecoveryConfig,
    RewardConfig,
    SamplerConfig,
    SamplingSettings,
    WeightSyncConfig,
)
from rzero_ray.config.method import (
    ChallengerConfig,
    CurriculumConfig,
    LabelledConfig,
    PipelineConfig,
    RefereeConfig,
    SolverConfig,
    VerifierConfig,
    VotingConfig,
)
from rzero_ray.config.rules import (
    LARGEST_SEED,
    a_path,
    a_share,
    above,
    at_least,
    between,
    count,
    optional_path,
    optional_store,
    run_name,
)
from rzero_ray.config.showing import MetricsConfig, TrackersConfig
from rzero_ray.types import UserError

OPEN_TASKS = ("bouquet",)
"""Values of `task` whose requests have no exact answer."""


@dataclass(frozen=True)
class Config:
    """One run."""

    name: Annotated[str, run_name()] = "run"
    method: Literal["coevolution", "judged", "labelled_grpo", "labelled_sft"] = "coevolution"
    """R-Zero; its form for tasks without exact answers, in which a referee compares them; or
    teaching the Solver labelled data: by GRPO with the known answers as labels, or by imitation of
    the solutions (cross-entropy). The last two go on from `model.path`, whatever made it."""
    algorithm: Annotated[str, a_path()] = "recommended"
    """Preset in `conf/algorithm/`."""
    recipe: Annotated[str, optional_path()] = ""
    """Files of `conf/recipe/`, one or several with commas between, laid over the experiment:
    methods of the family, and single remedies."""
    ablation: Annotated[str, optional_path()] = ""
    """Files of `conf/ablation/`, one or several with commas between: `no_band_filter`."""
    task: Literal["arithmetic", "ladder", "math", "bouquet"] = "math"
    """Prompts, held-out problems and, where one exists, the oracle."""
    seed: Annotated[int, between(0, LARGEST_SEED)] = 0
    run_dir: Annotated[str, a_path()] = "runs/${name}-seed${seed}"
    storage_path: Annotated[str, optional_store()] = ""
    """Folder, on a shared disk or as SCHEME://..., in which the run directory is kept as a copy; a
    start on a machine that does not have the run directory takes it from there (`run.mirror`)."""
    num_iterations: Annotated[int, count(1, 10_000)] = 3
    max_hours: Annotated[float, at_least(0)] = 0.0
    """Hours of work, of all starts together, after which the run ends at the next step, with exit
    code 3; 0 is no limit. Raised, the same command goes on."""
    max_tokens: Annotated[int, count(0, 10**18)] = 0
    """The same of the tokens that both roles have sampled; 0 is no limit."""
    layout: Literal["auto", "disaggregated", "colocated"] = "auto"
    """Every engine and learner rank on devices of its own, or one of each on every GPU, in turns
    (`layout.py`). `auto` is disaggregated where the cluster has the GPUs that this config names."""
    gpu_gib: Annotated[float, above(0, 100_000)] = 80.0
    """Memory of one GPU, for the estimates of `--dry-run`, which need none."""
    shared_weights: bool = False
    """One model in both roles: each phase goes on from the model of the phase before, whichever
    role learned in it, and a curriculum is posed and voted on by the same model."""
    rollback_fall: Annotated[float, a_share()] = 1.0
    """How far the agreement of the Solver's answers to the held-out prompts, whose references are
    not looked at, may fall below the highest so far. Beyond it the next iteration starts from the
    models of the last one that did not fall (`phases.rollback`); 1 never goes back."""
    model: ModelConfig = field(default_factory=ModelConfig)
    challenger: ChallengerConfig = field(default_factory=ChallengerConfig)
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    voting: VotingConfig = field(default_factory=VotingConfig)
    verifier: VerifierConfig = field(default_factory=VerifierConfig)
    referee: RefereeConfig = field(default_factory=RefereeConfig)
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
    recovery: RecoveryConfig = field(default_factory=RecoveryConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    trackers: TrackersConfig = field(default_factory=TrackersConfig)


def to_yaml(config: Any) -> str:
    """Return a resolved configuration as YAML; its loader reads it back unchanged."""
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False, allow_unicode=True)


def has_verifier(config: Config) -> bool:
    """Say whether a verifier confirms a run's labels; true ones need no confirmation."""
    return config.verifier.negatives != "none" and config.curriculum.labels != "oracle"


def probe_bound(config: Config) -> float:
    """Return the largest log-probability difference, in nats, that a weight sync may show."""
    by_dtype = {"float32": 1e-3, "bfloat16": 0.05}
    return config.weights.max_probe_difference or by_dtype[config.model.dtype]


def sampling_settings(config: Config) -> SamplingSettings:
    """Return the part of a run's configuration that its engines and reward workers need."""
    return SamplingSettings(
        name=config.name,
        task=config.task,
        model=config.model,
        sampler=config.sampler,
        reward=config.reward,
        deadline=config.deadline,
        recovery=config.recovery,
        metrics=config.metrics,
    )


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
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        return Path.home() / "rzero_ray" / path
    try:
        return Path.cwd() / path
    except FileNotFoundError:
        raise UserError(
            f"{folder} lies in the folder in which the command was started, which has been removed "
            "since; go to another one"
        ) from None
