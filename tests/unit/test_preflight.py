"""Rehearsals: their size, what they say of a model, and what a run would take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from rzero_ray.config.config import Config
from rzero_ray.config.load import load_config
from rzero_ray.preflight.estimate import Cost, _grown, _num_candidates, _phase, totals
from rzero_ray.preflight.findings import Findings, obstacles, warnings
from rzero_ray.preflight.growth import growth
from rzero_ray.preflight.rehearsal import rehearsal_settings
from rzero_ray.types import SolverSample

GOOD = Findings(
    num_questions=64,
    num_well_formed=60,
    num_questions_cut=0,
    answered=0.98,
    histogram=(0, 2, 5, 8, 9, 10, 9, 7, 5, 5),
    num_in_band=40,
    num_candidates=64,
    num_kept=38,
    num_answers=128,
    num_answers_cut=0,
)


def _rehearsed(config: Config, folder: Path) -> Config:
    path = folder / "rehearsal.yaml"
    path.write_text(yaml.safe_dump(rehearsal_settings(config)))
    return load_config([f"conf={path}"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["conf=tiny"],
        ["conf=qwen3_8b"],
        ["conf=ladder"],
        ["conf=ladder", "ablation=frozen_rejection"],  # it has a number of candidates of its own
        ["conf=ladder", "recipe=combo,verifier"],
    ],
)
def test_a_rehearsal_is_small_and_fits_together(arguments: list[str], tmp_path: Path):
    config = load_config(arguments)
    rehearsed = _rehearsed(config, tmp_path)
    challenger, solver = rehearsed.challenger, rehearsed.solver
    curriculum = rehearsed.curriculum
    is_small = config.model.max_model_len < 1_000
    asked = config.challenger.num_prompts * config.challenger.samples_per_prompt
    assert challenger.num_prompts * challenger.samples_per_prompt == (asked if is_small else 64)
    candidates = config.curriculum.candidates_per_step if is_small else 64
    assert curriculum.num_candidates == curriculum.candidates_per_step == candidates
    num_steps = 3 if is_small else 2
    assert (challenger.num_steps, solver.num_steps, rehearsed.num_iterations) == (
        num_steps,
        num_steps,
        1,
    )
    assert solver.num_prompts == (config.solver.num_prompts if is_small else 16)
    # What is measured is the method and the model of the run.
    assert challenger.num_votes == config.challenger.num_votes
    assert solver.samples_per_prompt == config.solver.samples_per_prompt
    assert (rehearsed.voting, rehearsed.model) == (config.voting, config.model)
    assert rehearsed.verifier.num_steps == 3


def test_a_model_that_can_start_is_not_held_up():
    config = load_config(["conf=tiny"])
    assert obstacles(config, GOOD) == []
    assert warnings(config, GOOD) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_well_formed": 0, "histogram": (0,) * 10}, "0 of 64 questions are well formed"),
        (
            {"num_well_formed": 2, "num_questions_cut": 60},
            "60 of them end at challenger.sampling.max_tokens=64: raise it",
        ),
        ({"answered": 0.0}, "no vote holds an answer"),
        (
            {"num_in_band": 0, "num_kept": 0, "histogram": (0,) * 9 + (60,)},
            "no question lies in the band of 0.25 to 0.75: the model agrees with itself",
        ),
        (
            {"num_in_band": 0, "num_kept": 0, "histogram": (0, 60) + (0,) * 8},
            "the model hardly agrees with itself",
        ),
    ],
)
def test_a_model_that_cannot_start_is_told_why(change, said: str):
    (line,) = obstacles(load_config(["conf=tiny"]), replace(GOOD, **change))
    assert said in line
    assert "\n" not in line


def test_what_only_slows_the_loop_is_a_warning():
    found = replace(GOOD, num_questions_cut=20, num_answers_cut=100, num_kept=0)
    cut, answers, kept = warnings(load_config(["conf=tiny"]), found)
    assert "20 of 64 questions are cut" in cut
    assert "100 of 128 answers are cut" in answers
    assert "none of 64 candidates was kept" in kept


def _row(overhead: float, wall: float, **seconds: float) -> dict[str, Any]:
    return {
        "tokens_sampled": 1_000,
        "seconds_overhead": overhead,
        "seconds": {"wall": wall, **seconds},
    }


def test_a_phase_costs_its_start_once_a_step_its_overhead_and_its_work_by_the_samples():
    first = _row(5.0, 11.0, learner_start=2.0, weight_sync=2.5)
    held_up = _row(4.0, 11.0, weight_sync=3.5)
    last = _row(1.0, 7.0, weight_sync=0.5)
    # Each step 1 s, and twice the (6 + 7 + 6) / 3 s of work. A later phase takes up its weights in
    # the 1.5 s of whichever phase took least, and publishes them in .5 s.
    cost = _phase("solver", 3, 4, 2.0, [first, held_up, last], 1.5)
    assert cost == Cost("solver", 3, 8_000, 2.0 + 4 * 1.0, 4 * 2 * 19 / 3)
    # It cannot take longer than the first one did.
    assert _phase("solver", 3, 4, 2.0, [first, last], 9.0).fixed == 4.0 + 4 * 1.0


def test_only_the_solvers_tokens_and_their_work_grow():
    costs = [Cost("start", 1, 0, 20.0), _grown(Cost("challenger", 2, 100, 3.0, 10.0), 0.5, 1.4)]
    assert totals(costs, grown=False) == (200, 20.0 + 2 * 13.0)
    assert totals(costs, grown=True) == pytest.approx((240, 20.0 + 2 * 15.0))


def _answer(length: int, reward: float) -> SolverSample:
    return SolverSample(
        prompt_index=0,
        question="",
        label="",
        prompt_ids=np.zeros(1, np.int32),
        token_ids=np.zeros(length, np.int32),
        logprobs=np.zeros(length, np.float32),
        text="",
        weight_version="",
        weight_num_steps=None,
        answer=None,
        reward=reward,
        advantage=0.0,
    )


def test_answers_become_as_long_as_those_that_are_rewarded_more_often():
    # Of the short ones one in four is rewarded, of the long ones three: 3 to 1, then 9 to 1.
    rewards = [1, 0, 0, 0, 1, 1, 1, 0]
    lengths = [10] * 4 + [30] * 4
    answers = [_answer(n, r) for n, r in zip(lengths, rewards, strict=True)]
    assert growth(answers, 2) == pytest.approx([1, 25 / 20, 28 / 20])
    shorter = [_answer(n, 1 - r) for n, r in zip(lengths, rewards, strict=True)]
    assert growth(shorter, 1) == pytest.approx([1, 15 / 20])
    assert growth([_answer(n, 0) for n in lengths], 2) == [1, 1, 1]
    assert growth([], 1) == [1, 1]


def test_candidates_are_asked_for_until_enough_are_kept(tmp_path: Path):
    config = load_config(["conf=qwen3_8b"])  # 16,000 candidates at most, 1,000 a step, 4,000 wanted
    rehearsed = _rehearsed(config, tmp_path)
    assert _num_candidates(config, {"kept": 32}, rehearsed) == 8_000
    assert _num_candidates(config, {"kept": 30}, rehearsed) == 9_000
    assert _num_candidates(config, {"kept": 1}, rehearsed) == 16_000
    assert _num_candidates(config, {"kept": 0}, rehearsed) == 16_000
