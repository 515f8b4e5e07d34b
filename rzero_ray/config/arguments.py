"""The keys of their own that the commands audit, compare, report and study have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Literal, TypeVar

from rzero_ray.config.rules import (
    a_path,
    check_rules,
    count,
    line,
    optional_numbers,
    optional_path,
    whole_numbers,
)
from rzero_ray.config.sources import build, read_arguments
from rzero_ray.types import UserError

A = TypeVar("A")


@dataclass(frozen=True)
class ReportArguments:
    """What `report` is told."""

    run_dir: Annotated[str, a_path()] = ""
    """The run directory."""
    compare: Annotated[str, line()] = ""
    """Other run directories with commas between, to be shown beside this one."""
    serve: bool = False
    """Serve a browser of the run's questions on this machine, and write nothing."""
    port: Annotated[int, count(0, 65_535)] = 0
    """Where it is served; 0 is any free port."""


@dataclass(frozen=True)
class ScaleArguments:
    """What `scale` is told beside the roles and their numbers."""

    run_dir: Annotated[str, a_path()] = ""
    """The run directory, as the driver prints it at its start."""


@dataclass(frozen=True)
class AuditArguments:
    """What `audit` is told beside the keys of the run's section `audit`."""

    run_dir: Annotated[str, a_path()] = ""
    """The run directory."""
    iteration: Annotated[int, count(0)] = 0
    """The iteration whose labels are judged; 0 is all of them."""


@dataclass(frozen=True)
class CompareArguments:
    """What `compare` is told beside the keys of a run."""

    seeds: Annotated[str, whole_numbers()] = "0"
    """One comparison for each of them, with commas between."""
    root: Annotated[str, optional_path()] = ""
    """Where the run directories are; empty stands for `runs/compare-NAME`."""
    method: Literal["labelled_grpo", "labelled_sft"] = "labelled_grpo"
    """How the labelled data is taught."""


@dataclass(frozen=True)
class StudyArguments:
    """What `study` is told beside the keys of a run; a study that has begun knows most of it."""

    folder: Annotated[str, optional_path()] = ""
    """The folder of the study."""
    arms: Annotated[str, line()] = ""
    """The arms with commas between, the one that all others are compared with first."""
    bases: Annotated[str, optional_numbers()] = ""
    """The seeds of the base models: `0,1,2` or `0..9`."""
    seeds: Annotated[str, optional_numbers()] = ""
    """The seeds of the runs on each base model."""
    compare: Annotated[str, line()] = ""
    """Further comparisons, with commas between: `A:B` is arm A minus arm B."""
    workers: Annotated[int, count(1, 64)] = 1
    """How many runs go on at once, each on actors of its own."""
    report: bool = False
    """Write the tables of what is finished, and run nothing."""
    gate: Annotated[str, line()] = ""
    """The conf whose base models are measured, in place of a study."""


def load_own(
    schema: type[A], given: Sequence[tuple[str, str]], usage: str
) -> tuple[A, list[tuple[str, str]]]:
    """Return a command's own keys, checked, and the (key, value) pairs that are not its own.

    Raises UserError for a value that its key does not allow; one that is missing gets `usage`.
    """
    names = {item.name: item.default for item in fields(schema)}  # type: ignore[arg-type]
    own = [(key, value) for key, value in given if key in names]
    if names.get("run_dir") == "" and not dict(own).get("run_dir"):
        raise UserError(f"run_dir=... is missing; usage: {usage}")
    loaded = build(schema, read_arguments(own, schema))
    check_rules(loaded)
    return loaded, [(key, value) for key, value in given if key not in names]
