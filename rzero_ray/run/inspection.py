"""Looks through the files of a run that is taken up, before anything is started or written.

A run reads what it has stored for hours after its start: a file that is damaged is better known at
once.
"""

from __future__ import annotations

import fnmatch
import os
from pathlib import Path

from rzero_ray.config.config import Config
from rzero_ray.config.roles import ROLES
from rzero_ray.disk.files import damaged
from rzero_ray.disk.folder import check_no_folders
from rzero_ray.run.parquet import num_records
from rzero_ray.run.parts import PARTS
from rzero_ray.run.stored import StoredRun, by_number
from rzero_ray.run.trace import TRACE_FILE
from rzero_ray.tasks.base_model import check_model_files, find_model
from rzero_ray.types import (
    Attempt,
    AuditedLabel,
    BaseScore,
    Candidate,
    ChallengerSample,
    CurriculumItem,
    LabelledProblem,
    SolverSample,
    Standing,
    iteration_key,
)

_REPLACED = ("config.yaml", "manifest.json", "summary.json", "report.html", "comparison.html")
_APPENDED = ("metrics.jsonl", "events.jsonl", TRACE_FILE)
_FOLDERS = ("models", "checkpoints", "tensorboard")
_KINDS: dict[str, type] = {
    "labelled.parquet": LabelledProblem,
    "iteration-*/curriculum.parquet": CurriculumItem,
    "iteration-*/base-logprobs.parquet": BaseScore,
    "iteration-*/standing.parquet": Standing,
    "iteration-*/audit-*.parquet": AuditedLabel,
    "iteration-*/curriculum/step-*/candidates.parquet": Candidate,
    "iteration-*/challenger/step-*/rollouts.parquet": ChallengerSample,
    "iteration-*/solver/step-*/rollouts.parquet": SolverSample,
    f"iteration-*/*/step-*/{PARTS}/part-*.parquet": Attempt,
}
"""What a run may read again; it reads nothing of the answers to held-out problems."""


def check_files(config: Config, root: Path) -> list[str]:
    """Return what is to be said of the files of the run in `root`, such as lines that are lost.

    Raises UserError, in one line, for a file that the run will read and that is damaged, and for a
    place in which it cannot write. Nothing is read of a run that has not begun.
    """
    if not os.path.lexists(root / "manifest.json"):
        return []
    run = StoredRun(config, root, find_model(config.model) or Path(config.model.path))
    check_places(root)
    run.log.events()
    lost = lost_rows(run)
    run.evaluations()
    for pattern, record_type in _KINDS.items():
        for path in _files(root, pattern):
            num_records(path, record_type)
    _check_candidates(run)
    _check_policies(run)
    return lost


def lost_rows(run: StoredRun) -> list[str]:
    """Return a line for the user where figures of what is finished are gone."""
    lines = []
    keys = run.steps_without_row()
    if keys:
        lines.append(
            f"{run.root / 'metrics.jsonl'} has lost the lines of {len(keys)} finished steps, the "
            f"first of {keys[0]}; the report goes without them"
        )
    told = {iteration_key(row["iteration"]) for row in run.evaluations()}
    for iteration in range(run.manifest.num_evaluated()):
        path = run.root / iteration_key(iteration) / "evaluation.json"
        if iteration_key(iteration) not in told:
            lines.append(f"{path} is gone; the report goes without it")
    return lines


def check_places(root: Path) -> None:
    """Refuse a file where a folder belongs, a folder where a file does, and logs that are links or
    pipes."""
    check_no_folders(root, _REPLACED)
    for name in _APPENDED:
        path = root / name
        if path.is_symlink():
            raise damaged(path, "it is a link", "put the file itself there")
        if path.exists() and not path.is_file():  # to open a pipe is to wait for its reader
            raise damaged(path, "it is no file", "move it away")
    folders = [root / name for name in _FOLDERS]
    for folder in [*folders, *by_number(root, "iteration-*")]:
        if os.path.lexists(folder) and not folder.is_dir():
            raise damaged(folder, "it is no folder")


def _files(root: Path, pattern: str) -> list[Path]:
    """Return what lies under a pattern, links to nothing as well, which `glob` passes over."""
    place, _, name = pattern.rpartition("/")
    folders = sorted(root.glob(place)) if place else [root]
    return [
        folder / found
        for folder in folders
        if folder.is_dir()
        for found in fnmatch.filter(sorted(os.listdir(folder)), name)
    ]


def _check_candidates(run: StoredRun) -> None:
    """Refuse to go on without candidates of finished steps: a curriculum is made of all of them,
    and the first one is what later ones are compared with."""
    for step in run.manifest.steps("curriculum"):
        is_open = iteration_key(step.iteration) not in run.manifest
        path = run.root / step.key / "candidates.parquet"
        if (is_open or step.iteration == 1) and not os.path.lexists(path):
            raise damaged(path, "it is missing")


def _check_policies(run: StoredRun) -> None:
    """Check the models that the next phases start from, and the checkpoint of the open phase."""
    for role in ROLES:
        model = run.current_model(role.name)
        if model != run.base_model:
            check_model_files(model)
    if run.voter() not in (run.base_model, run.current_model("solver")):
        check_model_files(run.voter())
    saved = run.manifest.checkpoint
    if saved is None or saved.rpartition("/")[0] in run.manifest:
        return
    folder = run.root / "checkpoints" / saved
    if not folder.is_dir():
        raise damaged(folder, "it is missing though manifest.json names it")
