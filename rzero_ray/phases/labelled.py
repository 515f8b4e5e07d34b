r"""Labelled data: read from a file, and taught to the Solver by GRPO or by imitation.

Source: R-Zero's "performance amplifier" (paper, Fig. 4 and Table 4): a model that R-Zero has
trained gains more from labelled data than its base does. Both ways of learning go on from any
checkpoint and use the phases, engines and learner of the co-evolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rzero_ray.answers.parsing import fault_in, parse_answer
from rzero_ray.config.cluster import TINY_MODEL
from rzero_ray.config.config import Config
from rzero_ray.phases.learning import demonstrations, learn_step_by_step
from rzero_ray.phases.metrics import imitation_metrics
from rzero_ray.phases.solver import pick_items, train_solver
from rzero_ray.protocols import Cast, Task
from rzero_ray.run.parquet import read_records
from rzero_ray.run.run import Run
from rzero_ray.tasks.arithmetic import labelled_problems
from rzero_ray.tasks.registry import held_out_forms
from rzero_ray.text.characters import plain_text
from rzero_ray.text.files import read_json_lines
from rzero_ray.types import (
    CurriculumItem,
    LabelledProblem,
    PlacedText,
    Rollout,
    Step,
    UserError,
)

LABELLED_KEY = "labelled"
"""The name of the run's copy of the problems that it read (`Run.once`)."""
_NUM_BUILT_IN = 1_000
_BUILT_IN_SEED = 20_260_101


def load_labelled(config: Config, task: Task) -> list[LabelledProblem]:
    r"""Read `labelled.path`: one JSON object a line, `question`, `answer`, optional `solution`
    (`text.files`: UTF-8, compressed where the name ends in `.gz`).

    A solution without a box gets the answer's, a missing one is the boxed answer alone. Held-out
    problems of the task are left out. Raises UserError with the line of the first bad row.
    """
    return [problem for _, problem in _load(config, task)]


def labelled_copy(root: Path) -> Path | None:
    """Return the copy that the run in `root` keeps of its labelled problems; None before there is
    one. It is what the run goes on with: the file is not read again."""
    path = root / f"{LABELLED_KEY}.parquet"
    return path if path.exists() else None


def labelled_texts(config: Config, task: Task, root: Path) -> list[PlacedText]:
    """Return what the run in `root` will give its model of the labelled problems, each with the
    line of the file that it comes from, or its place in the run's copy."""
    copy = labelled_copy(root)
    if copy is None:
        placed = _load(config, task)
    else:
        told = f"{copy}, the run's copy of labelled.path (without it the file is read again), row"
        problems = read_records(copy, LabelledProblem)
        placed = [(f"{told} {number}", problem) for number, problem in enumerate(problems, start=1)]
    imitates = config.method == "labelled_sft"
    return [
        PlacedText(
            where=where,
            messages=task.solver_messages(problem.question),
            answer=problem.solution if imitates else "",
        )
        for where, problem in placed
    ]


def _load(config: Config, task: Task) -> list[tuple[str, LabelledProblem]]:
    """Return the problems of `load_labelled`, each with its place."""
    if config.labelled.path == TINY_MODEL:
        if config.task != "arithmetic":
            raise UserError(f"labelled.path={TINY_MODEL} is for task=arithmetic, not {config.task}")
        built_in = labelled_problems(_NUM_BUILT_IN, _BUILT_IN_SEED)
        return [(f"labelled.path={TINY_MODEL}, {n}", p) for n, p in enumerate(built_in, start=1)]
    path = Path(config.labelled.path).expanduser()
    if not path.is_file():
        raise UserError(f"labelled.path={path}: no such file; give JSON lines of labelled problems")
    places = ((f"labelled.path={path}, line {n}", row) for n, row in read_json_lines(path))
    problems = [(where, _read_problem(row, where)) for where, row in places]
    held_out = held_out_forms(task)
    kept = [(w, p) for w, p in problems if task.normalize(p.question) not in held_out]
    if not kept:
        raise UserError(
            f"labelled.path={path} holds no problem to learn from: {len(problems)} read, "
            f"{len(problems) - len(kept)} of them held out for the evaluation"
        )
    return kept


async def reinforce_labelled(
    config: Config, iteration: int, cast: Cast, problems: Sequence[LabelledProblem], run: Run
) -> None:
    """Teach the Solver by GRPO, with true answers where R-Zero has the majority's."""
    items = [CurriculumItem(question=p.question, label=p.answer, agreement=1.0) for p in problems]
    await train_solver(config, iteration, cast, items, run)


async def imitate_labelled(
    config: Config, iteration: int, cast: Cast, problems: Sequence[LabelledProblem], run: Run
) -> None:
    """Teach the Solver to write the solutions (supervised fine-tuning)."""

    async def make(step: Step) -> list[Rollout]:
        batch = pick_items(problems, config.solver.num_prompts, step, config.seed)
        return await _demonstrate(config, cast, batch)

    await learn_step_by_step(
        cast.solver,
        "solver",
        iteration,
        run,
        num_steps=config.solver.num_steps,
        staleness=0,
        make=make,
        learn=cast.solver.imitate,
        describe=lambda batch, step: imitation_metrics(batch),
    )


LABELLED_METHODS = {"labelled_grpo": reinforce_labelled, "labelled_sft": imitate_labelled}
"""How one iteration learns, by the value of `method`."""


async def _demonstrate(
    config: Config, cast: Cast, batch: Sequence[LabelledProblem]
) -> list[Rollout]:
    """Return the token ids of a batch's solutions, each cut at the longest completion."""
    pairs = await cast.solver.tokenize(
        [(cast.task.solver_messages(p.question), p.solution) for p in batch]
    )
    longest = config.solver.sampling.max_tokens
    return demonstrations((prompt_ids, token_ids[:longest]) for prompt_ids, token_ids in pairs)


def _read_problem(row: object, where: str) -> LabelledProblem:
    if not isinstance(row, dict):
        raise UserError(f"{where} is not an object with the keys question and answer")
    if row.get("options") is not None:
        raise UserError(
            f"{where}: options are not read, and the question would be asked without them; write "
            "them into it, and leave the key out"
        )
    question, answer = (_text(row, key, where) for key in ("question", "answer"))
    fault = fault_in(answer)
    if fault is not None:
        raise UserError(f"{where}: answer={answer[:40]!r} {fault}")
    solution = _text(row, "solution", where) if row.get("solution") else ""
    if parse_answer(solution) is None:
        solution = f"{solution}\n\\boxed{{{answer}}}".lstrip()
    return LabelledProblem(question=question, answer=answer, solution=solution)


def _text(row: dict[str, Any], key: str, where: str) -> str:
    text = plain_text(row.get(key))
    if not text:
        raise UserError(f"{where}: {key} is missing or empty; it must be a text or a finite number")
    return text
