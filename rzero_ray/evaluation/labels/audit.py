"""The label audit: an oracle judges a sample of the questions that an iteration has kept.

Each oracle judges the same sample, so that any two can be compared; its verdicts are kept in
`iteration-NN/audit-ORACLE.parquet`. A person judges in `audit-human.csv` (`sheet.py`). A run calls
this after each curriculum; the command `audit` (`command.py`) calls it on any run directory.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from rzero_ray.answers.parsing import parse_answer
from rzero_ray.config.audits import AuditConfig
from rzero_ray.config.config import Config
from rzero_ray.evaluation.endpoint import Endpoint
from rzero_ray.evaluation.labels.agreement import RIGHT, UNKNOWN, WRONG, label_accuracy
from rzero_ray.evaluation.labels.sheet import write_sheet
from rzero_ray.protocols import Cast, Task
from rzero_ray.run.concurrency import gather_all
from rzero_ray.run.run import Run
from rzero_ray.run.seeds import derive_seed
from rzero_ray.tasks.registry import make_task
from rzero_ray.types import AuditedLabel, CurriculumItem, RunError, UserError, iteration_key

Grade = Callable[[Sequence[str], str], Awaitable[list[str | None]]]
"""The type of `protocols.Judge.grade`."""


async def audit_labels(
    config: Config, iteration: int, cast: Cast, items: Sequence[CurriculumItem], run: Run
) -> None:
    """Have the configured oracle judge a sample of the kept questions, once an iteration.

    Warns below `audit.min_accuracy`, or with `audit.stop` raises RunError; the verdicts stay, so
    the same command asks nobody again and goes on once the threshold is lowered.
    """
    settings = config.audit
    if settings.oracle == "none" or not items:
        return
    sample = audit_sample(config, iteration, items)
    for step in run.steps(iteration, "audit", 1):
        if settings.oracle == "human":
            path = run.stored.root / sheet_name(iteration)
            write_sheet(path, sample)
            run.note(
                f"fill in a column of {path} (answer: yours, or right: yes/no), then: "
                f"python -m rzero_ray audit run_dir={run.stored.root} oracle=human"
            )
            figures: dict[str, Any] = {"oracle": "human", "num_questions": len(sample)}
        else:
            records = await run.once(
                record_name(iteration, settings.oracle).removesuffix(".parquet"),
                AuditedLabel,
                lambda: ask_oracle(settings, sample, cast.task, cast.judge.grade),
            )
            figures = audit_figures(settings.oracle, records, config.seed)
        run.finish_step(step, figures)
    _judge(settings, iteration, run)


def check_oracle(config: Config) -> None:
    """Raise UserError when the configured oracle cannot work."""
    if config.audit.oracle == "exact" and not make_task(config.task).has_oracle:
        raise UserError(
            f"audit.oracle=exact needs a task with an oracle, which task={config.task} has not; "
            "use task=arithmetic or task=ladder, or audit.oracle=openai or human"
        )
    endpoint = config.audit.endpoint
    if config.audit.oracle == "openai" and not (endpoint.url and endpoint.model):
        raise UserError(
            "audit.oracle=openai needs audit.endpoint.url and audit.endpoint.model; set both"
        )


def audit_sample(
    config: Config, iteration: int, items: Sequence[CurriculumItem]
) -> list[CurriculumItem]:
    """Return the items that are judged, which are the same for every oracle.

    A larger sample holds a smaller one.
    """
    order = list(items)
    random.Random(derive_seed(config.seed, iteration, "audit")).shuffle(order)
    return order[: config.audit.num_questions]


async def ask_oracle(
    settings: AuditConfig, items: Sequence[CurriculumItem], task: Task, grade: Grade
) -> list[AuditedLabel]:
    """Return the verdicts of the oracle `exact` or `openai` on the items, in their order."""
    if settings.oracle == "exact":
        return [await _judge_exactly(item, task, grade) for item in items]
    endpoint = Endpoint(settings.endpoint)
    try:
        texts = await gather_all(
            endpoint.complete(task.solver_messages(item.question)) for item in items
        )
    finally:
        await endpoint.close()
    return [
        await _judge_by_text(item, text, grade) for item, text in zip(items, texts, strict=True)
    ]


def audit_figures(oracle: str, records: Sequence[AuditedLabel], seed: int) -> dict[str, Any]:
    """Return the oracle's part of a row of `metrics.jsonl`; `seed` is the run's."""
    found = label_accuracy(records, seed)
    accuracy = found.accuracy
    return {
        "oracle": oracle,
        "num_questions": len(records),
        "num_right": found.num_right,
        "num_wrong": found.num_wrong,
        "accuracy": None if accuracy is None else accuracy.value,
        "accuracy_ci95": None if accuracy is None else [accuracy.low, accuracy.high],
        "unknown_share": found.unknown_share,
    }


def record_name(iteration: int, oracle: str) -> str:
    """Return the file of an oracle's verdicts, inside the run directory."""
    return f"{iteration_key(iteration)}/audit-{oracle}.parquet"


def sheet_name(iteration: int) -> str:
    """Return the file that a person fills in, inside the run directory."""
    return f"{iteration_key(iteration)}/audit-human.csv"


def boxed(answer: str) -> str:
    """Return an answer as a response that a `Judge` reads."""
    return f"\\boxed{{{answer}}}"


async def _judge_exactly(item: CurriculumItem, task: Task, grade: Grade) -> AuditedLabel:
    """Compare the label with the task's own answer.

    A question that has no answer at all has no right label either.
    """
    truth = task.solve(item.question)
    is_right = truth is not None and (await grade([boxed(item.label)], truth))[0] == truth
    return AuditedLabel(
        question=item.question,
        label=item.label,
        answer=truth,
        verdict=RIGHT if is_right else WRONG,
    )


async def _judge_by_text(item: CurriculumItem, text: str | None, grade: Grade) -> AuditedLabel:
    """Compare the label with the boxed answer of a response; unknown where there is none."""
    answer = None if text is None else parse_answer(text)
    verdict = UNKNOWN
    if text is not None and answer is not None:
        graded = (await grade([text], item.label))[0]
        verdict = RIGHT if graded == item.label else WRONG
    return AuditedLabel(question=item.question, label=item.label, answer=answer, verdict=verdict)


def _judge(settings: AuditConfig, iteration: int, run: Run) -> None:
    """Warn of too few right labels, or end the run where the configuration says so."""
    row = run.stored.figures(iteration, "audit") or {}
    if row.get("oracle") in (None, "human"):
        return
    accuracy = row["accuracy"]
    if accuracy is None:
        run.note(f"warning: iteration {iteration}: oracle {row['oracle']} could judge no label")
        return
    if accuracy >= settings.min_accuracy:
        return
    low, high = row["accuracy_ci95"]
    text = (
        f"iteration {iteration}: {accuracy:.0%} of the labels are right [{low:.0%}, {high:.0%}] "
        f"by oracle {row['oracle']}, below audit.min_accuracy={settings.min_accuracy:g}"
    )
    if settings.stop:
        raise RunError(f"{text}; lower it or set audit.stop=false to go on")
    run.note(f"warning: {text}")
