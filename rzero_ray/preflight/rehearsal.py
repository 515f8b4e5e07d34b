"""The rehearsal: one iteration of the user's own run, with a step a phase and few questions.

It is a run like any other, in a directory of its own, so that what is measured is what a run does:
engines, learner, weight syncs and grading included.
"""

from __future__ import annotations

import dataclasses
from functools import reduce
from typing import Any, Final

from rzero_ray.config.config import Config

NUM_QUESTIONS: Final = 64
"""Questions that the Challenger is asked for in its phase, and again for the curriculum."""
NUM_TAUGHT: Final = 16
"""Questions that the Solver answers in its one step, at the most."""


def rehearsal_settings(config: Config) -> dict[str, Any]:
    """Return the configuration of a run's rehearsal, as its file has it."""
    challenger, solver = config.challenger, config.solver
    prompts = min(challenger.num_prompts, -(-NUM_QUESTIONS // challenger.samples_per_prompt))
    taught = min(solver.num_prompts, NUM_TAUGHT)
    candidates = min(config.curriculum.num_candidates, NUM_QUESTIONS)
    values = {
        "num_iterations": 1,
        "challenger.num_steps": 1,
        "challenger.num_prompts": prompts,
        "challenger.prompts_per_update": min(challenger.prompts_per_update, prompts),
        "curriculum.num_candidates": candidates,
        "curriculum.candidates_per_step": candidates,
        "curriculum.num_wanted": 0,
        "solver.num_steps": 1,
        "solver.num_prompts": taught,
        "solver.prompts_per_update": min(solver.prompts_per_update, taught),
        "verifier.num_steps": 1,
        # What these lay over the run is in the values already, and would contradict the new ones.
        "recipe": "",
        "ablation": "",
    }
    settings = dataclasses.asdict(config)
    for key, value in values.items():
        *sections, name = key.split(".")
        reduce(dict.__getitem__, sections, settings)[name] = value
    return settings
