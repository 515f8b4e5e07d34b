"""The configuration of `python -m rzero_ray evaluate`: typed, frozen, checked once at load.

Later sources win: the defaults below, one file of `conf/evaluation/` (or a path), then
`key.path=value` arguments. A key that does not exist is refused with the nearest one that does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from omegaconf import OmegaConf

from rzero_ray.config.audits import EndpointConfig
from rzero_ray.config.checks import check_counts, check_temperature
from rzero_ray.config.cluster import (
    TINY_MODEL,
    DeadlineConfig,
    ModelConfig,
    RewardConfig,
    SamplerConfig,
    SamplingSettings,
)
from rzero_ray.config.config import resolve_folder
from rzero_ray.config.sources import (
    build,
    check_keys,
    find_conf,
    read_arguments,
    read_yaml,
    split_arguments,
)
from rzero_ray.types import UserError

_TINY_CONF = "tiny"
"""The file of `conf/evaluation/` for the tiny model, and for what was trained from it."""


@dataclass(frozen=True)
class EvaluationConfig:
    """One evaluation: one or two models on a suite of benchmarks."""

    model: str = ""
    """A Hugging Face model folder, a hub name, or `tiny`, the built-in base model."""
    base: str = ""
    """A second model, measured by the same code; differences are model minus the base."""
    suite: str = "math"
    """`math`, `general`, `all`, `heldout` (the task's own problems), names of benchmarks with
    commas between, or a path to a JSONL file of rows with question, answer and optional options."""
    task: Literal["arithmetic", "math"] = "math"
    """Whose prompts are used: `arithmetic` for the tiny model and what was trained from it."""
    data_dir: str = ""
    """The folder of local files: NAME.jsonl, .json, .csv or .parquet, or NAME/*.parquet."""
    download: bool = False
    """Fetch what is missing from the hub; afterwards it is read from the hub's cache, offline."""
    output_dir: str = ""
    """Empty stands for `evaluations/MODEL-seedN`. Finished benchmarks in it are not repeated."""
    seed: int = 0
    """The seed of the samples, of a part of the problems and of the intervals. Each sample's own
    seed depends on it, the benchmark, the problem and the sample's number."""
    num_samples: int = 0
    """How many answers to a problem are sampled: the k of mean@k, pass@k and maj@k. 0 stands for
    each benchmark's own number: 32 for AMC and AIME, 4 for the other mathematics, 1 for the large
    general sets, 8 for the task's or the user's problems."""
    max_problems: int = 0
    """How many problems of each benchmark are asked, drawn by `seed`; 0 is all of them."""
    temperature: float = 1.0
    """The temperature of the sampled answers; the greedy one has none."""
    max_tokens: int = 4096
    """The length of the longest answer, in tokens."""
    max_model_len: int = 16384
    """The length of the longest prompt and answer together, in tokens."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """The type of the engines' weights and activations."""
    tiny_seed: int = 0
    """The seed of the built-in base model."""
    cache_dir: str = "~/.cache/rzero_ray"
    """The folder where the built-in base model is kept once it is built."""
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


def load_evaluation_config(arguments: Sequence[str]) -> EvaluationConfig:
    """Read `conf=NAME|PATH` and `key.path=value` arguments.

    Without `conf=`, the tiny model and `task=arithmetic` get `conf/evaluation/tiny.yaml`. Raises
    UserError, in one line, for an unknown conf or key and for a bad value.
    """
    conf, overrides = split_arguments(arguments)
    given = read_arguments(overrides, EvaluationConfig)
    if conf is None and (given.get("model") == TINY_MODEL or given.get("task") == "arithmetic"):
        conf = _TINY_CONF
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
            tiny_seed=config.tiny_seed,
        ),
        sampler=config.sampler,
        reward=config.reward,
        deadline=config.deadline,
    )


def resolve_output_dir(config: EvaluationConfig) -> Path:
    """Return the output folder as an absolute path (see `config.resolve_folder`)."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", config.model.rstrip("/")).strip("-")
    return resolve_folder(
        config.output_dir or f"evaluations/{name}-seed{config.seed}", "output_dir"
    )


def _validate(config: EvaluationConfig) -> None:
    if not config.model:
        raise UserError("no model: give model=PATH, model=HUB/NAME or model=tiny")
    if config.base and config.base == config.model:
        raise UserError(f"base={config.base} is the model itself; leave base out")
    if config.sampler.num_challenger:
        raise UserError(
            "sampler.num_challenger has no meaning in an evaluation; set sampler.num_solver"
        )
    check_counts(config, ("num_samples", "sampler.num_challenger"))
    check_temperature("temperature", config.temperature)
    if config.max_problems < 0:
        raise UserError(f"max_problems={config.max_problems} must be at least 0")
    if config.max_tokens < 1 or config.max_tokens >= config.max_model_len:
        raise UserError(
            f"max_tokens={config.max_tokens} must be at least 1 and less than max_model_len="
            f"{config.max_model_len}, with room for the prompt"
        )
    if TINY_MODEL in (config.model, config.base) and config.task != "arithmetic":
        raise UserError(f"model={TINY_MODEL} knows only task=arithmetic, not {config.task}")
