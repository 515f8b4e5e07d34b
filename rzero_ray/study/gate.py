"""Whether a base model of the ladder is one on which co-evolution can be told to work or to fail.

Such a base carries out single operations without mistakes, masters short questions, masters longer
ones in part, and is at a loss with the longest; its Challenger asks hardly anything in the band.
Bases of other seeds differ in this more than methods do, so a study measures its bases first.

`gate_row` and `faults_of` are pure; `measure_gate` samples on engines.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from rzero_ray.answers.parsing import parse_question
from rzero_ray.config.audits import EvalConfig
from rzero_ray.config.cluster import LADDER_MODEL
from rzero_ray.config.config import Config, sampling_settings
from rzero_ray.config.method import SamplingConfig
from rzero_ray.disk.files import read_if_there, write_text_durably
from rzero_ray.disk.folder import check_folder, held
from rzero_ray.evaluation.answering import AnsweredProblem, answer_problem, problem_seed
from rzero_ray.run.clock import StageClock
from rzero_ray.run.concurrency import gather_all, gather_limited
from rzero_ray.run.seeds import derive_seed
from rzero_ray.tasks.base_model import obtain_model
from rzero_ray.tasks.ladder import questions as ladder
from rzero_ray.tasks.registry import make_task
from rzero_ray.types import Ballot, BenchmarkProblem, SampleRequest, Sampling, UserError

NUM_VOTES: Final = 8
"""Answers that are sampled to each question."""
NUM_QUESTIONS: Final = 384
"""Questions that the base Challenger is asked for."""
BAND: Final = (0.25, 0.75)
"""The paper's band: the least and the largest share of votes for the majority's answer."""

_FILE: Final = "gate.json"
_ROOM: Final = 1 << 20
"""Bytes that must be free before anything is measured."""
_SHORT: Final = 6
"""Operations of the longest questions whose single steps have to be right."""
_HOPELESS: Final = 8
"""Operations of the shortest questions that the base has to be at a loss with."""
_ROUNDS_UNDER_WAY: Final = 4
"""Sequences under way, in engine batches."""
# An operation between two running values; the second is the first of the next operation.
_STEP: Final = re.compile(r"(?=([0-9])(\[[^\[\]]*\])([0-9]))")


class GateRow(BaseModel):
    """The figures of one base model. Shares are from 0 to 1."""

    model_config = ConfigDict(frozen=True)

    base: int
    """The base's seed."""
    model: str
    """The name of its folder, which changes with the recipe."""
    steps_short: float
    """Share of right results of single operations in answers to questions of up to 6."""
    steps_long: float
    """The same in answers to longer questions."""
    accuracy: dict[str, float]
    """{stratum: share of right answers}."""
    accuracy_hopeless: float
    """The same over all questions of 8 operations and more."""
    last_majority: int
    """Operations up to which the majority is right on half of the questions of each length."""
    well_formed: float
    """Share of the Challenger's samples that are questions."""
    in_band: float
    """Share of those questions whose majority lies in the band."""
    in_wide_band: float
    """Share of those on which at least a quarter agree, but not all."""


@dataclass(frozen=True, slots=True)
class _Criterion:
    name: str
    value: Callable[[GateRow], float]
    low: float
    high: float

    def fault_in(self, row: GateRow) -> str | None:
        value = self.value(row)
        if self.low <= value <= self.high:
            return None
        return f"{self.name} {value:.3g} not in [{self.low:g}, {self.high:g}]"


_CRITERIA: Final = (
    _Criterion("single steps", lambda row: row.steps_short, 0.99, 1),
    _Criterion("2-3", lambda row: row.accuracy["2-3"], 0.9, 1),
    _Criterion("4-5", lambda row: row.accuracy["4-5"], 0.55, 0.8),
    _Criterion("6-7", lambda row: row.accuracy["6-7"], 0.2, 0.4),
    _Criterion("8 and more", lambda row: row.accuracy_hopeless, 0, 0.12),
    _Criterion("last right majority", lambda row: row.last_majority, 5, 6),
    _Criterion("Challenger in the band", lambda row: row.in_band, 0, 0.2),
)


def faults_of(row: GateRow) -> list[str]:
    """Return why a base does not pass, a text for each criterion that it misses."""
    faults = (criterion.fault_in(row) for criterion in _CRITERIA)
    return [fault for fault in faults if fault is not None]


