"""The runs that are shown side by side, and which ones are refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rzero_ray.config.config import Config
from rzero_ray.run.directory import has_begun, load_stored_config
from rzero_ray.run.rows import Row
from rzero_ray.run.stored import StoredRun
from rzero_ray.types import UserError

LETTERS = "ABCDEFGH"
"""What the runs are called on the page: names may be long, or the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRun:
    """A run as the comparison shows it."""

    letter: str
    config: Config
    root: Path
    metrics: list[Row]
    """The lines of its finished steps."""
    evaluations: dict[int, Row]
    """By finished iteration, the Solver on held-out problems; 0 is the base model."""

    @property
    def name(self) -> str:
        """Return what the run is called beside others: its folder's name, as in trackers."""
        return self.root.name

    @property
    def mean_at_k(self) -> str:
        """Return the name of the mean over sampled answers in an evaluation."""
        return f"mean@{self.config.eval.num_samples}"

    @property
    def maj_at_k(self) -> str:
        """Return the name of the majority's accuracy in an evaluation."""
        return f"maj@{self.config.eval.num_samples}"


def open_runs(root: Path, others: Sequence[Path]) -> list[ComparedRun]:
    """Read the run in `root` and those that are shown beside it, in this order.

    Raises UserError in one line for what cannot be compared: a folder that is no run, the same run
    twice, more runs than `LETTERS`, a run without an evaluation; and for a damaged file.
    """
    if len(others) >= len(LETTERS):
        raise UserError(f"compare= names {len(others)} runs; {len(LETTERS) - 1} have room")
    _check_each_once([root, *others])
    return [
        _open(letter, folder, "compare" if number else "run_dir")
        for number, (letter, folder) in enumerate(zip(LETTERS, [root, *others], strict=False))
    ]


def _check_each_once(folders: Sequence[Path]) -> None:
    seen: dict[Path, Path] = {}
    for folder in folders:
        place = folder.resolve()
        if place in seen:
            raise UserError(f"compare={folder} is the run {seen[place]} again; name another one")
        seen[place] = folder


def _open(letter: str, root: Path, key: str) -> ComparedRun:
    if not has_begun(root):
        raise UserError(f"{key}={root} is no run directory: it has no manifest.json")
    config = load_stored_config(root)
    run = StoredRun(config, root, Path(config.model.path))
    evaluations = {row["iteration"]: row for row in run.evaluations() if row.get("num_problems", 1)}
    if not evaluations:
        raise UserError(
            f"{key}={root} has no evaluation on held-out problems: there is nothing to compare"
        )
    return ComparedRun(
        letter=letter, config=config, root=root, metrics=run.metrics(), evaluations=evaluations
    )
