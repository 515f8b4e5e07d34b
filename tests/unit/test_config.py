import dataclasses
from pathlib import Path

import pytest

from rzero_ray.config.config import Config, resolve_run_dir, to_yaml
from rzero_ray.config.load import load_config
from rzero_ray.config.sources import as_written, find_conf, flatten, read_yaml
from rzero_ray.run.directory import load_stored_config
from rzero_ray.tasks.registry import check_labels
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
        (["conf="], "names no experiment"),
        (["conf=,"], "names no experiment"),
        (["seed="], "bad value for seed"),
        (["num_iteration=2"], "the nearest is num_iterations"),
        (["solver.optimizer.learningrate=1"], "the nearest is solver.optimizer.learning_rate"),
        (["challenger=3"], "challenger is a section"),
        (["seed=abc"], "bad value for seed"),
        (["task=chess"], "bad value for task"),
        (["learner.zero_stage=7"], "must be 0, 1, 2 or 3"),
        (["solver.num_steps=0"], "solver.num_steps=0 must be from 1 to 1,000,000,000"),
        (["curriculum.min_agreement=0.9"], "is above curriculum.max_agreement"),
        (["eval.max_tokens=4000"], "does not fit model.max_model_len"),
        (["seed"], "not of the form key=value"),
        (["=5"], "not of the form key=value"),
        (["algorithm=mine"], "no algorithm/mine.yaml"),
        (["task=math"], "knows only task=arithmetic"),
        (["voting.sampling.temperature=0"], "gives the same vote each time"),
        (["solver.samples_per_prompt=1"], "nothing to learn from"),
        (["sampler.num_challenger=0"], "each role needs an engine"),
        (["run_dir="], "must be a path"),
        (["run_dir=~nouser/x"], "must be a path"),
        (["name=../x"], "without / and"),
        (["name=a\nseed: 3"], "name=a seed: 3 must be a name"),
        (["seed=\u00b2"], "bad value for seed"),
        (["name=${nothing}"], "bad value for name: Interpolation key 'nothing' not found"),
        (["name=${"], "bad value for name"),
        (["conf=" + "x" * 256], "must be a path"),
        (["model.path=" + "x" * 256], "must be a path"),
        (["labelled.path=" + "x" * 256], "must be empty or a path"),
        (["curriculum.num_wanted=-1"], "must be from 0 to"),
        (["curriculum.candidates_per_step=0"], "must be from 1 to"),
        (["curriculum.cluster_threshold=-0.1"], "must be from 0 to 1"),
        (["checkpoint.every_steps=0"], "must be from 1 to"),
        (["checkpoint.keep=0"], "must be from 1 to"),
        (["voting.sampling.max_tokens=-1"], "must be from 1 to"),
        (["challenger.repetition_weight=.nan"], "=nan must be a finite number, at least 0"),
        (["solver.optimizer.learning_rate=-1e-6"], "must be a finite number, at least 0"),
        (["voting.sampling.temperature=.nan"], "must be from 0 to 2"),
        (["curriculum.sampling.temperature=-1"], "must be from 0 to 2"),
        (["solver.sampling.top_p=0"], "must be above 0 and at most 1"),
        (["solver.sampling.top_p=.nan"], "must be above 0 and at most 1"),
        (["challenger.optimizer.beta1=.inf"], "must be at least 0 and below 1"),
        (["drift.max_kl=.nan"], "must be at least 0; .inf is no limit"),
        (["deadline.sample=.inf"], "must be above 0 and at most 10,000,000"),
        (["voting.rule=loudest"], "bad value for voting.rule"),
        (["ablation=no_band"], "no ablation/no_band.yaml in conf/; the nearest is no_band_filter"),
        (
            ["ablation=no_band_filter", "curriculum.min_agreement=0.1"],
            "curriculum.min_agreement=0.1 contradicts ablation=no_band_filter, which sets it to 0",
        ),
        (["ablation=frozen_challenger,shared_model"], "contradict each other"),
    ],
)
def test_mistakes_get_one_line_that_names_the_fix(arguments: list[str], message: str):
    with pytest.raises(UserError) as caught:
        load_config(arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_limit_can_be_no_limit_and_a_single_vote_greedy():
    one_vote = ["challenger.num_votes=1", "curriculum.num_votes=1", "voting.sampling.temperature=0"]
    config = load_config(["conf=tiny", "drift.max_kl=.inf", *one_vote])
    assert config.drift.max_kl == float("inf") and config.voting.sampling.temperature == 0


def test_an_argument_is_taken_as_it_is_typed():
    given = ["name=007", "run_dir=~", "model.path=a: b", "task=math", "audit.endpoint.model=[x]"]
    config = load_config(given)
    assert (config.name, config.run_dir, config.model.path) == ("007", "~", "a: b")
    assert config.audit.endpoint.model == "[x]"
    assert load_config(["name=x-${seed}", "seed=3"]).name == "x-3"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nseed: 2\n", "is not valid YAML: line 2: .*duplicate key seed"),
        ("solver: {num_steps: }\n", "solver.num_steps in .* has no value"),
        ("run_dir: ~\n", "run_dir in .* has no value"),
        (f"deadline: {{sample: {'1' * 400}}}\n", "is a number of more than 300 digits"),
        (f"seed: {'1' * 5000}\n", "is not valid YAML: .*5000 digits"),
        ("[" * 100_000, "is nested in more than 20 levels"),
        ("- " * 100_000, "is nested in more than 20 levels"),
        ("- 1", "must hold keys and values, not a list"),
        ("a: &a [*a]", "recursive aliases"),
        ("name: |\n  a\n  b\n", "name=a b  must be a name"),
    ],
)
def test_a_file_that_cannot_be_meant_is_one_line_with_the_cause(
    tmp_path: Path, text: str, message: str
):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load_config([f"conf={path}"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        ["name=${oc.env:A_SECRET}"],
        ["audit.endpoint.model=${oc.decode:${oc.env:A_SECRET}}"],
        ["algorithm=${oc.env:A_SECRET}"],
        ["seed=${oc.env:A_SECRET}"],
        ["audit.endpoint.model=env", "name=${oc.${audit.endpoint.model}:A_SECRET}"],
        ["audit.endpoint.model=oc.env", "name=${${audit.endpoint.model}:A_SECRET}"],
        ["model.path=https://user:hidden@host/model"],
        ["run_dir=s3://key:hidden@bucket/run"],
        ["model.cache_dir=file://hidden"],
        ["method=labelled_grpo", "labelled.path=https://host/a.jsonl?token=hidden"],
        ["conf=https://user:hidden@host/my.yaml"],
        ["audit.endpoint.api_key=hidden"],
        ["audit.endpoint.url=http://user:hidden@host/v1"],
        ["audit.endpoint.url=http://host/v1?key=hidden"],
        ["audit.endpoint.url=http://host:99999/hidden"],
        ["audit.endpoint.key_env=sk-hidden"],
    ],
)
def test_no_secret_reaches_a_configuration_or_an_error(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("A_SECRET", "hidden")
    with pytest.raises(UserError) as caught:
        load_config(arguments)
    assert "hidden" not in str(caught.value)


def test_no_file_takes_a_value_out_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("A_SECRET", "hidden")
    path = tmp_path / "mine.yaml"
    path.write_text("algorithm: recommended\naudit: {endpoint: {model: '${oc.env:A_SECRET}'}}\n")
    with pytest.raises(
        UserError, match=r"endpoint\.model takes its value from a function such as oc\.env"
    ):
        load_config([f"conf={path}"])
    (tmp_path / "config.yaml").write_text(path.read_text())
    with pytest.raises(
        UserError, match=r"endpoint\.model takes its value from a function such as oc\.env"
    ):
        load_stored_config(tmp_path)


@pytest.mark.parametrize("argument", ["seed=???", "name=???", "run_dir=???", "model.path=???"])
def test_what_omegaconf_takes_for_no_value_is_refused(argument: str, tmp_path: Path):
    key, _, value = argument.partition("=")
    with pytest.raises(UserError, match=rf"{key}=\?\?\? is no value"):
        load_config(["conf=tiny", argument])
    path = tmp_path / "mine.yaml"
    path.write_text(f"{key}: '{value}'\n" if "." not in key else "model: {path: '???'}\n")
    with pytest.raises(UserError, match=rf"{key}=\?\?\? is no value"):
        load_config([f"conf={path}"])


def test_a_value_may_refer_to_other_keys():
    config = load_config(
        ["conf=tiny", "name=a-${task}", "run_dir=runs/${name}-${seed}-${eval.max_tokens}"]
    )
    assert config.run_dir == f"runs/a-arithmetic-0-{config.eval.max_tokens}"


@pytest.mark.parametrize("url", ["", "http://127.0.0.1:8000/v1", "https://[::1]:1/v1", "http://h"])
def test_an_address_without_secrets_is_accepted(url: str):
    assert load_config([f"audit.endpoint.url={url}"]).audit.endpoint.url == url


def test_a_text_can_be_set_to_nothing_as_the_errors_of_a_run_directory_advise():
    assert load_config(["conf=tiny", "ablation=", "labelled.path="]) == load_config(["conf=tiny"])


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


EXPERIMENTS = ("qwen3_4b", "qwen3_8b", "octothinker_3b", "octothinker_8b")
PRESETS = ("paper", "official_code", "recommended")


def _keys(path: str) -> set[str]:
    return set(as_written(read_yaml(find_conf(path))))


@pytest.mark.parametrize("experiment", ["qwen3_4b_lora", "qwen3_8b_lora"])
def test_an_adapters_experiment_changes_the_learning_rate_alone(experiment: str):
    presets = set.union(*(_keys(f"algorithm/{preset}") for preset in PRESETS))
    rates = {f"{role}.optimizer.learning_rate" for role in ("challenger", "solver")}
    assert _keys(experiment) & presets == rates


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_on_a_real_model_leaves_the_method_to_the_preset(experiment: str):
    presets = [_keys(f"algorithm/{preset}") for preset in PRESETS]
    assert not _keys(experiment) & set.union(*presets)
    configs = [load_config([f"conf={experiment}", f"algorithm={preset}"]) for preset in PRESETS]
    for config in configs:
        lengths = {
            role.sampling.max_tokens
            for role in (config.challenger, config.curriculum, config.voting, config.solver)
        }
        assert (lengths, config.model.max_model_len, config.model.dtype) == (
            {4096},
            2048 + 4096,
            "bfloat16",
        )
    assert load_config([f"conf={experiment}"]).algorithm == "recommended"


def test_every_preset_sets_the_same_keys_and_so_leaves_none_to_another():
    paper, official, recommended = (_keys(f"algorithm/{preset}") for preset in PRESETS)
    corrections = {"challenger.loss.importance_cap", "solver.loss.importance_cap"}
    assert official - corrections == paper == recommended - corrections


def test_paper_and_official_code_differ_as_the_table_in_the_readme_says():
    paper, official = (
        load_config(["conf=qwen3_8b", f"algorithm={preset}"]) for preset in PRESETS[:2]
    )
    assert [c.num_iterations for c in (paper, official)] == [3, 5]
    sizes = [
        (c.challenger.num_prompts, c.challenger.prompts_per_update, c.solver.num_prompts)
        for c in (paper, official)
    ]
    assert sizes == [(512, 128, 512), (512, 16, 512)]
    bands = [
        (c.curriculum.num_votes, c.curriculum.min_agreement, c.curriculum.max_agreement)
        for c in (paper, official)
    ]
    assert bands == [(10, 0.25, 0.75), (9, 0.3, 0.8)]
    rules = [
        (c.challenger.reward, c.challenger.repetition_rule, c.voting.rule, c.solver.reward)
        for c in (paper, official)
    ]
    assert rules == [("paper", "symmetric", "by_value", "paper"), ("official",) * 4]
    assert [c.voting.share for c in (paper, official)] == ["all", "answered"]
    formats = [(c.challenger.question_format, c.curriculum.question_format) for c in (official,)]
    assert formats == [("question", "question_and_answer")]
    for config in (paper, official):
        assert config.challenger.loss.aggregation == config.solver.loss.aggregation
        assert config.solver.loss.aggregation == "sequence_mean"
    draws = [(c.voting.sampling.top_k, c.curriculum.sampling.top_p) for c in (paper, official)]
    assert draws == [(-1, 0.99), (40, 0.95)]


def test_ablations_change_what_their_names_say_and_can_be_combined():
    plain = flatten(dataclasses.asdict(load_config(["conf=tiny"])))
    verifier = {"recipe": "verifier", "verifier.negatives": "rarest"}
    expected = {
        "frozen_challenger": {"challenger.frozen": True},
        "no_repetition_penalty": {"challenger.repetition_weight": 0.0},
        "no_band_filter": {"curriculum.min_agreement": 0.0, "curriculum.max_agreement": 1.0},
        "shared_model": {"shared_weights": True},
        "ground_truth_labels": {"curriculum.labels": "oracle"},
        "frozen_rejection": {
            "challenger.frozen": True,
            "curriculum.num_candidates": 8192,
            "curriculum.candidates_per_step": 64,
            "curriculum.max_voted": 576,
        },
        "yoked": {
            "challenger.frozen": True,
            "curriculum.questions_of": "rzero",
            "curriculum.labels": "oracle",
        },
        "frozen_verifier": verifier | {"verifier.learns": "never"},
        "verifier_taught_once": verifier | {"verifier.learns": "once"},
        "frozen_referee": {"referee.frozen": True},
        "no_referee": {"referee.opinion": "tossed"},
    }
    assert {path.stem for path in find_conf("ablation/shared_model").parent.iterdir()} == set(
        expected
    )
    for name, changes in expected.items():
        if "referee" in name:
            continue  # of method=judged (tests/unit/test_judged.py)
        recipe = ["recipe=verifier"] if "recipe" in changes else []
        config = load_config(["conf=tiny", f"ablation={name}", *recipe])
        assert flatten(dataclasses.asdict(config)) == plain | {"ablation": name} | changes
    both = load_config(["conf=tiny", "ablation=no_band_filter, frozen_challenger"])
    assert both.challenger.frozen and both.curriculum.max_agreement == 1.0


def test_an_ablation_wins_over_the_experiment_and_reads_back(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "curriculum: {min_agreement: 0.4}\nablation: no_band_filter\ntask: arithmetic\n"
    )
    config = load_config([f"conf={path}", "curriculum.max_agreement=1.0"])
    assert config.curriculum.min_agreement == 0.0
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(to_yaml(config))
    assert load_config([f"conf={resolved}"]) == config


def test_labels_of_an_oracle_need_a_task_that_has_one():
    check_labels(load_config(["conf=tiny", "ablation=ground_truth_labels"]))
    with pytest.raises(UserError, match="needs a task with an oracle, which task=math has not"):
        check_labels(load_config(["conf=qwen3_4b", "ablation=ground_truth_labels"]))
