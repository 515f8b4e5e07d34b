"""What a run will do, before it does it: samples, tokens and updates per phase."""

from __future__ import annotations

from dataclasses import dataclass

from rzero_ray.config import Config
from rzero_ray.protocols import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class PhasePlan:
    """One phase of one iteration, at most: malformed questions get no votes."""

    phase: str
    samples: int
    """Completions drawn from both roles."""
    max_tokens: int
    """If every completion were as long as its limit."""
    updates: int
    """Optimizer steps."""


def plan_iteration(config: Config, task: Task) -> list[PhasePlan]:
    """Return the phases of one iteration, and its evaluation."""
    challenger, curriculum, solver = config.challenger, config.curriculum, config.solver
    vote_tokens = config.voting.sampling.max_tokens
    questions = challenger.num_steps * challenger.num_prompts * challenger.samples_per_prompt
    votes = questions * challenger.num_votes
    pool_votes = curriculum.num_candidates * curriculum.num_votes
    answers = solver.num_steps * solver.num_prompts * solver.samples_per_prompt
    heldout = len(task.heldout()) * (1 + config.eval.num_samples)
    return [
        PhasePlan(
            phase="challenger",
            samples=questions + votes,
            max_tokens=questions * challenger.sampling.max_tokens + votes * vote_tokens,
            updates=challenger.num_steps
            * num_updates(challenger.num_prompts, challenger.prompts_per_update),
        ),
        PhasePlan(
            phase="curriculum",
            samples=curriculum.num_candidates + pool_votes,
            max_tokens=curriculum.num_candidates * curriculum.sampling.max_tokens
            + pool_votes * vote_tokens,
            updates=0,
        ),
        PhasePlan(
            phase="solver",
            samples=answers,
            max_tokens=answers * solver.sampling.max_tokens,
            updates=solver.num_steps * num_updates(solver.num_prompts, solver.prompts_per_update),
        ),
        PhasePlan(
            phase="evaluation",
            samples=heldout,
            max_tokens=heldout * config.eval.max_tokens,
            updates=0,
        ),
    ]


def num_updates(num_prompts: int, prompts_per_update: int) -> int:
    """Return the optimizer steps of one step of a phase."""
    return -(-num_prompts // prompts_per_update)
