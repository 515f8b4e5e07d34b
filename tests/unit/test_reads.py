"""Who reads the tokens of what is sampled, and who its texts alone."""

import asyncio
from dataclasses import replace
from functools import partial
from pathlib import Path

from rzero_ray.config.load import load_config
from rzero_ray.evaluation.answering import answer_problem, heldout_problems
from rzero_ray.phases.challenger import sample_challenger
from rzero_ray.phases.curriculum import sample_candidates
from rzero_ray.phases.solver import sample_solver
from rzero_ray.protocols import Cast
from rzero_ray.run.parts import gather_in_parts
from rzero_ray.tasks.registry import ArithmeticTask
from rzero_ray.types import Attempt, CurriculumItem, PhaseName, Step
from tests.unit.fakes import FakeJudge, FakePolicy

CONFIG = load_config(["conf=tiny", "challenger.num_prompts=4", "solver.num_prompts=2"])
ITEM = CurriculumItem(question="1+2", label="3", agreement=0.5)


def _cast() -> tuple[Cast, FakePolicy, FakePolicy]:
    challenger, solver = FakePolicy("challenger"), FakePolicy("solver")
    return Cast(challenger, solver, FakeJudge(), ArithmeticTask()), challenger, solver


def _step(phase: PhaseName) -> Step:
    return Step(iteration=1, phase=phase, index=1)


def _reads(policy: FakePolicy) -> set[bool]:
    return {request.reads_tokens for request in policy.requests}


def test_a_challenger_step_reads_the_tokens_of_questions_and_the_texts_of_votes(tmp_path: Path):
    cast, challenger, solver = _cast()
    gather = partial(gather_in_parts, tmp_path, Attempt)
    samples = asyncio.run(sample_challenger(CONFIG, _step("challenger"), cast, [], gather))
    assert (_reads(challenger), _reads(solver)) == ({True}, {False})
    assert all(len(s.token_ids) == len(s.logprobs) > 0 and len(s.prompt_ids) for s in samples)
    assert {s.weight_version for s in samples} == {"challenger-01-000"}


def test_a_curriculum_reads_texts_and_lengths_alone(tmp_path: Path):
    for early_stopping in (False, True):
        cast, challenger, solver = _cast()
        curriculum = replace(CONFIG.curriculum, early_stopping=early_stopping, num_candidates=40)
        config = replace(CONFIG, curriculum=curriculum)
        gather = partial(gather_in_parts, tmp_path / str(early_stopping), Attempt)
        found = asyncio.run(sample_candidates(config, _step("curriculum"), cast, [], gather))
        assert (_reads(challenger), _reads(solver)) == ({False}, {False})
        assert [c.num_tokens for c in found] == [len(c.text) for c in found]
        assert all(c.vote_tokens > c.num_votes for c in found if c.num_votes)


def test_a_solver_step_reads_the_tokens_of_answers():
    cast, _, solver = _cast()
    samples = asyncio.run(sample_solver(CONFIG, _step("solver"), cast, [ITEM]))
    assert _reads(solver) == {True}
    assert all(len(s.token_ids) == len(s.logprobs) > 0 for s in samples)


def test_an_evaluation_reads_texts_and_lengths_alone():
    cast, _, solver = _cast()
    problem = heldout_problems(cast.task)[0]
    messages = cast.task.solver_messages(problem.question)
    answered = asyncio.run(
        answer_problem(problem, messages, solver, cast.judge, seed=0, settings=CONFIG.eval)
    )
    assert _reads(solver) == {False}
    assert answered.num_tokens.tolist() == [len(text) for text in answered.texts]
    assert answered.greedy_num_tokens == len(answered.greedy_text)
