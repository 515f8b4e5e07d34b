"""The configuration of `python -m rzero_ray evaluate`: typed, frozen, checked once at load.

Later sources win: the defaults below, one file of `conf/evaluation/` (or a path), then
`key.path=value` arguments. A key that does not exist is refused with the nearest one that does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from omegaconf import OmegaConf

from rzero_ray.config.audits import EndpointConfig
from rzero_ray.config.cluster import (
    BOUQUET_MODEL,
    BUILT_IN_MODELS,
    DeadlineConfig,
    ModelConfig,
    RecoveryConfig,
    RewardConfig,
    SamplerConfig,
    SamplingSettings,
)
from rzero_ray.config.config import resolve_folder
from rzero_ray.config.rules import (
    HIGHEST_TEMPERATURE,
    LARGEST_SEED,
    LOWEST_TEMPERATURE,
    a_path,
    between,
    check_rules,
    count,
    optional_path,
)
from rzero_ray.config.showing import MetricsConfig
from rzero_ray.config.sources import (
    as_written,
    build,
    check_keys,
    find_conf,
    read_arguments,
    read_yaml,
    split_arguments,
)
from rzero_ray.types import UserError


@dataclass(frozen=True)
class EvaluationConfig:
    """One evaluation: one or two models on a suite of benchmarks."""

    model: Annotated[str, optional_path()] = ""
    """A Hugging Face model folder, a hub name, or a built-in model, `tiny`, `ladder` or
    `ladder_coins`."""
    base: Annotated[str, optional_path()] = ""
    """A second model, measured by the same code; differences are model minus the base."""
    suite: Annotated[str, a_path()] = "math"
    """`math`, `general`, `all`, `heldout` (the task's own problems), names of benchmarks with
    commas between, or a path to a JSONL file of rows with question, answer and optional options."""
    task: Literal["arithmetic", "ladder", "math"] = "math"
    """Whose prompts are used: `arithmetic` and `ladder` are for the built-in models and for what
    was trained from them."""
    data_dir: Annotated[str, optional_path()] = ""
    """The folder of local files: NAME.jsonl, .json, .csv or .parquet, or NAME/*.parquet."""
    download: bool = False
    """Fetch what is missing from the hub; afterwards it is read from the hub's cache, offline."""
    output_dir: Annotated[str, optional_path()] = ""
    """Empty stands for `evaluations/MODEL-seedN`. Finished benchmarks in it are not repeated."""
    seed: Annotated[int, between(0, LARGEST_SEED)] = 0
    """The seed of the samples, of a part of the problems and of the intervals. Each sample's own
    seed depends on it, the benchmark, the problem and the sample's number."""
    num_samples: Annotated[int, count(0)] = 0
    """How many answers to a problem are sampled: the k of mean@k, pass@k and maj@k. 0 stands for
    each benchmark's own number: 32 for AMC and AIME, 4 for the other mathematics, 1 for the large
    general sets, 8 for the task's or the user's problems."""
    max_problems: Annotated[int, count(0)] = 0
    """How many problems of each benchmark are asked, drawn by `seed`; 0 is all of them."""
    temperature: Annotated[float, between(LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE)] = 1.0
    """The temperature of the sampled answers; the greedy one has none."""
    max_tokens: Annotated[int, count()] = 4096
    """The length of the longest answer, in tokens."""
    max_model_len: Annotated[int, count(2)] = 16384
    """The length of the longest prompt and answer together, in tokens."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """The type of the engines' weights and activations."""
    base_seed: Annotated[int, between(0, LARGEST_SEED)] = 0
    """The seed of a built-in base model."""
    cache_dir: Annotated[str, a_path()] = "~/.cache/rzero_ray"
    """The folder where built-in base models are kept once they are built."""
    published: bool = False
    """Show all published rows; without it those of a model with the same name."""
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
    """The judge model, asked about every greedy answer; none while `endpoint.url` is empty."""
    sampler: SamplerConfig = field(
        default_factory=lambda: SamplerConfig(num_challenger=0, gpus_per_engine=1.0)
    )
    """The engines: `sampler.num_solver` of them; the defaults are for one GPU."""
    reward: RewardConfig = field(default_factory=lambda: RewardConfig(num_workers=2))
    """The workers that read and grade answers."""
    deadline: DeadlineConfig = field(default_factory=DeadlineConfig)
    """Seconds after which waiting becomes an error; `update` and `sync` have no meaning here."""
    recovery: RecoveryConfig = field(default_factory=RecoveryConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    """What becomes of an engine or a worker that dies meanwhile."""


def load_evaluation_config(arguments: Sequence[str]) -> EvaluationConfig:
    """Read `conf=NAME|PATH` and `key.path=value` arguments.

    Without `conf=`, a built-in model and the task that it knows get the file in `conf/evaluation/`
    that is named after the first model of that task. Raises UserError, in one line, for an unknown
    conf or key and for a bad value.
    """
    conf, overrides = split_arguments(arguments)
    given = read_arguments(overrides, EvaluationConfig)
    named = as_written(given)
    if BOUQUET_MODEL in (named.get("model"), named.get("base"), named.get("task")):
        raise UserError(
            f"{BOUQUET_MODEL}: answers without an exact answer are measured by their run alone "
            "(method=judged), not by this command"
        )
    if conf is None:
        known = BUILT_IN_MODELS.get(named.get("model", ""), named.get("task"))
        conf = next((model for model, task in BUILT_IN_MODELS.items() if task == known), None)
    if conf is None:
        file = OmegaConf.create()
    else:
        is_path = conf.endswith((".yaml", ".yml"))
        file = read_yaml(find_conf(conf if is_path else f"evaluation/{conf}"))
        check_keys(file, conf, EvaluationConfig)
    config = build(EvaluationConfig, file, given)
    _validate(config)
    return config


def sampling_settings(config: EvaluationConfig, model: str) -> SamplingSettings:
    """Return what it takes to sample from `model`, which is one of the two that are measured."""
    return SamplingSettings(
        name="evaluation",
        task=config.task,
        model=ModelConfig(
            path=model,
            dtype=config.dtype,
            max_model_len=config.max_model_len,
            cache_dir=config.cache_dir,
            base_seed=config.base_seed,
        ),
        sampler=config.sampler,
        reward=config.reward,
        deadline=config.deadline,
        recovery=config.recovery,
        metrics=config.metrics,
    )


def resolve_output_dir(config: EvaluationConfig) -> Path:
    """Return the output folder as an absolute path (see `config.resolve_folder`)."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", config.model.rstrip("/")).strip("-")
    return resolve_folder(config.output_dir or f"evaluations/{name}-seed{config.seed}")


def _validate(config: EvaluationConfig) -> None:
    check_rules(config)
    if not config.model:
        raise UserError("no model: give model=PATH, model=HUB/NAME, model=tiny or model=ladder")
    if config.base and config.base == config.model:
        raise UserError(f"base={config.base} is the model itself; leave base out")
    if config.sampler.num_challenger:
        raise UserError(
            "sampler.num_challenger has no meaning in an evaluation; set sampler.num_solver"
        )
    if config.sampler.num_solver.min != config.sampler.num_solver.max:
        raise UserError(
            "an evaluation keeps the engines that it starts with; give their number, "
            "sampler.num_solver=N, and no range"
        )
    if config.max_tokens >= config.max_model_len:
        raise UserError(
            f"max_tokens={config.max_tokens} must be less than max_model_len="
            f"{config.max_model_len}, with room for the prompt"
        )
    for model in (config.model, config.base):
        if BUILT_IN_MODELS.get(model, config.task) != config.task:
            raise UserError(
                f"model={model} knows only task={BUILT_IN_MODELS[model]}, not {config.task}"
            )
