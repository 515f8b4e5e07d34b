"""The layouts of a run side by side, and which of them `layout=auto` takes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rzero_ray.config.load import load_config
from rzero_ray.run.layouts import LayoutEstimate, compare_layouts, fastest_layout
from rzero_ray.run.plan import (
    GIB,
    HOST_COPY_BYTES_PER_S,
    host_bytes,
    phase_seconds,
    plan_iteration,
)
from rzero_ray.run.shape import find_shape
from rzero_ray.tasks.registry import make_task

FOUR_B = load_config(["conf=qwen3_4b"])
SHAPE = find_shape(FOUR_B.model.path, None)
PLAN = plan_iteration(FOUR_B, make_task("math"))


def _compare(has: dict[str, float], config=FOUR_B) -> dict[tuple[str, bool], LayoutEstimate]:
    assert SHAPE is not None
    rows = compare_layouts(config, SHAPE, PLAN, has)
    return {(row.layout.kind, row.lends): row for row in rows}


def test_each_layout_is_estimated_with_lending_and_without():
    rows = _compare({"GPU": 8})
    assert list(rows) == [
        ("disaggregated", True),
        ("disaggregated", False),
        ("colocated", True),
        ("colocated", False),
    ]
    assert [row.num_gpus for row in rows.values()] == [8, 8, 4, 4]
    # The Challenger's engine works in the Solver's phase, too.
    assert rows["disaggregated", True].seconds < rows["disaggregated", False].seconds
    # Roles that take turns already share everything.
    assert rows["colocated", True].seconds == rows["colocated", False].seconds


def test_what_the_cluster_lacks_does_not_fit():
    assert not _compare({"GPU": 7})["disaggregated", True].fits
    assert _compare({"GPU": 7})["colocated", True].fits
    assert not _compare({"GPU": 8}, replace(FOUR_B, gpu_gib=20.0))["disaggregated", True].fits
    needed = _compare({"GPU": 8})["colocated", True].host_bytes
    assert needed > 100 * GIB
    assert _compare({"GPU": 8, "memory": needed})["colocated", True].fits
    assert not _compare({"GPU": 8, "memory": needed - 1})["colocated", True].fits


def test_an_engine_without_room_for_one_sequence_does_not_fit():
    """As it is where the weights fill what the engine may take, though the GPU has room."""
    small = replace(FOUR_B.sampler, kv_cache_gib=0.5)
    assert not _compare({"GPU": 8}, replace(FOUR_B, sampler=small))["disaggregated", True].fits
    small = replace(FOUR_B.sampler, gpu_memory_utilization=0.1)
    rows = _compare({"GPU": 8}, replace(FOUR_B, sampler=small))
    assert rows["disaggregated", True].gpu_bytes < 80 * GIB
    assert not any(row.fits for row in rows.values())


def test_a_layout_that_the_config_rules_out_is_left_out():
    overlapping = load_config(["conf=qwen3_4b", "pipeline.staleness=1"])
    assert {kind for kind, _ in _compare({"GPU": 8}, overlapping)} == {"disaggregated"}


@pytest.mark.parametrize("has", [{"GPU": 8.0}, {"GPU": 4.0}, {"GPU": 8.0, "memory": 100.0 * GIB}])
def test_auto_takes_the_fastest_that_fits(has):
    assert SHAPE is not None
    fitting = [row for row in _compare(has).values() if row.fits and row.lends]
    expected = min(fitting, key=lambda row: row.seconds).layout
    chosen = fastest_layout(FOUR_B, SHAPE, PLAN, has)
    assert chosen is not None
    assert chosen == replace(expected, reason=chosen.reason)
    assert ("the plan counts" in chosen.reason) == (len(fitting) > 1)


@pytest.mark.parametrize(
    ("arguments", "has"),
    [
        (["conf=qwen3_4b", "layout=colocated"], {"GPU": 8.0}),  # it is named
        (["conf=qwen3_4b"], {}),  # no GPU is there
        (["conf=tiny"], {"GPU": 8.0}),  # none is wanted
        (["conf=qwen3_4b", "gpu_gib=10"], {"GPU": 8.0}),  # nothing fits
    ],
)
def test_an_estimate_decides_nothing_where_there_is_no_choice(arguments, has):
    assert SHAPE is not None
    assert fastest_layout(load_config(arguments), SHAPE, PLAN, has) is None


def test_turns_cost_two_copies_a_step_of_what_the_host_takes():
    assert SHAPE is not None
    layout = _compare({"GPU": 1})["colocated", True].layout
    config = replace(FOUR_B, layout="colocated")
    with_turns, without = (
        phase_seconds(config, SHAPE, layout, replace(PLAN[0], turns=turns)) for turns in (5, 0)
    )
    copies = 10 * host_bytes(config, SHAPE, layout) / HOST_COPY_BYTES_PER_S
    assert with_turns - without == pytest.approx(copies)
