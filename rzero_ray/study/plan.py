"""`plan.json`: what a study compares, and how, written down before its first run.

A later command may add arms, base models and comparisons, each time as an entry that says how many
runs were finished by then; it cannot change what was planned.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import combinations, product
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from rzero_ray.config.config import Config
from rzero_ray.disk.files import damaged, read_json, write_text_durably
from rzero_ray.study.arms import Place, settings
from rzero_ray.types import UserError

FILE = "plan.json"
_FORMAT = 1
PRIMARY = (
    "the mean, over the last three iterations, of the share of right answers among the k that are "
    "sampled to each held-out problem of half B, those with odd numbers from 0"
)
TESTS = (
    "run seeds are averaged within a base model; differences of two arms are paired by base model, "
    "with 95 % intervals and two-sided p values by Student's t, and Holm's adjustment over the "
    "comparisons that were planned together"
)


_Seed = Annotated[int, Field(ge=0)]


class _Shape(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class Entry(_Shape):
    """What one command has put into the plan."""

    time: str
    """When, in UTC."""
    program: str
    """The version of the program, and the commit where it is known."""
    finished_runs: int = Field(ge=0)
    """The runs of the study that were finished by then."""
    arms: list[str]
    bases: list[_Seed]
    compare: list[str]
    """Pairs `A:B`, beside each arm minus the first."""


class Plan(_Shape):
    """What a study compares."""

    format: int
    conf: str
    overrides: list[str]
    """The `key.path=value` arguments that all arms have."""
    seeds: list[_Seed] = Field(min_length=1)
    primary: str
    tests: str
    entries: list[Entry] = Field(min_length=1)
    settings: dict[str, dict[str, Any]]
    """By arm, the configuration: all of it of the first arm, of the others what differs."""

    @property
    def arms(self) -> list[str]:
        """The arms, the one that others are compared with first."""
        return [arm for entry in self.entries for arm in entry.arms]

    @property
    def bases(self) -> list[int]:
        """The seeds of the base models."""
        return [base for entry in self.entries for base in entry.bases]

    def comparisons(self) -> list[Comparison]:
        """Return what is compared, in the order in which it was planned.

        B minus A beside A minus B is the same comparison: it stands once, for Holm's adjustment
        counts how many there are.
        """
        first, found = self.arms[0], dict[tuple[str, str], Comparison]()
        for family, entry in enumerate(self.entries):
            pairs = [(arm, first) for arm in entry.arms if arm != first]
            pairs += [split_pair(pair) for pair in entry.compare]
            for left, right in pairs:
                if (right, left) not in found:
                    found.setdefault(
                        (left, right), Comparison(left, right, entry.finished_runs, family)
                    )
        return list(found.values())

    def places(self) -> list[Place]:
        """Return the runs in the order in which they are made: all arms of a base model together,
        so that a study that is stopped has whole comparisons."""
        return [
            Place(arm, base, seed) for seed, base, arm in product(self.seeds, self.bases, self.arms)
        ]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Arm `left` minus arm `right`."""

    left: str
    right: str
    added_after: int
    """The runs that were finished when it was planned; 0 for one that nobody could choose by
    results."""
    family: int = 0
    """The number of the plan's entry that it is of: what is planned later takes nothing from the
    significance of what was planned before."""

    def __str__(self) -> str:
        return f"{self.left} - {self.right}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a command asks a study for; what is None it does not say."""

    conf: str | None
    overrides: Sequence[str]
    arms: Sequence[str] | None
    bases: Sequence[int] | None
    seeds: Sequence[int] | None
    compare: Sequence[str]


def read_plan(root: Path) -> Plan:
    """Return the plan of the study in `root`. Raises UserError where it is missing or damaged."""
    path = root / FILE
    plan = Plan.model_validate(read_json(path, Plan))
    if plan.format != _FORMAT:
        raise UserError(f"{path} has format {plan.format}, this program reads {_FORMAT}")
    missing = [arm for arm in plan.arms if arm not in plan.settings]
    if missing:
        raise damaged(path, f"it has no settings of {missing[0]}")
    for name, found in (("arms", plan.arms), ("bases", plan.bases), ("seeds", plan.seeds)):
        if not found:
            raise damaged(path, f"it has no {name}")
        if len(set(found)) < len(found):
            raise damaged(path, f"one of its {name} stands there twice")
    for entry in plan.entries:
        for pair in entry.compare:
            if not set(pair.split(":")) <= set(plan.arms) or pair.count(":") != 1:
                raise damaged(path, f"{pair} is no pair of its arms")
    return plan


def write_plan(root: Path, plan: Plan) -> None:
    """Write the plan of the study in `root`."""
    write_text_durably(root / FILE, json.dumps(plan.model_dump(), indent=1))


def resolve(asked: Asked, plan: Plan | None) -> Asked:
    """Return what is asked for with what a plan says in place of what the command leaves out.

    Raises UserError where neither says it, or where the command takes something out of the plan or
    puts it into another order.
    """
    if plan is None:
        if asked.conf is None or not asked.arms or not asked.bases:
            raise UserError("a new study needs conf=NAME, arms=A,B,... and bases=0,1,...")
        resolved = Asked(
            conf=asked.conf,
            overrides=asked.overrides,
            arms=asked.arms,
            bases=asked.bases,
            seeds=asked.seeds or [0],
            compare=asked.compare,
        )
    else:
        resolved = _with_plan(asked, plan)
    assert resolved.arms is not None
    for pair in resolved.compare:
        for arm in split_pair(pair):
            if arm not in resolved.arms:
                raise UserError(f"compare={pair}: {arm} is none of arms={','.join(resolved.arms)}")
    return resolved


