"""The command `rzero study`: runs arms of the method, and compares them."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rzero_ray.config.arguments import StudyArguments, load_own
from rzero_ray.config.command import run_command
from rzero_ray.config.config import Config, resolve_folder
from rzero_ray.config.load import load_config
from rzero_ray.config.rules import read_numbers
from rzero_ray.config.sources import split_names, split_pairs
from rzero_ray.disk.files import write_text_durably
from rzero_ray.disk.folder import check_folder, check_no_folders, held
from rzero_ray.driver import join_cluster
from rzero_ray.run.shape import checked_shape
from rzero_ray.run.trackers import check_trackers
from rzero_ray.study.arms import Place, check_same_actors, check_sources, load_arm, run_config
from rzero_ray.study.figures import LAST, RunFigures, read_figures, with_all_shares
from rzero_ray.study.page import make_page
from rzero_ray.study.plan import FILE, Asked, Plan, extend, read_plan, resolve, write_plan
from rzero_ray.study.results import summarize
from rzero_ray.study.runs import (
    Failure,
    Job,
    Say,
    Workers,
    is_finished,
    print_failure,
)
from rzero_ray.study.tables import Table, make_tables, to_markdown
from rzero_ray.tasks.base_model import find_model, obtain_model
from rzero_ray.tasks.registry import check_task
from rzero_ray.text.characters import printable
from rzero_ray.types import RunError, UserError

USAGE = (
    "python -m rzero_ray study folder=FOLDER conf=NAME arms=A,B,... bases=0,1,... [key=value ...]"
)
HELP = f"""\
usage: {USAGE}

Runs arms of the method from the same base models, compares them with paired t tests over the base
models, and writes study.md, study.html and study.json into the folder. What is compared is written
into its plan.json before the first run. The same command goes on where it was stopped.

  folder=FOLDER         the study; alone it goes on with all that its plan has
  conf=NAME             the experiment, a file of conf/
  arms=rzero,A+B        plain is the experiment as it is, the others are files of conf/recipe/ or
                        conf/ablation/ laid over it; all are compared with the first
  bases=0..9            seeds of the base models; later commands may add some, and arms
  seeds=0,1             seeds of the runs on each base model; 0 without it
  compare=A:B,C:D       more comparisons: A minus B
  workers=2             runs at once, each with actors of its own
  report=true           write the tables of what is finished, and run nothing
  gate=NAME bases=0..9  measure the base models of a conf, in place of a study
  num_iterations=N      like every other key of a run it goes to all arms

All keys and their defaults: rzero_ray/config/config.py.
Exit codes: 0 done, 1 a run did not finish, 2 the command is wrong, 130 stopped."""

_WRITTEN = ("study.json", "study.md", "study.html")
_ROOM = 1 << 20
"""Bytes that must be free for what is written beside the runs, which look for themselves."""
_SHOWN = 2
"""Tables that the terminal shows."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run_command(arguments, lambda: HELP, _study, "the same command goes on")


def parse(arguments: Sequence[str]) -> tuple[StudyArguments, list[tuple[str, str]]]:
    """Return this command's own keys, checked, and the keys and values that are the runs'."""
    return load_own(StudyArguments, split_pairs(arguments), USAGE)


def _study(arguments: list[str]) -> None:
    own, passed = parse(arguments)
    if not own.folder:
        raise UserError(f"folder=... is missing; usage: {USAGE}")
    root = resolve_folder(own.folder)
    if own.gate:
        _measure_gate(own, passed, root)
        return
    check_folder(root, "folder", lambda names: FILE in names)  # and whatever lies beside it
    check_no_folders(root, [FILE, *_WRITTEN])
    before = read_plan(root) if os.path.lexists(root / FILE) else None
    asked = resolve(_asked(own, passed), before)
    arms = _load_arms(asked)
    if own.report:
        if before is None:
            raise UserError(f"folder={root} holds no study yet; leave report=true out")
        if extend(before, asked, arms, lambda: 0) is not before:
            raise UserError(
                "report=true shows what the study's plan has, and this command has more arms, "
                "bases or comparisons; leave report=true out to add them to the plan"
            )
        _write_results(root, before, _sort(_configs(before, arms, root)))
        return
    with held(root, "folder", _ROOM):
        plan = extend(before, asked, arms, lambda: _num_finished(before, arms, root))
        if plan is not before:
            write_plan(root, plan)
        configs = _configs(plan, arms, root)
        runs = _sort(configs)
        failures = [*runs.damaged, *_make(runs, own.workers)]
        _write_results(root, plan, _sort(configs))
    if failures:
        count = "a run" if len(failures) == 1 else f"{len(failures)} runs"
        raise RunError(f"{count} did not finish; the first: {failures[0]}")


def _measure_gate(own: StudyArguments, passed: Sequence[tuple[str, str]], root: Path) -> None:
    """Measure the base models of a conf, and show their table."""
    # No study needs them.
    from rzero_ray.study.gate import measure_gate
    from rzero_ray.study.gate_figures import gate_table

    given = {"arms": own.arms, "seeds": own.seeds, "compare": own.compare, "report": own.report}
    given["conf"] = dict(passed).get("conf")
    for key, value in given.items():
        if value:
            raise UserError(f"{key}={value} has no meaning beside gate=, which names the conf")
    if not own.bases:
        raise UserError("gate= needs bases=0,1,..., the seeds of the base models to measure")
    config = load_config([f"conf={own.gate}", *(f"{key}={value}" for key, value in passed)])
    print(gate_table(asyncio.run(measure_gate(config, read_numbers(own.bases), root))))


