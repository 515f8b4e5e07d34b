"""The rehearsal: one iteration of the run, with two or three steps a phase and few questions.

It is a run like any other, in a directory of its own, so that what is measured is what a run does:
engines, learner, weight syncs and grading included. A phase whose steps are small is rehearsed at
the run's own size, so that nothing has to be scaled.
"""

from __future__ import annotations

import dataclasses
from functools import reduce
from typing import Any, Final

from rzero_ray.config.config import Config
from rzero_ray.config.method import ChallengerConfig, SolverConfig, VerifierConfig

NUM_QUESTIONS: Final = 64
"""Questions that the Challenger is asked for in a step, and for the curriculum, where steps of the
run's own size would take too long."""
NUM_TAUGHT: Final = 16
"""Questions that the Solver answers in a step, at the most, where that is so."""
MAX_TOKENS: Final = 1_000_000
"""Tokens that the texts of a step may have if each is as long as its limit, for the step to be
rehearsed as it is: a minute's work for four engines of `plan.TOKENS_PER_S_GPU_ENGINE`."""
NUM_STEPS: Final = 2
"""Of each phase that learns. The first pays for what comes once, the second does not."""
NUM_WHOLE_STEPS: Final = 3
"""The same where they are of the run's own size, and so take little: the run has many of them, and
one that something else on the machine holds up would count as often."""


def rehearsal_settings(config: Config) -> dict[str, Any]:
    """Return the configuration of a run's rehearsal, as its file has it."""
    prompts, candidates, taught = sizes(config)
    challenger, solver, verifier = config.challenger, config.solver, config.verifier
    values = {
        "num_iterations": 1,
        "challenger.num_steps": _num_steps(challenger, prompts),
        "challenger.num_prompts": prompts,
        "challenger.prompts_per_update": min(challenger.prompts_per_update, prompts),
        "curriculum.num_candidates": candidates,
        "curriculum.candidates_per_step": candidates,
        "curriculum.num_wanted": 0,
        "solver.num_steps": _num_steps(solver, taught),
        "solver.num_prompts": taught,
        "solver.prompts_per_update": min(solver.prompts_per_update, taught),
        "verifier.num_steps": _num_steps(verifier, verifier.num_prompts),
        # What these lay over the run is in the values already, and would contradict the new ones.
        "recipe": "",
        "ablation": "",
    }
    settings = dataclasses.asdict(config)
    for key, value in values.items():
        *sections, name = key.split(".")
        reduce(dict.__getitem__, sections, settings)[name] = value
    return settings


def _num_steps(settings: ChallengerConfig | SolverConfig | VerifierConfig, prompts: int) -> int:
    is_whole = prompts == settings.num_prompts
    return min(settings.num_steps, NUM_WHOLE_STEPS if is_whole else NUM_STEPS)


def sizes(config: Config) -> tuple[int, int, int]:
    """Return the Challenger's prompts and the candidates, and the Solver's prompts, of a step.

    They are the run's own where its texts have few tokens (`MAX_TOKENS`).
    """
    challenger, curriculum, solver = config.challenger, config.curriculum, config.solver
    vote = config.voting.sampling.max_tokens
    group = challenger.samples_per_prompt
    of_prompt = group * (challenger.sampling.max_tokens + challenger.num_votes * vote)
    prompts = challenger.num_prompts
    if prompts * of_prompt > MAX_TOKENS:
        prompts = min(prompts, -(-NUM_QUESTIONS // group))
    of_candidate = curriculum.sampling.max_tokens + curriculum.num_votes * vote
    candidates = min(curriculum.num_candidates, curriculum.candidates_per_step)
    if candidates * of_candidate > MAX_TOKENS:
        candidates = min(candidates, NUM_QUESTIONS)
    taught = solver.num_prompts
    if taught * solver.samples_per_prompt * solver.sampling.max_tokens > MAX_TOKENS:
        taught = min(taught, NUM_TAUGHT)
    return prompts, candidates, taught