def gate_row(
    base: int,
    model: str,
    answered: Sequence[AnsweredProblem],
    num_asked: int,
    ballots: Sequence[Ballot],
) -> GateRow:
    """Work out a base's figures.

    Args:
        base: the base's seed.
        model: the name of its folder.
        answered: the held-out problems, each with its sampled answers.
        num_asked: samples of the Challenger.
        ballots: the votes on those samples that are questions.
    """
    by_length: dict[int, list[AnsweredProblem]] = {}
    by_stratum: dict[str, list[AnsweredProblem]] = {}
    for problem in answered:
        length = _length(problem)
        by_length.setdefault(length, []).append(problem)
        by_stratum.setdefault(ladder.stratum(length), []).append(problem)
    return GateRow(
        base=base,
        model=model,
        steps_short=_step_accuracy([p for p in answered if _length(p) <= _SHORT]),
        steps_long=_step_accuracy([p for p in answered if _length(p) > _SHORT]),
        accuracy={name: _accuracy(problems) for name, problems in by_stratum.items()},
        accuracy_hopeless=_accuracy([p for p in answered if _length(p) >= _HOPELESS]),
        last_majority=_last_majority(by_length),
        well_formed=len(ballots) / num_asked,
        in_band=_share_within(ballots, *BAND),
        in_wide_band=_share_within(ballots, BAND[0], 1 - 1 / (2 * NUM_VOTES)),
    )


def gate_table(rows: Sequence[GateRow]) -> str:
    """Return the figures and verdicts of bases as a Markdown table, by seed."""
    strata = ("2-3", "4-5", "6-7")
    head = ["base", "step accuracy k<=6, k>6", *strata, ">= 8", "last k with majority >= .5"]
    head += ["well-formed", "base Challenger in .25-.75", "in .25-.99", "verdict"]
    lines = [head, ["---"] * len(head)]
    for row in sorted(rows, key=lambda row: row.base):
        faults = faults_of(row)
        lines.append(
            [
                str(row.base),
                f"{_figure(row.steps_short, 4)} {_figure(row.steps_long, 4)}",
                *(_figure(row.accuracy[name]) for name in strata),
                _figure(row.accuracy_hopeless),
                str(row.last_majority),
                _figure(row.well_formed),
                _figure(row.in_band),
                _figure(row.in_wide_band),
                f"fails: {'; '.join(faults)}" if faults else "passes",
            ]
        )
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


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
    if (config.task, config.model.path) != ("ladder", LADDER_MODEL):
        raise UserError(
            f"the gate is about task=ladder and model.path={LADDER_MODEL}, not "
            f"task={config.task} and model.path={config.model.path}"
        )
    check_folder(folder, "folder", lambda names: names == {_FILE})
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

    def request(messages: Any, count: int, config_of: SamplingConfig, *place: Any) -> SampleRequest:
        sampling = Sampling(
            temperature=config_of.temperature,
            top_p=config_of.top_p,
            top_k=config_of.top_k,
            max_tokens=config_of.max_tokens,
        )
        seed = derive_seed(config.seed, "gate", *place)
        return SampleRequest(
            messages=messages, num_samples=count, seed=seed, sampling=sampling, reads_tokens=False
        )

    async def vote(index: int, question: str) -> Ballot:
        messages = task.solver_messages(question)
        votes = await running.sample(
            request(messages, NUM_VOTES, config.voting.sampling, "votes", index)
        )
        return await running.judge.vote([vote.text for vote in votes])

    posed = await running.sample(
        request(task.challenger_messages(), NUM_QUESTIONS, config.curriculum.sampling, "questions")
    )
    parsed = (parse_question(completion.text) for completion in posed)
    questions = [text for text in parsed if text is not None and ladder.parse(text) is not None]
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


def _length(problem: AnsweredProblem) -> int:
    question = ladder.parse(problem.question)
    assert question is not None, problem.question
    return len(question.operations)


def _accuracy(problems: Sequence[AnsweredProblem]) -> float:
    marks = [is_right for problem in problems for is_right in problem.correct]
    return sum(marks) / max(1, len(marks))


def _step_accuracy(problems: Sequence[AnsweredProblem]) -> float:
    """Return the share of right results of the known operations that answers carry out."""
    steps = [step for p in problems for text in p.texts for step in _STEP.findall(text)]
    marks = [
        ladder.TABLES[operation][int(value)] == int(result)
        for value, operation, result in steps
        if operation in ladder.TABLES
    ]
    return sum(marks) / max(1, len(marks))


def _last_majority(by_length: dict[int, list[AnsweredProblem]]) -> int:
    """Return the length before the first at which fewer than half of the majorities are right."""
    for length in sorted(by_length):
        right = [problem.majority_correct for problem in by_length[length]]
        if sum(right) < len(right) / 2:
            return length - 1
    return max(by_length)


def _share_within(ballots: Sequence[Ballot], low: float, high: float) -> float:
    shares = [ballot.num_agree / len(ballot.answers) for ballot in ballots]
    return sum(low <= share <= high for share in shares) / max(1, len(shares))


def _figure(share: float, digits: int = 3) -> str:
    return f"{share:.{digits}f}".removeprefix("0")