def _asked(own: StudyArguments, passed: Sequence[tuple[str, str]]) -> Asked:
    """Return what the command line asks for."""
    confs = [value for key, value in passed if key == "conf"]
    return Asked(
        conf=confs[-1] if confs else None,
        overrides=[f"{key}={value}" for key, value in passed if key != "conf"],
        arms=list(dict.fromkeys(split_names(own.arms))) or None,
        bases=read_numbers(own.bases) if own.bases else None,
        seeds=read_numbers(own.seeds) if own.seeds else None,
        compare=split_names(own.compare),
    )


def _load_arms(asked: Asked) -> dict[str, Config]:
    """Return the configuration of each arm. Raises UserError where one of them cannot be run, or
    not by the actors of the others."""
    assert asked.arms and asked.conf
    arms = {arm: load_arm(arm, asked.conf, asked.overrides) for arm in asked.arms}
    for config in arms.values():
        check_task(config)
        check_trackers(config.trackers)
        checked_shape(config, find_model(config.model))  # before the plan keeps what cannot be run
    check_same_actors(arms)
    check_sources(arms)
    return arms


def _configs(plan: Plan, arms: Mapping[str, Config], root: Path) -> dict[Place, Config]:
    """Return the configuration of each run, in the order in which they are made."""
    return {place: run_config(arms[place.arm], place, root) for place in plan.places()}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Runs:
    """The runs of a study by how they stand, in the order in which they are made."""

    finished: dict[Place, Config]
    left: dict[Place, Config]
    damaged: list[Failure]


def _sort(configs: Mapping[Place, Config]) -> _Runs:
    runs = _Runs(finished={}, left={}, damaged=[])
    for place, config in configs.items():
        try:
            (runs.finished if is_finished(config) else runs.left)[place] = config
        except UserError as error:
            runs.damaged.append(Failure(place, str(error)))
    return runs


def _num_finished(plan: Plan | None, arms: Mapping[str, Config], root: Path) -> int:
    return 0 if plan is None else len(_sort(_configs(plan, arms, root)).finished)


def _make(runs: _Runs, num_workers: int) -> list[Failure]:
    """Make the runs that are left; return those that fail."""
    say = Say()
    say(f"{len(runs.finished)} runs are finished, {len(runs.left)} are to be made")
    for failure in runs.damaged:
        print_failure(failure)
    if not runs.left:
        return []
    base_models = _obtain_models(runs.left.values())
    num_workers = min(num_workers, len(runs.left))
    address, layout = join_cluster(next(iter(runs.left.values())), num_workers)
    say(f"Ray at {address}, workers: {num_workers}, {layout.describe()}")
    jobs = [
        Job(place=place, config=config, base_model=base_models[place.base])
        for place, config in runs.left.items()
    ]
    workers = Workers(jobs, layout, address, say)
    asyncio.run(workers.work(num_workers))
    return workers.failures


def _obtain_models(configs: Iterable[Config]) -> dict[int, Path]:
    """Return the folders of the base models by their seeds, after building what is missing: before
    Ray starts, because a signal ends a build at once only where nothing else is at work."""
    folders = {}
    for base, config in {config.model.base_seed: config for config in configs}.items():
        folders[base] = obtain_model(config.model)
        checked_shape(config, folders[base])  # of all arms alike, for they share their actors
    return folders


def _write_results(root: Path, plan: Plan, of: _Runs) -> None:
    """Write the study's files, and show what answers its question."""
    runs, unreadable = _read_runs(of.finished)
    hours = sum(run.totals["wall_hours"] for run in runs)
    missing = [f"left out: {failure}" for failure in [*of.damaged, *unreadable]]
    remarks = [
        f"{len(runs)} of {len(plan.places())} runs, {hours:.2f} hours of work in all",
        *missing,
    ]
    result = summarize(plan, runs, LAST)
    tables = make_tables(plan, result)
    content = {
        "plan": plan.model_dump(),
        "remarks": remarks,
        **asdict(result),
        "runs": [asdict(run) for run in runs],
    }
    page = make_page(root.name, plan.arms, result, tables, remarks)
    texts = (json.dumps(content, indent=1), to_markdown(tables, remarks), page)
    for name, text in zip(_WRITTEN, texts, strict=True):
        write_text_durably(root / name, text)
    _show(root, tables[:_SHOWN], missing)


def _read_runs(finished: Mapping[Place, Config]) -> tuple[list[RunFigures], list[Failure]]:
    """Return the figures of the runs, and those that cannot be read."""
    runs, unreadable = [], []
    for place, config in finished.items():
        try:
            runs.append(read_figures(place, config))
        except UserError as error:
            unreadable.append(Failure(place, str(error)))
    return with_all_shares(runs), unreadable


def _show(root: Path, tables: Sequence[Table], missing: Sequence[str]) -> None:
    for text in missing:
        print(printable(f"rzero_ray: warning: {text}"), file=sys.stderr)
    for line in [*to_markdown(tables, []).splitlines()[1:], "", *(str(root / n) for n in _WRITTEN)]:
        print(printable(line))
