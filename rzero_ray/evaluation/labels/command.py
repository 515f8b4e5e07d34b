"""The command `python -m rzero_ray audit`: has an oracle judge the labels of a run.

It works on a finished or a running run, needs no cluster, and changes nothing but the audit's own
files. `HELP` says how it is called.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path

from rzero_ray.answers.equality import equivalent
from rzero_ray.answers.parsing import parse_answer
from rzero_ray.config.arguments import AuditArguments, load_own
from rzero_ray.config.command import run_command
from rzero_ray.config.config import Config, resolve_folder
from rzero_ray.config.sources import split_pairs
from rzero_ray.disk.folder import held
from rzero_ray.evaluation.labels.agreement import (
    RIGHT,
    UNKNOWN,
    WRONG,
    Agreement,
    combine,
    compare,
    label_accuracy,
)
from rzero_ray.evaluation.labels.audit import (
    ask_oracle,
    audit_sample,
    boxed,
    check_oracle,
    record_name,
    sheet_name,
)
from rzero_ray.evaluation.labels.sheet import SheetRow, read_sheet, write_sheet
from rzero_ray.run.directory import load_stored_config
from rzero_ray.run.manifest import Manifest, number_in
from rzero_ray.run.parquet import read_records, write_records
from rzero_ray.run.stored import by_number
from rzero_ray.tasks.registry import make_task
from rzero_ray.text.numbers import decimals
from rzero_ray.types import AuditedLabel, CurriculumItem, UserError, iteration_key

USAGE = "python -m rzero_ray audit run_dir=DIR oracle=exact|openai|human [iteration=N] [key=value]"
HELP = f"""\
usage: {USAGE}

Has an oracle judge a sample of the questions that a run has kept, and prints how many labels are
right by each oracle that has judged this run, and how far each two agree. It works on a finished or
a running run, and changes nothing but the audit's own files. No verdict is asked for twice.

  run_dir=DIR           the run directory
  oracle=exact          the task's own solver (task=arithmetic, task=ladder)
  oracle=openai         the model behind endpoint.url=URL, known there as endpoint.model=NAME
  oracle=human          a person: the first call writes sheets, the next reads them back
  iteration=N           one iteration instead of all
  num_questions=N       the sample's size, instead of what the run's config.yaml says
  min_accuracy=SHARE    warn of an iteration whose share of right labels is lower

All keys and their defaults: AuditConfig and EndpointConfig in rzero_ray/config/audits.py.
Output: iteration-NN/audit-ORACLE.parquet, and iteration-NN/audit-human.csv for a person.
Exit codes: 0 done, 2 the command or a sheet is wrong."""
_LOCK = ".audit.lock"
"""Held instead of the run's own lock: a run that is at work may be audited."""
_ROOM = 1 << 26
"""Bytes that must be free before anybody is asked."""
ORACLES = ("exact", "openai", "human")
Verdicts = dict[int, list[AuditedLabel]]
"""What an oracle has said of a run, by iteration."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run_command(arguments, lambda: HELP, _audit_run)


def _audit_run(arguments: list[str]) -> None:
    root, iteration, config = _parse(arguments)
    Manifest.read(root / "manifest.json")
    curricula = _curricula(root, iteration)
    _check_stored(config, root, curricula)
    with held(root, "run_dir", _ROOM, _LOCK):
        for number, items in curricula.items():
            asyncio.run(_audit(config, root, number, items))
    print("\n".join(tables(root, config.audit.min_accuracy, config.seed)))


def _check_stored(
    config: Config, root: Path, curricula: Mapping[int, list[CurriculumItem]]
) -> None:
    """Raise UserError where verdicts on disk, or sheets, are damaged; nothing is written yet."""
    for oracle in ORACLES:
        read_verdicts(root, oracle)
    for number, items in curricula.items():
        sheet = root / sheet_name(number)
        if config.audit.oracle == "human" and os.path.lexists(sheet):
            read_sheet(sheet, items)


def tables(root: Path, min_accuracy: float, seed: int) -> list[str]:
    """Return the lines that say what all oracles found in a run, and how far they agree.

    `seed` is the run's: the intervals are then those of its own audit.
    """
    found = {oracle: verdicts for oracle in ORACLES if (verdicts := read_verdicts(root, oracle))}
    lines = ["oracle   iteration   right   wrong   unknown   accuracy [95 %]"]
    for oracle, verdicts in found.items():
        rows = [(str(number), records) for number, records in verdicts.items()]
        if len(rows) > 1:
            rows.append(("all", [record for _, records in rows for record in records]))
        for name, records in rows:
            of = label_accuracy(records, seed)
            value, low, high = (None,) * 3 if of.accuracy is None else astuple(of.accuracy)
            is_low = value is not None and value < min_accuracy
            lines.append(
                f"{oracle:<8} {name:>9} {of.num_right:7,} {of.num_wrong:7,} "
                f"{of.num_unknown:9,}   {decimals(value)} [{decimals(low)}, {decimals(high)}]"
                f"{f'   warning: below {min_accuracy:g}' if is_low else ''}"
            )
    pairs = list(itertools.combinations(found, 2))
    if pairs:
        lines += [
            "",
            "first / second    labels   agree   kappa   right/right right/wrong wrong/right "
            "wrong/wrong",
        ]
    return lines + [_agreement_line(a, b, _agreement(found[a], found[b])) for a, b in pairs]


def read_verdicts(root: Path, oracle: str) -> Verdicts:
    """Return what an oracle has said of a run, by iteration."""
    paths = {
        number_in(folder.name): folder / f"audit-{oracle}.parquet"
        for folder in by_number(root, "iteration-*")
    }
    return {
        n: read_records(path, AuditedLabel) for n, path in paths.items() if os.path.lexists(path)
    }


def _agreement(first: Verdicts, second: Verdicts) -> Agreement:
    return combine([compare(first[number], second[number]) for number in first if number in second])


def _agreement_line(first: str, second: str, found: Agreement) -> str:
    kinds = ((RIGHT, RIGHT), (RIGHT, WRONG), (WRONG, RIGHT), (WRONG, WRONG))
    counts = " ".join(f"{found.counts[kind]:11,}" for kind in kinds)
    return (
        f"{f'{first} / {second}':<16} {found.num_labels:7,} {decimals(found.share):>7} "
        f"{decimals(found.kappa):>7}   {counts}"
    )


def _parse(arguments: Sequence[str]) -> tuple[Path, int | None, Config]:
    """Return the run directory, the iteration, and the run's configuration with these arguments."""
    own, of_run = load_own(AuditArguments, split_pairs(arguments), USAGE)
    oracle = dict(of_run).get("oracle")
    if not oracle:
        raise UserError(f"oracle=... is missing; usage: {USAGE}")
    if oracle not in ORACLES:
        raise UserError(f"oracle={oracle[:40]} is none of {', '.join(ORACLES)}")
    root = resolve_folder(own.run_dir)
    config = load_stored_config(root, [(f"audit.{key}", value) for key, value in of_run])
    check_oracle(config)
    return root, own.iteration or None, config


