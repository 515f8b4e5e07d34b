"""Rehearsals: their size, what they say of a model, and what a run would take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from rzero_ray.config.config import Config
from rzero_ray.config.load import load_config
from rzero_ray.preflight.estimate import Cost, _num_candidates, _phase, totals
from rzero_ray.preflight.findings import Findings, obstacles, warnings
from rzero_ray.preflight.rehearsal import rehearsal_settings

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
    growth=1.5,
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
    assert challenger.num_prompts * challenger.samples_per_prompt == 64
    assert rehearsed.curriculum.num_candidates == rehearsed.curriculum.candidates_per_step == 64
    assert (challenger.num_steps, solver.num_steps, rehearsed.num_iterations) == (1, 1, 1)
    assert solver.num_prompts == min(config.solver.num_prompts, 16)
    # What is measured is the method and the model of the run.
    assert challenger.num_votes == config.challenger.num_votes
    assert solver.samples_per_prompt == config.solver.samples_per_prompt
    assert (rehearsed.voting, rehearsed.model) == (config.voting, config.model)
    assert rehearsed.verifier.num_steps == 1


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


def test_a_phase_costs_its_start_once_and_its_samples_each_step():
    row = {
        "tokens_sampled": 1_000,
        "sync_seconds": 0.5,
        "seconds": {"wall": 10.0, "learner_start": 2.0, "weight_sync": 1.5, "checkpoint": 0.5},
    }
    # Once 2 + 1 s, each step .5 + .5 s and twice the 6 s that are left.
    assert _phase("solver", 3, 4, 2.0, row) == Cost("solver", 3, 8_000, 3 + 4 * (1 + 12))
    costs = [Cost("a", 2, 10, 1.0), Cost("b", 3, 1, 2.0)]
    assert totals(costs) == (23, 8.0)


def test_candidates_are_asked_for_until_enough_are_kept(tmp_path: Path):
    config = load_config(["conf=qwen3_8b"])  # 16,000 candidates at most, 1,000 a step, 4,000 wanted
    rehearsed = _rehearsed(config, tmp_path)
    assert _num_candidates(config, {"kept": 32}, rehearsed) == 8_000
    assert _num_candidates(config, {"kept": 30}, rehearsed) == 9_000
    assert _num_candidates(config, {"kept": 1}, rehearsed) == 16_000
    assert _num_candidates(config, {"kept": 0}, rehearsed) == 16_000
