"""The command `rzero study`: runs arms of the method, and compares them."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict
from pathlib import Path

from rzero_ray.config.arguments import StudyArguments, load_own
from rzero_ray.config.command import run_command
from rzero_ray.config.config import Config, resolve_folder, resolve_run_dir
from rzero_ray.config.rules import read_numbers
from rzero_ray.config.sources import split_names, split_pairs
from rzero_ray.disk.files import write_text_durably
from rzero_ray.disk.folder import check_folder, check_no_folders, held
from rzero_ray.driver import join_cluster
from rzero_ray.study.arms import Place, check_same_actors, load_arm, run_config
from rzero_ray.study.figures import LAST, RunFigures, read_figures
from rzero_ray.study.page import make_page
from rzero_ray.study.plan import FILE, Asked, Plan, extend, read_plan, resolve, write_plan
from rzero_ray.study.results import summarize
from rzero_ray.study.runs import (
    Failure,
    Say,
    Workers,
    check_run,
    is_finished,
    jobs_of,
    print_failure,
)
from rzero_ray.study.tables import Table, make_tables, to_markdown
from rzero_ray.tasks.base_model import obtain_model
from rzero_ray.tasks.registry import check_halves, check_labels, check_steps
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


def _study(arguments: list[str]) -> None:
    own, passed = load_own(StudyArguments, split_pairs(arguments), USAGE)
    if not own.folder:
        raise UserError(f"folder=... is missing; usage: {USAGE}")
    root = resolve_folder(own.folder)
    check_folder(root, "folder", lambda names: _is_study(root, names))
    check_no_folders(root, [FILE, *_WRITTEN])
    before = read_plan(root) if (root / FILE).exists() else None
    asked = resolve(_asked(own, passed), before)
    arms = _load_arms(asked)
    if own.report:
        if before is None:
            raise UserError(f"folder={root} holds no study yet; leave report=true out")
        _write_results(root, before, *_finished(_configs(before, arms, root)))
        return
    with held(root, "folder", _ROOM):
        then = {} if before is None else _finished(_configs(before, arms, root))[0]
        plan = extend(before, asked, arms, len(then))
        if plan is not before:
            write_plan(root, plan)
        configs = _configs(plan, arms, root)
        finished, failures = _finished(configs)
        for failure in failures:
            print_failure(failure)
        failures += _make(plan, configs, {*finished, *(f.place for f in failures)}, own.workers)
        _write_results(root, plan, *_finished(configs))
    if failures:
        count = "a run" if len(failures) == 1 else f"{len(failures)} runs"
        raise RunError(f"{count} did not finish; the first: {failures[0]}")


def _is_study(root: Path, names: Set[str]) -> bool:
    """Return whether a folder's files are those of a study."""
    return FILE in names and names <= {FILE, "runs", *_WRITTEN}


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
        check_labels(config)
        check_halves(config)
        check_steps(config)
    check_same_actors(arms)
    return arms


def _configs(plan: Plan, arms: Mapping[str, Config], root: Path) -> dict[Place, Config]:
    """Return the configuration of each run, in the order in which they are made."""
    return {place: run_config(arms[place.arm], place, root) for place in plan.places()}


def _finished(configs: Mapping[Place, Config]) -> tuple[dict[Place, Config], list[Failure]]:
    """Return the runs that are finished, and those that cannot be taken up."""
    finished, failures = {}, []
    for place, config in configs.items():
        try:
            if is_finished(config):
                finished[place] = config
            else:
                check_run(config)
        except UserError as error:
            failures.append(Failure(place, str(error)))
    return finished, failures


def _make(
    plan: Plan, configs: Mapping[Place, Config], done: Set[Place], num_workers: int
) -> list[Failure]:
    """Make the runs that are not done; return those that fail."""
    left = {place: config for place, config in configs.items() if place not in done}
    say = Say()
    say(f"{len(configs) - len(left)} of {len(configs)} runs are done; {len(left)} to make")
    if not left:
        return []
    of_base = {place.base: config for place, config in left.items()}
    base_models = {base: obtain_model(config.model) for base, config in of_base.items()}
    num_workers = min(num_workers, len(left))
    address, layout = join_cluster(next(iter(left.values())), num_workers)
    say(f"Ray at {address}; {num_workers} workers; {layout.describe()}")
    workers = Workers(jobs_of(left, base_models), layout, address, say)
    asyncio.run(workers.work(num_workers))
    return workers.failures


def _write_results(
    root: Path, plan: Plan, finished: Mapping[Place, Config], failures: Sequence[Failure]
) -> None:
    """Write the study's files, and show what answers its question."""
    runs, unreadable = _read_runs(finished)
    remarks = [f"left out: {failure}" for failure in [*failures, *unreadable]]
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
    _show(root, tables[:_SHOWN], remarks)


def _read_runs(finished: Mapping[Place, Config]) -> tuple[list[RunFigures], list[Failure]]:
    """Return the figures of the runs, and those that cannot be read."""
    runs, unreadable = [], []
    for place, config in finished.items():
        try:
            runs.append(read_figures(place, resolve_run_dir(config)))
        except UserError as error:
            unreadable.append(Failure(place, str(error)))
    return runs, unreadable


def _show(root: Path, tables: Sequence[Table], remarks: Sequence[str]) -> None:
    for remark in remarks:
        print(printable(f"rzero_ray: warning: {remark}"), file=sys.stderr)
    for line in [*to_markdown(tables, []).splitlines()[1:], "", *(str(root / n) for n in _WRITTEN)]:
        print(printable(line))