def _with_plan(asked: Asked, plan: Plan) -> Asked:
    arms = plan.arms if asked.arms is None else list(asked.arms)
    if arms[: len(plan.arms)] != plan.arms:
        raise UserError(
            f"arms={','.join(arms)}, but the study's plan has {','.join(plan.arms)}: a plan may "
            "grow, not change; name its arms first, in its order, or leave arms= out"
        )
    bases = plan.bases if asked.bases is None else list(asked.bases)
    gone = [base for base in plan.bases if base not in bases]
    if gone:
        raise UserError(
            f"bases={_text(bases)} leaves out base {gone[0]} of the study's plan: a plan may grow, "
            "not change; name all its bases, or leave bases= out"
        )
    seeds = plan.seeds if asked.seeds is None else list(asked.seeds)
    if seeds != plan.seeds:
        raise UserError(
            f"seeds={_text(seeds)}, but the study's plan has {_text(plan.seeds)}, which cannot be "
            "changed after the start; leave seeds= out, or begin another study"
        )
    kept = [] if asked.conf else plan.overrides
    return Asked(
        conf=asked.conf or plan.conf,
        overrides=[*kept, *asked.overrides],
        arms=arms,
        bases=bases,
        seeds=seeds,
        compare=asked.compare,
    )


def extend(
    plan: Plan | None,
    asked: Asked,
    configs: Mapping[str, Config],
    count_finished: Callable[[], int],
) -> Plan:
    """Return the plan with what is asked for beside it; the plan itself where nothing is new.

    `asked` is what `resolve` returns, `configs` has the configuration of each of its arms, and
    `count_finished` says how many runs of the plan are finished. Raises UserError where an arm of
    the plan would compute something else.
    """
    assert asked.conf and asked.arms and asked.bases and asked.seeds
    found = {arm: settings(config) for arm, config in configs.items()}
    first = found[asked.arms[0]]
    if plan is not None:
        _check_same_settings(plan, found)
    before = {} if plan is None else plan.settings
    arms = [arm for arm in asked.arms if arm not in before]
    bases = [base for base in asked.bases if plan is None or base not in plan.bases]
    _check_new_arms(arms, found)
    compare = _new_pairs(plan, asked.compare)
    if plan is not None and not (arms or bases or compare):
        return plan
    added = Entry(
        time=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        program=program(),
        finished_runs=count_finished(),
        arms=arms,
        bases=bases,
        compare=compare,
    )
    of_new = {
        arm: first if arm == asked.arms[0] else _difference(found[arm], first) for arm in arms
    }
    return Plan(
        format=_FORMAT,
        conf=asked.conf if plan is None else plan.conf,
        overrides=list(asked.overrides) if plan is None else plan.overrides,
        seeds=list(asked.seeds),
        primary=PRIMARY,
        tests=TESTS,
        entries=[*([] if plan is None else plan.entries), added],
        settings={**before, **of_new},
    )


def split_pair(pair: str) -> tuple[str, str]:
    """Return the arms of `A:B`. Raises UserError for another text."""
    left, separator, right = pair.partition(":")
    if not (separator and left and right) or left == right or ":" in right:
        raise UserError(f"compare={pair} is not of the form A:B, two arms")
    return left, right


def program() -> str:
    """Return the version of this program, and its commit where it runs from a checkout."""
    try:
        found = version("rzero_ray")
    except PackageNotFoundError:
        found = "not installed"
    place = Path(__file__).resolve().parents[2]
    if not (place / ".git").exists():
        return found
    command = ["git", "-C", str(place), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return found
    return f"{found}, commit {told.stdout.strip()}"


def _new_pairs(plan: Plan | None, pairs: Sequence[str]) -> list[str]:
    """Return the pairs that the plan does not have, in either order, each once."""
    planned = set() if plan is None else {frozenset((c.left, c.right)) for c in plan.comparisons()}
    new: list[str] = []
    for pair in pairs:
        arms = frozenset(split_pair(pair))
        if arms not in planned:
            new.append(pair)
            planned.add(arms)
    return new


def _check_same_settings(plan: Plan, found: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse to go on with arms that are no longer what was planned."""
    first = plan.arms[0]
    defaults = settings(Config())
    for arm in plan.arms:
        planned = {**defaults, **plan.settings[first], **plan.settings[arm]}
        changed = _difference(found[arm], planned)
        if changed:
            key = min(changed)
            raise UserError(
                f"arm {arm} was planned with {key}={planned.get(key)}, and this command has "
                f"{changed[key]}: a plan may grow, not change; set it back, or begin another study"
            )


def _check_new_arms(arms: Sequence[str], found: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse to run the same thing twice under two names, such as `a+b` and `b+a`."""
    for (one, of_one), (other, of_other) in combinations(found.items(), 2):
        if of_one == of_other and other in arms:
            raise UserError(f"arms {one} and {other} compute the same; leave one of them out")


def _difference(found: Mapping[str, Any], first: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if first.get(key) != value}


def _text(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))
