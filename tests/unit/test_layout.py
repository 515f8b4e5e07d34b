"""Which layout a cluster gets, and what it then asks Ray for."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import replace
from typing import get_args

import pytest

from actors.placement import (
    bundles,
    check_resources,
    demands,
    runs_in_sampler,
    sampling_demands,
)
from rzero_ray.config.config import Config, sampling_settings
from rzero_ray.config.layout import (
    Layout,
    attention_of,
    disaggregated,
    engines_alone,
    resolve_layout,
)
from rzero_ray.config.load import load_config
from rzero_ray.config.roles import ROLES
from rzero_ray.types import Role, UserError

FOUR_B = ["conf=qwen3_4b"]
"""Four engines and four ranks with a GPU each."""


def _resolve(num_gpus: int, *arguments: str) -> Layout:
    return resolve_layout(load_config([*FOUR_B, *arguments]), {"CPU": 64.0, "GPU": num_gpus})


@pytest.mark.parametrize(
    ("num_gpus", "arguments", "kind", "counts"),
    [
        (8, [], "disaggregated", (1, 3, 4)),
        (16, [], "disaggregated", (1, 3, 4)),
        (7, [], "colocated", (4, 4, 4)),
        (2, [], "colocated", (2, 2, 2)),
        (1, [], "colocated", (1, 1, 1)),
        (0, [], "disaggregated", (1, 3, 4)),  # and is found not to fit
        (1, ["layout=disaggregated"], "disaggregated", (1, 3, 4)),
        (16, ["layout=colocated"], "colocated", (4, 4, 4)),
        (3, ["layout=colocated"], "colocated", (3, 3, 3)),
        (0, ["layout=colocated"], "colocated", (1, 1, 1)),
        (3, ["learner.num_ranks=1", "sampler.num_solver=1"], "disaggregated", (1, 1, 1)),
        (1, ["sampler.gpus_per_engine=0"], "disaggregated", (1, 3, 4)),
    ],
)
def test_the_gpus_decide(num_gpus: int, arguments: list[str], kind: str, counts: tuple):
    layout = _resolve(num_gpus, *arguments)
    assert layout.kind == kind
    assert (*layout.num_engines.values(), layout.num_ranks) == counts
    assert list(layout.num_engines) == ["challenger", "solver"]


def test_the_choice_is_explained_in_one_line():
    assert _resolve(1).describe() == (
        "layout colocated: 1 GPU, the roles on their own would take 8; 1 + 1 engines, 1 learner "
        "rank, weights by cuda_ipc"
    )
    assert _resolve(8).describe().startswith("layout disaggregated: 8 GPUs, the roles on their own")
    assert _resolve(8).weight_backend == "nccl"
    tiny = resolve_layout(load_config(["conf=tiny"]), {"CPU": 2.0, "GPU": 8.0})
    assert (tiny.kind, tiny.weight_backend) == ("disaggregated", "object_store")


def test_two_engines_divide_the_memory_that_one_had():
    assert _resolve(8).gpu_memory_utilization == 0.85
    assert _resolve(1).gpu_memory_utilization == 0.425


@pytest.mark.parametrize("arguments", [["layout=colocated"], []])
def test_overlap_and_turns_exclude_each_other(arguments: list[str]):
    with pytest.raises(UserError, match=r"staleness=1 overlaps sampling and learning, which take"):
        _resolve(1, "pipeline.staleness=1", *arguments)
    assert _resolve(8, "pipeline.staleness=1").kind == "disaggregated"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["layout=shared"], "bad value for layout"),
        (["layout=colocated", "learner.gpus_per_rank=1"], "set both above 0, or both to 0"),
    ],
)
def test_a_layout_that_cannot_be_is_refused_in_one_line(arguments: list[str], message: str):
    with pytest.raises(UserError) as caught:
        load_config(["conf=tiny", *arguments])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def two_gpus() -> tuple[Config, Layout]:
    config = load_config([*FOUR_B, "reward.num_workers=1"])
    return config, resolve_layout(config, {"GPU": 2.0})


def test_a_rank_and_two_engines_share_the_bundle_of_a_gpu(two_gpus: tuple[Config, Layout]):
    needed = demands(*two_gpus)
    places = {d.actor: d.place for d in needed}
    assert places == {
        "challenger/sampler-0": "device-0",
        "challenger/sampler-1": "device-1",
        "solver/sampler-0": "device-0",
        "solver/sampler-1": "device-1",
        "learner/rank-0": "device-0",
        "learner/rank-1": "device-1",
        "reward/worker-0": "reward/worker-0",
    }
    shared = {"CPU": 12.0, "GPU": 1.0, "memory": 2.0**30}
    *devices, worker = bundles(needed).values()
    assert devices == [shared, shared] and worker["CPU"] == 1.0
    here = [d for d in needed if d.place == "device-0"]
    assert sum(d.gpus for d in here) <= 1  # Ray finds room for all of them on the one GPU


def test_alone_every_actor_has_a_bundle_with_what_the_config_names():
    config = load_config([*FOUR_B, "learner.gpus_per_rank=0.5"])
    needed = demands(config, disaggregated(config))
    found = bundles(needed)
    assert list(found) == [d.actor for d in needed]
    assert found["learner/rank-0"] == {"CPU": 4.0, "GPU": 0.5, "memory": 2.0**30}
    assert found["solver/sampler-2"] == {"CPU": 4.0, "GPU": 1.0}


def test_a_place_on_a_cpu_has_the_cpus_and_the_memory_of_all_its_actors():
    config = load_config(["conf=tiny", "layout=colocated"])
    layout = resolve_layout(config, {"CPU": 2.0})
    needed = demands(config, layout)
    found = bundles(needed)
    assert list(found) == ["device-0", "reward/worker-0"]
    assert found["device-0"]["CPU"] == 1.5
    assert found["device-0"]["memory"] == sum(d.memory for d in needed[:-1]) == 3.5 * 2**30
    assert layout.weight_backend == "object_store"


def test_a_learner_rank_asks_for_the_memory_that_the_plan_expects_or_the_user_tells():
    config = load_config(["conf=tiny"])
    has = {"CPU": 2.0, "memory": 4.0 * 2**30}

    def of_rank(config: Config, layout: Layout) -> int:
        (rank,) = (d for d in demands(config, layout) if d.actor == "learner/rank-0")
        return rank.memory

    layout = resolve_layout(config, has)
    assert of_rank(config, layout) == 2**30  # the program: tiny's shape is not known beforehand
    check_resources(demands(config, layout), has)
    large = replace(layout, rank_bytes=3 * 2**30)
    assert of_rank(config, large) == 4 * 2**30
    with pytest.raises(
        UserError, match=r"not enough memory .*learner\.memory_gib_per_rank"
    ) as error:
        check_resources(demands(config, large), has)
    assert re.search(r"1 x learner/rank .* 4\.0 GiB", str(error.value))
    told = load_config(["conf=tiny", "learner.memory_gib_per_rank=0.5"])
    assert of_rank(told, large) == 2**29
    check_resources(demands(told, large), has)


@pytest.mark.parametrize(
    ("arguments", "questions"),
    [
        (["conf=tiny"], 128),  # of a Challenger step: nothing else is clustered there
        ([*FOUR_B, "curriculum.num_wanted=4000"], 5_000),
        ([*FOUR_B, "curriculum.num_wanted=0"], 16_000),
        ([*FOUR_B, "curriculum.max_per_cluster=0"], 2_048),
    ],
)
def test_a_reward_worker_asks_for_the_memory_of_the_largest_batch_that_is_clustered(
    arguments: list[str], questions: int
):
    config = load_config(arguments)
    worker = demands(config, disaggregated(config))[-1]
    assert worker.actor.startswith("reward/")
    assert worker.memory == 2**28 + questions * 2**14


@pytest.mark.parametrize("layout_key", ["colocated", "disaggregated"])
def test_a_layout_that_does_not_fit_is_an_error_with_the_table(layout_key: str):
    config = load_config([*FOUR_B, f"layout={layout_key}"])
    has = {"CPU": 16.0, "memory": 64.0 * 2**30}
    with pytest.raises(UserError, match=r"not enough CPU and GPU(.|\n)*needs(.|\n)*has"):
        check_resources(demands(config, resolve_layout(config, has)), has)


def test_an_evaluation_has_engines_alone():
    config = load_config(["conf=tiny", "layout=colocated"])
    layout = engines_alone(config.sampler)
    names = [d.actor for d in sampling_demands(sampling_settings(config), layout)]
    assert names == ["solver/sampler-0", "reward/worker-0"]


def test_every_role_is_a_row():
    assert tuple(role.name for role in ROLES) == get_args(Role)
    lent = {to for role in ROLES for to in role.lends_to}
    assert lent <= {role.name for role in ROLES if role.learns is not None}


def test_a_third_role_is_a_row(monkeypatch: pytest.MonkeyPatch):
    judge = dataclasses.replace(ROLES[0], name="judge", engines=lambda config: 2)  # type: ignore[arg-type]
    monkeypatch.setattr("rzero_ray.config.layout.ROLES", (*ROLES, judge))
    config = load_config(FOUR_B)
    alone = disaggregated(config)
    assert "1 + 3 + 2 engines" in alone.describe()
    assert {"judge/sampler-0", "judge/sampler-1"} < {d.actor for d in demands(config, alone)}
    assert _resolve(9).kind == "colocated"  # ten GPUs on their own
    assert _resolve(10).kind == "disaggregated"
    shared = [d.actor for d in demands(config, _resolve(1)) if d.place == "device-0"]
    assert shared == [
        "challenger/sampler-0",
        "solver/sampler-0",
        "judge/sampler-0",
        "learner/rank-0",
    ]


@pytest.mark.parametrize(
    ("arguments", "in_sampler", "gib"),
    [
        (["conf=tiny"], True, 1.25),
        (["conf=tiny", "sampler.cpus_per_engine=1.5"], True, 1.25),
        (["conf=tiny", "sampler.cpus_per_engine=2"], False, 1.75),
        (["conf=tiny", "sampler.tensor_parallel=2"], False, 3.0),
        (FOUR_B, False, 0),
        ([*FOUR_B, "sampler.cpus_per_engine=1"], False, 0),  # it shall not hold up its GPU
    ],
)
def test_an_engine_without_a_core_to_spare_is_one_process(
    arguments: list[str], in_sampler: bool, gib: float
):
    config = load_config(arguments)
    engine = demands(config, disaggregated(config))[0]
    assert runs_in_sampler(config.sampler, engine.gpus) is in_sampler
    assert engine.memory == gib * 2**30


def test_an_engine_over_several_gpus_takes_them_whole():
    config = load_config([*FOUR_B, "sampler.tensor_parallel=2"])
    layout = resolve_layout(config, {"GPU": 16.0})
    assert (layout.kind, layout.gpus_per_engine) == ("disaggregated", 2)
    engines = [demand for demand in demands(config, layout) if "sampler" in demand.actor]
    assert [engine.gpus for engine in engines] == [2, 2, 2, 2]  # 8, and 4 learner ranks
    with pytest.raises(UserError, match=r"sampler\.tensor_parallel=2 cuts an engine over GPUs"):
        resolve_layout(config, {"GPU": 8.0})
    with pytest.raises(UserError, match="takes a whole GPU for each part"):
        load_config([*FOUR_B, "sampler.tensor_parallel=2", "sampler.gpus_per_engine=0.5"])


@pytest.mark.parametrize(
    ("arguments", "attention"),
    [
        (FOUR_B, "varlen"),
        ([*FOUR_B, "model.dtype=float32"], "sdpa"),
        ([*FOUR_B, "learner.attention=sdpa"], "sdpa"),
        ([*FOUR_B, "learner.attention=flash_attention_2"], "flash_attention_2"),
        (["conf=tiny"], "sdpa"),
    ],
)
def test_packed_attention_is_taken_where_it_runs(arguments: list[str], attention: str):
    assert attention_of(load_config(arguments)) == attention


@pytest.mark.parametrize("arguments", [["conf=tiny"], [*FOUR_B, "model.dtype=float32"]])
def test_packed_attention_is_refused_where_it_does_not_run(arguments: list[str]):
    with pytest.raises(
        UserError, match=r"learner\.attention=varlen runs on GPUs in 16 bits.*use sdpa"
    ):
        load_config([*arguments, "learner.attention=varlen"])


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([*FOUR_B, "learner.offload=all"], r"offload=all needs learner\.zero_stage=3"),
        (
            [*FOUR_B, "learner.offload=optimizer", "learner.zero_stage=0"],
            r"offload=optimizer needs learner\.zero_stage=1 or more, not 0",
        ),
        (["conf=tiny", "learner.offload=optimizer"], "moves states off a GPU"),
    ],
)
def test_offload_is_refused_where_deepspeed_has_nothing_to_offload(arguments, why):
    with pytest.raises(UserError, match=why):
        load_config(arguments)


def test_offload_is_refused_when_colocated():
    with pytest.raises(UserError, match="goes as a whole between its turns"):
        _resolve(1, "learner.offload=optimizer")
    assert _resolve(8, "learner.offload=optimizer").kind == "disaggregated"
