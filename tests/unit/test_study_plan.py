"""A study's plan: written before the first run; it may grow, not change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rzero_ray.config.config import Config
from rzero_ray.study.arms import Place, check_same_actors, load_arm, run_config, settings
from rzero_ray.study.plan import Asked, Plan, extend, read_plan, resolve, write_plan
from rzero_ray.types import UserError


def _asked(**fields) -> Asked:
    others = {"conf": None, "overrides": [], "arms": None, "bases": None, "seeds": None}
    return Asked(**{**others, "compare": [], **fields})


def _extend(plan: Plan | None, finished: int = 0, **fields) -> Plan:
    asked = resolve(_asked(**fields), plan)
    assert asked.arms and asked.conf
    arms = {arm: load_arm(arm, asked.conf, asked.overrides) for arm in asked.arms}
    return extend(plan, asked, arms, lambda: finished)


NEW = {"conf": "tiny", "arms": ["plain", "frozen_challenger"], "bases": [0, 1]}


@pytest.fixture
def plan() -> Plan:
    return _extend(None, **NEW)


def test_a_plan_says_what_is_compared_and_how(plan: Plan, tmp_path: Path):
    write_plan(tmp_path, plan)
    assert read_plan(tmp_path) == plan
    stored = json.loads((tmp_path / "plan.json").read_text())
    assert stored["conf"] == "tiny" and stored["seeds"] == [0]
    assert "half B" in stored["primary"] and "Holm" in stored["tests"]
    (entry,) = stored["entries"]
    assert entry["finished_runs"] == 0 and entry["time"].endswith("Z") and entry["program"]
    assert [str(c) for c in plan.comparisons()] == ["frozen_challenger - plain"]
    assert stored["settings"]["plain"]["solver.num_steps"] == 15
    assert stored["settings"]["frozen_challenger"] == {"challenger.frozen": True}


def test_runs_come_base_by_base(plan: Plan):
    assert plan.places() == [
        Place("plain", 0, 0),
        Place("frozen_challenger", 0, 0),
        Place("plain", 1, 0),
        Place("frozen_challenger", 1, 0),
    ]


def test_the_same_command_and_the_folder_alone_change_nothing(plan: Plan):
    assert _extend(plan, 3, **NEW) is plan
    assert _extend(plan, 3) is plan
    assert _extend(plan, 3, overrides=["sampler.cpus_per_engine=0.25"]) is plan


def test_a_pair_in_both_orders_is_one_comparison(plan: Plan):
    assert _extend(plan, 3, compare=["plain:frozen_challenger"]) is plan
    arms = [*NEW["arms"], "frozen_challenger+ground_truth_labels"]
    pair = f"{arms[2]}:{arms[1]}"
    grown = _extend(plan, 0, arms=arms, compare=[pair, f"{arms[1]}:{arms[2]}"])
    assert grown.entries[-1].compare == [pair]
    assert _extend(grown, 4, compare=[f"{arms[1]}:{arms[2]}"]) is grown
    last = grown.entries[-1]
    both = last.model_copy(update={"compare": [pair, f"{arms[1]}:{arms[2]}"]})
    older = grown.model_copy(update={"entries": [*grown.entries[:-1], both]})
    assert older.comparisons() == grown.comparisons() and len(grown.comparisons()) == 3


def test_arms_bases_and_comparisons_may_be_added_and_say_when(plan: Plan):
    arms = [*NEW["arms"], "frozen_challenger+ground_truth_labels"]
    pair = f"{arms[2]}:{arms[1]}"
    grown = _extend(plan, 4, arms=arms, bases=[2, 1, 0], compare=[pair, pair])
    assert grown.arms == arms and grown.bases == [0, 1, 2]
    assert grown.entries[0] == plan.entries[0]
    last = grown.entries[-1]
    assert (last.finished_runs, last.arms, last.bases, last.compare) == (4, arms[2:], [2], [pair])
    assert [(str(c), c.added_after) for c in grown.comparisons()] == [
        ("frozen_challenger - plain", 0),
        (f"{arms[2]} - plain", 4),
        (f"{arms[2]} - {arms[1]}", 4),
    ]
    assert _extend(grown, 9, compare=[pair]) is grown


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"arms": ["frozen_challenger", "plain"]}, "may grow, not change"),
        ({"arms": ["plain"]}, "may grow, not change"),
        ({"bases": [1, 2]}, "leaves out base 0"),
        ({"seeds": [0, 1]}, "seeds=0,1, but the study's plan has 0"),
        ({"overrides": ["solver.num_steps=3"]}, "solver.num_steps=15, and this command has 3"),
        ({"overrides": ["num_iterations=9"]}, "num_iterations=3, and this command has 9"),
        ({"conf": "qwen3_8b"}, "arm plain was planned with"),
        ({"compare": ["plain:combo"]}, "combo is none of arms=plain,frozen_challenger"),
        ({"compare": ["plain"]}, "not of the form A:B"),
        ({"compare": ["plain:plain"]}, "not of the form A:B"),
        ({"compare": [":plain"]}, "not of the form A:B"),
    ],
)
def test_nothing_else_may_change(plan: Plan, change: dict, complaint: str):
    with pytest.raises(UserError, match=complaint) as error:
        _extend(plan, 1, **change)
    assert "\n" not in str(error.value)


def test_an_arm_that_a_file_has_changed_is_refused(plan: Plan, tmp_path: Path):
    stored = plan.model_dump()
    stored["settings"]["frozen_challenger"]["curriculum.min_agreement"] = 0.5
    (tmp_path / "plan.json").write_text(json.dumps(stored))
    with pytest.raises(UserError, match=r"frozen_challenger was planned with .*=0\.5"):
        _extend(read_plan(tmp_path))


def test_a_key_that_came_later_has_its_default_in_an_older_plan(plan: Plan):
    stored = plan.model_dump()
    del stored["settings"]["plain"]["pipeline.staleness"]
    older = Plan.model_validate(stored)
    assert _extend(older) is older
    with pytest.raises(UserError, match=r"pipeline\.staleness=0, and this command has 1"):
        _extend(older, overrides=["pipeline.staleness=1"])


@pytest.mark.parametrize(
    "missing", [{"conf": None}, {"arms": None}, {"bases": None}], ids=["conf", "arms", "bases"]
)
def test_a_new_study_says_all(missing: dict):
    with pytest.raises(UserError, match="a new study needs conf=NAME, arms="):
        _extend(None, **{**NEW, **missing})


@pytest.mark.parametrize(
    "damage",
    [
        lambda plan: plan.pop("entries"),
        lambda plan: plan.update(entries=[]),
        lambda plan: plan.update(format=9),
        lambda plan: plan.update(settings={}),
        lambda plan: plan["entries"][0].update(finished_runs=-1),
        lambda plan: plan["entries"][0].update(compare=["plain:nobody"]),
        lambda plan: plan["entries"][0].update(bases=["x"]),
    ],
)
def test_a_damaged_plan_is_one_line(plan: Plan, tmp_path: Path, damage):
    stored = plan.model_dump()
    damage(stored)
    (tmp_path / "plan.json").write_text(json.dumps(stored))
    with pytest.raises(UserError, match=r"plan\.json") as error:
        read_plan(tmp_path)
    assert "\n" not in str(error.value)


# Arms.


def test_an_arm_is_files_laid_over_the_experiment(tmp_path: Path):
    plain = load_arm("plain", "tiny", [])
    both = load_arm("frozen_challenger+ground_truth_labels", "tiny", ["num_iterations=2"])
    assert (plain.challenger.frozen, plain.curriculum.labels) == (False, "majority")
    assert (both.challenger.frozen, both.curriculum.labels, both.num_iterations) == (
        True,
        "oracle",
        2,
    )
    place = Place("frozen_challenger+ground_truth_labels", 7, 3)
    config = run_config(both, place, tmp_path)
    assert (config.seed, config.model.base_seed) == (3, 7)
    assert config.run_dir == f"{tmp_path}/runs/{place.arm}-base-7-seed-3"
    assert config.name == Path(config.run_dir).name  # by which others tell it apart
    assert settings(config) == settings(both)


@pytest.mark.parametrize(
    ("arm", "complaint"),
    [
        ("frozen_chalenger", "arm frozen_chalenger; the nearest is frozen_challenger"),
        ("frozen_challenger+trutj", "unknown arm trutj in arm frozen_challenger.trutj; the near"),
        ("../x", "unknown arm ../x; the nearest is"),
    ],
)
def test_an_unknown_arm_is_refused_with_the_nearest(arm: str, complaint: str):
    with pytest.raises(UserError, match=complaint):
        load_arm(arm, "tiny", [])


@pytest.mark.parametrize(
    "key", ["seed", "run_dir", "name", "model.base_seed", "ablation", "recipe"]
)
def test_what_each_run_has_of_its_own_cannot_be_set_for_all(key: str):
    with pytest.raises(UserError, match="each run of a study has its own"):
        load_arm("plain", "tiny", [f"{key}=1"])


def test_arms_that_need_other_actors_are_refused():
    plain = load_arm("plain", "tiny", [])
    check_same_actors({"a": plain, "b": load_arm("no_band_filter", "tiny", [])})
    others = ("model.max_model_len=256", "learner.zero_stage=2", "sampler.max_num_seqs=8")
    for key in others:
        other: Config = load_arm("plain", "tiny", [key])
        with pytest.raises(UserError, match=f"arms a and b cannot share .* with {key[:12]}"):
            check_same_actors({"a": plain, "b": other})


@pytest.mark.parametrize(
    "damage",
    [
        lambda plan: plan.update(seeds=[]),
        lambda plan: plan.update(seeds=[-1]),
        lambda plan: plan["entries"][0].update(bases=[]),
        lambda plan: plan["entries"][0].update(bases=[0, 0]),
        lambda plan: plan["entries"].append(plan["entries"][0]),
    ],
)
def test_a_plan_of_no_runs_or_the_same_twice_is_damaged(plan: Plan, tmp_path: Path, damage):
    content = plan.model_dump()
    damage(content)
    (tmp_path / "plan.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="is damaged"):
        read_plan(tmp_path)


@pytest.mark.parametrize("arm", ["ema+ema", "plain+ema", "ema+", "+ema", ""])
def test_an_arm_names_different_files(arm: str):
    with pytest.raises(UserError, match="between \\+ stand different names"):
        load_arm(arm, "tiny", [])


def test_one_thing_under_two_names_is_refused(plan: Plan):
    with pytest.raises(UserError, match=r"arms ema\+floor and floor\+ema compute the same"):
        _extend(None, **{**NEW, "arms": ["plain", "ema+floor", "floor+ema"]})
    with pytest.raises(UserError, match="compute the same"):
        _extend(plan, arms=[*NEW["arms"], "ema+floor", "floor+ema"])
