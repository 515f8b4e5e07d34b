import dataclasses
from pathlib import Path

import pytest

from rzero_ray.config import Config, load_config, resolve_run_dir, to_yaml
from rzero_ray.types import UserError


def test_later_sources_win_and_the_preset_comes_first(tmp_path: Path):
    config = load_config(["conf=tiny", "challenger.loss.kl_coefficient=0.5", "seed=7"])
    assert config.seed == 7
    assert config.challenger.loss.kl_coefficient == 0.5  # argument
    assert config.challenger.num_prompts == 128  # experiment
    assert config.challenger.advantage == "whole_batch"  # preset
    assert config.challenger.loss.importance_cap == 2.0  # default
    assert load_config(["conf=tiny", "algorithm=paper"]).challenger.advantage == "per_prompt"


@pytest.mark.parametrize("key", ["kl_estimator", "aggregation"])
def test_an_unknown_variant_of_the_loss_is_refused(key: str):
    with pytest.raises(UserError, match=f"bad value for solver.loss.{key}"):
        load_config(["conf=tiny", f"solver.loss.{key}=k4"])


def test_resolved_yaml_reads_back_unchanged(tmp_path: Path):
    config = load_config(["conf=tiny", "seed=3"])
    path = tmp_path / "resolved.yaml"
    path.write_text(to_yaml(config))
    assert load_config([f"conf={path}"]) == config


def test_config_cannot_be_changed_after_load():
    config = load_config(["conf=tiny"])
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["conf=tinny"], "no tinny.yaml in conf/; the nearest is tiny"),
        (["conf=/no/such.yaml"], "no such file"),
        (["num_iteration=2"], "the nearest is num_iterations"),
        (["solver.optimizer.learningrate=1"], "the nearest is solver.optimizer.learning_rate"),
        (["challenger=3"], "challenger is a section"),
        (["seed=abc"], "bad value for seed"),
        (["task=chess"], "bad value for task"),
        (["learner.zero_stage=7"], "must be 0, 1, 2 or 3"),
        (["solver.num_steps=0"], "must be at least 1"),
        (["curriculum.min_agreement=0.9"], "min <= max"),
        (["eval.max_tokens=4000"], "does not fit model.max_model_len"),
        (["seed"], "not of the form key=value"),
        (["algorithm=mine"], "no algorithm/mine.yaml"),
        (["task=math"], "knows only task=arithmetic"),
    ],
)
def test_mistakes_get_one_line_that_names_the_fix(arguments: list[str], message: str):
    with pytest.raises(UserError) as caught:
        load_config(arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_key_in_a_file_names_the_file(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text("algorithm: recommended\nsolver: {num_stepz: 3}\n")
    with pytest.raises(UserError, match=r"solver.num_stepz in .*mine.yaml; the nearest is solver"):
        load_config([f"conf={path}"])


def test_run_dir_of_a_submitted_job_outlives_the_unpacked_copy(monkeypatch: pytest.MonkeyPatch):
    config = Config(name="n", run_dir="runs/n")
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    assert resolve_run_dir(config) == Path.cwd() / "runs/n"
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert resolve_run_dir(config) == Path.home() / "rzero_ray/runs/n"
    assert resolve_run_dir(Config(run_dir="/x/y")) == Path("/x/y")