def _curricula(root: Path, iteration: int | None) -> dict[int, list[CurriculumItem]]:
    """Return the kept questions of one iteration, or of each that has a curriculum."""
    pattern = "iteration-*" if iteration is None else iteration_key(iteration)
    folders = by_number(root, pattern)
    paths = {number_in(folder.name): folder / "curriculum.parquet" for folder in folders}
    found = {
        n: read_records(path, CurriculumItem) for n, path in paths.items() if os.path.lexists(path)
    }
    if not found:
        where = "" if iteration is None else f"iteration {iteration} of "
        raise UserError(f"{where}{root} has no curriculum yet; wait for it, or name another")
    return found


async def _audit(
    config: Config, root: Path, iteration: int, items: Sequence[CurriculumItem]
) -> None:
    """Have the oracle judge the labels of one iteration, and keep its verdicts."""
    path = root / record_name(iteration, config.audit.oracle)
    if config.audit.oracle == "human":
        records = await _read_human(config, root, iteration, items)
        if records is None:
            return
    else:
        records = await _ask(config, path, audit_sample(config, iteration, items))
    write_records(path, records, AuditedLabel)


async def _ask(config: Config, path: Path, sample: Sequence[CurriculumItem]) -> list[AuditedLabel]:
    """Return the verdicts on the sample: those on disk, and new ones on what is not yet judged."""
    stored = read_records(path, AuditedLabel) if os.path.lexists(path) else []
    known = {(r.question, r.label): r for r in stored if r.verdict != UNKNOWN}
    open_items = [item for item in sample if (item.question, item.label) not in known]
    asked = await ask_oracle(config.audit, open_items, make_task(config.task), _grade)
    return list((known | {(r.question, r.label): r for r in asked}).values())


async def _read_human(
    config: Config, root: Path, iteration: int, items: Sequence[CurriculumItem]
) -> list[AuditedLabel] | None:
    """Return what a person wrote into the sheet; None when it had to be written first."""
    path = root / sheet_name(iteration)
    if not os.path.lexists(path):
        write_sheet(path, audit_sample(config, iteration, items))
        print(
            f"wrote {path}: fill in one of its columns, answer (your own) or right (yes, no, ?), "
            "save it as CSV, and give the same command again"
        )
        return None
    return [await _judge_row(row) for row in read_sheet(path, items)]


async def _judge_row(row: SheetRow) -> AuditedLabel:
    """Judge a label by a person's mark, or by comparing it with the person's own answer."""
    verdict = row.verdict or UNKNOWN
    if row.answer is not None:
        graded = (await _grade([boxed(row.answer)], row.item.label))[0]
        verdict = RIGHT if graded == row.item.label else WRONG
    return AuditedLabel(
        question=row.item.question, label=row.item.label, answer=row.answer, verdict=verdict
    )


async def _grade(responses: Sequence[str], reference: str) -> list[str | None]:
    """Do in this process what `protocols.Judge.grade` does.

    LaTeX is compared in a child process that can be killed.
    """
    answers = [parse_answer(response) for response in responses]
    return [
        reference if answer is not None and equivalent(answer, reference) else answer
        for answer in answers
    ]


if __name__ == "__main__":
    sys.exit(main())
