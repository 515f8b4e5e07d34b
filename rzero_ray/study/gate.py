"""Measures whether base models of the ladder are fit for a study, on engines.

`gate_figures` says what is measured and which figures pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from rzero_ray.answers.parsing import parse_question
from rzero_ray.config.audits import EvalConfig
from rzero_ray.config.cluster import BUILT_IN_MODELS
from rzero_ray.config.config import Config, sampling_settings
from rzero_ray.disk.files import read_if_there, write_text_durably
from rzero_ray.disk.folder import check_folder, held
from rzero_ray.evaluation.answering import AnsweredProblem, answer_problem, problem_seed
from rzero_ray.phases.asking import to_request
from rzero_ray.run.clock import StageClock
from rzero_ray.run.concurrency import gather_all, gather_limited
from rzero_ray.run.seeds import derive_seed
from rzero_ray.study.gate_figures import GateRow, gate_row
from rzero_ray.tasks.base_model import obtain_model
from rzero_ray.tasks.registry import make_task
from rzero_ray.types import Ballot, BenchmarkProblem, UserError

NUM_VOTES: Final = 8
"""Answers that are sampled to each question."""
NUM_QUESTIONS: Final = 384
"""Questions that the base Challenger is asked for."""

_FILE: Final = "gate.json"
_ROOM: Final = 1 << 20
"""Bytes that must be free before anything is measured."""
_ROUNDS_UNDER_WAY: Final = 4
"""Sequences under way, in engine batches."""


async def measure_gate(config: Config, bases: Sequence[int], folder: Path) -> list[GateRow]:
    """Measure base models of the ladder on engines, and keep their figures in `folder`.

    Args:
        config: a configuration of `task=ladder`. Its engines, its settings of sampling for votes
            and for candidates, and its seed are used.
        bases: seeds of the base models, each of which is built where it is missing.
        folder: where `gate.json` is; bases that it has are not measured again.

    Returns:
        The rows of these bases, in their order.

    Raises UserError where the task is another, or the folder holds something else.
    """
    if BUILT_IN_MODELS.get(config.model.path) != "ladder":
        known = [name for name, task in BUILT_IN_MODELS.items() if task == "ladder"]
        raise UserError(
            f"the gate is about task=ladder and model.path={' or '.join(known)}, not "
            f"task={config.task} and model.path={config.model.path}"
        )
    check_folder(folder, "folder", lambda names: _FILE in names)
    with held(folder, "folder", _ROOM):
        rows = _read_rows(folder, config)
        for base in bases:
            model = obtain_model(replace(config.model, base_seed=base))
            if (base, model.name) not in {(row.base, row.model) for row in rows}:
                others = [row for row in rows if row.base != base]
                rows = [*others, await _measure_base(config, base, model)]
                _write_rows(folder, config, rows)
    return [next(row for row in rows if row.base == base) for base in bases]


async def _measure_base(config: Config, base: int, model: Path) -> GateRow:
    from actors import cluster  # imports Ray, which a mistyped key need not wait for

    settings = replace(
        sampling_settings(config),
        name=f"gate-{base}",
        model=replace(config.model, base_seed=base),
    )
    cluster.connect_ray()
    cluster.check_machine_for_sampling(settings)
    running = await cluster.start_sampling(settings, model, StageClock())
    try:
        answered = await _answer_heldout(config, running)
        ballots = await _vote_on_questions(config, running)
    finally:
        await running.close()
    return gate_row(base, model.name, answered, NUM_QUESTIONS, ballots)


async def _answer_heldout(config: Config, running: Any) -> list[AnsweredProblem]:
    """Have all problems that are held out answered; `running` is a `SamplingCluster`."""
    task = make_task(config.task)
    sampling = config.voting.sampling
    settings = EvalConfig(
        num_samples=NUM_VOTES, temperature=sampling.temperature, max_tokens=sampling.max_tokens
    )
    sequences = _ROUNDS_UNDER_WAY * running.num_engines * config.sampler.max_num_seqs
    return await gather_limited(
        (
            answer_problem(
                BenchmarkProblem(question=problem.question, answer=problem.answer),
                task.solver_messages(problem.question),
                running,
                running.judge,
                seed=problem_seed(config.seed, "gate", index),
                settings=settings,
            )
            for index, problem in enumerate(task.reserved())
        ),
        max(1, sequences // (NUM_VOTES + 1)),
    )


async def _vote_on_questions(config: Config, running: Any) -> list[Ballot]:
    """Have the base pose questions, and vote on those that are well formed."""
    task = make_task(config.task)

    def seed_of(*place: str | int) -> int:
        return derive_seed(config.seed, "gate", *place)

    async def vote(index: int, question: str) -> Ballot:
        messages = task.solver_messages(question)
        seed, sampling = seed_of("votes", index), config.voting.sampling
        votes = await running.sample(
            to_request(messages, NUM_VOTES, seed, sampling, reads_tokens=False)
        )
        return await running.judge.vote([vote.text for vote in votes])

    posed = await running.sample(
        to_request(
            task.challenger_messages(),
            NUM_QUESTIONS,
            seed_of("questions"),
            config.curriculum.sampling,
            reads_tokens=False,
        )
    )
    parsed = (parse_question(completion.text) for completion in posed)
    questions = [text for text in parsed if text is not None and task.is_question(text)]
    return await gather_all(vote(index, text) for index, text in enumerate(questions))


class _GateFile(BaseModel):
    """What `gate.json` holds."""

    settings: dict[str, Any]
    """What the figures depend on beside the base."""
    rows: list[GateRow]


def _settings(config: Config) -> dict[str, Any]:
    keys = {"votes": config.voting.sampling, "questions": config.curriculum.sampling}
    return {
        "seed": config.seed,
        "dtype": config.model.dtype,
        **{f"{name}.{key}": value for name, of in keys.items() for key, value in vars(of).items()},
    }


def _read_rows(folder: Path, config: Config) -> list[GateRow]:
    content = read_if_there(folder / _FILE, _GateFile)
    if content is None:
        return []
    for key, value in _settings(config).items():
        before = content["settings"].get(key)
        if before != value:
            raise UserError(
                f"{folder / _FILE} was measured with {key}={before}, not {value}; give another "
                "folder"
            )
    return _GateFile.model_validate(content).rows


def _write_rows(folder: Path, config: Config, rows: Sequence[GateRow]) -> None:
    content = _GateFile(settings=_settings(config), rows=list(rows))
    write_text_durably(folder / _FILE, content.model_dump_json(indent=1) + "\n")
