"""Which folder may hold a run: what is refused before anything is written, and how it is taken up.

A run directory goes on under the configuration with which it began. What the program has learned
since is not held against it: a key that was added takes its default, which is what the program did
before the key existed; a preset that says something else now counts as it was then; a key that was
renamed is found under its new name (`config.renames`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from rzero_ray.config.checks import check_config
from rzero_ray.config.config import Config, to_yaml
from rzero_ray.config.load import Begun
from rzero_ray.config.renames import RENAMED_KEYS, spelled_out
from rzero_ray.config.sources import build, flatten, nearest, read_arguments
from rzero_ray.disk.files import damaged, read_text, read_yaml, write_text_durably
from rzero_ray.disk.folder import GIB, check_folder, held
from rzero_ray.run.manifest import Manifest
from rzero_ray.run.retention import DiskPlan, bytes_to_come
from rzero_ray.types import UserError, iteration_key

_KEY = "run_dir"
_MIN_FREE_BYTES = GIB
"""With less free space a run is not started: rollouts and logs need some beside the models."""
_MAY_CHANGE = (
    "name",
    "run_dir",
    "storage_path",
    "num_iterations",
    "max_hours",
    "max_tokens",
    "model.cache_dir",
    "layout",
    "sampler.",
    "reward.",
    "learner.num_ranks",
    "learner.cpus_per_rank",
    "learner.threads_per_rank",
    "learner.memory_gib_per_rank",
    "checkpoint.",
    "deadline.",
    "recovery.",
    "metrics.",
    "trackers.",
    "weights.",
    "audit.",
    "drift.",
)
"""Keys (or sections) that may differ when a run is resumed: they do not change what it computes."""

_FOLDERS_THAT_MAY_MOVE = ("curriculum.questions_of",)
"""Keys that name another run's directory: a study that was moved has it elsewhere. A run that names
none cannot begin to."""

_BEFORE_IT_WAS_A_KEY = {"checkpoint.keep_models.every": 1}
"""What the program did before a key existed, where that is not the key's default: a run that began
then loses no model by it."""


def check_run_dir(config: Config, root: Path) -> None:
    """Raise UserError unless `root` is new or can be resumed with `config`. Writes nothing.

    Refused: a run of another configuration, a manifest that cannot be read, a folder that holds
    something else.
    """
    check_folder(root, _KEY, lambda names: _is_run(config, root, names))
    if has_begun(root):
        Manifest.read(root / "manifest.json")
        _check_same_config(config, root)


def is_complete(config: Config, root: Path) -> bool:
    """Return whether the run that `check_run_dir` accepted has all its iterations."""
    if not has_begun(root):
        return False
    manifest = Manifest.read(root / "manifest.json")
    return all(iteration_key(i) in manifest for i in range(config.num_iterations + 1))


@contextmanager
def hold_run_dir(config: Config, root: Path, disk: DiskPlan | None = None) -> Iterator[None]:
    """Take a run directory that `check_run_dir` accepts, for one driver (`folder.held`).

    `disk` is what the run will have on its disk, where that is known; there must be room for it.
    """
    check_run_dir(config, root)
    room = _MIN_FREE_BYTES + (0 if disk is None else bytes_to_come(disk, root))
    what = "" if disk is None else f" for {disk}, what is there counted"
    with held(root, _KEY, room, what=what):
        check_run_dir(config, root)  # another driver may have been at work until just before
        yield


def prepare_run_dir(config: Config, root: Path) -> None:
    """Write what a run begins with, unless it has begun."""
    if not has_begun(root):
        write_text_durably(root / "config.yaml", to_yaml(config))
        Manifest(root / "manifest.json").write()


def load_stored_config(root: Path, overrides: Sequence[tuple[str, str]] = ()) -> Config:
    """Return the configuration of the run in `root`, with `key.path`, `value` pairs laid over it.

    Raises UserError where `root` is no run directory, or its configuration has a key that is gone.
    """
    if not os.path.lexists(root / "config.yaml"):
        raise UserError(f"run_dir={root} is no run directory: it has no config.yaml")
    known = flatten(asdict(Config()))
    tree = OmegaConf.create()
    for key, value in _read_stored(root, known).items():
        if key in known:
            OmegaConf.update(tree, key, value)
    try:
        check_config(build(Config, tree))
    except UserError as error:
        raise damaged(root / "config.yaml", str(error)) from None
    config = build(Config, tree, read_arguments(overrides, Config))
    check_config(config)
    return config


def how_it_began(root: Path) -> Begun | None:
    """Return with what the run in `root` began, for `load_config`; None for a new run."""
    if not has_begun(root):
        return None
    known = flatten(asdict(Config()))
    stored = _read_stored(root, known)
    lasting = {key: value for key, value in known.items() if not key.startswith(_MAY_CHANGE)}
    before = {**lasting, **_BEFORE_IT_WAS_A_KEY}
    return Begun(
        stored={key: value for key, value in stored.items() if key in lasting},
        added={key: default for key, default in before.items() if key not in stored},
    )


def _is_run(config: Config, root: Path, names: Set[str]) -> bool:
    """Return whether a folder's files are of a run, or what its start left when it was killed."""
    if "manifest.json" in names:
        return True
    if "metrics.jsonl" in names:
        raise damaged(
            root / "manifest.json",
            "it is missing though the run has begun",
            "restore it from a copy or choose another run_dir",
        )
    return names == {"config.yaml"} and read_text(root / "config.yaml") == to_yaml(config)


def check_source(config: Config) -> None:
    """Raise UserError where a run shall take the questions of a folder that holds no run."""
    source = config.curriculum.questions_of
    if source and not has_begun(Path(source).expanduser()):
        raise UserError(
            f"curriculum.questions_of={source} is no run directory: it has no manifest.json; name "
            "that of a finished run (rzero study makes both runs, where ablation=yoked is an arm)"
        )


def has_begun(root: Path) -> bool:
    """Return whether a folder holds a run, whole or damaged."""
    return os.path.lexists(root / "manifest.json")


def _check_same_config(config: Config, root: Path) -> None:
    known = flatten(asdict(Config()))
    stored = _read_stored(root, known)
    for key, value in flatten(asdict(config)).items():
        before = stored.get(key, known[key])
        if before == value or key.startswith(_MAY_CHANGE):
            continue
        if key in _FOLDERS_THAT_MAY_MOVE and before and value:
            continue
        if key in stored:
            raise UserError(
                f"run_dir={root} was made by another config: {key} was {before}, now {value}; "
                f"choose another run_dir, or set {key}={before} to resume"
            )
        raise UserError(
            f"run_dir={root} began before {key} existed and goes on with {key}={before}, not "
            f"{value}; leave the key out to resume, or choose another run_dir"
        )


def _read_stored(root: Path, known: Mapping[str, Any]) -> dict[str, Any]:
    """Return {key: value} of a run's `config.yaml`, under the names that keys have now."""
    stored = flatten(read_yaml(root / "config.yaml"))
    stored = spelled_out({RENAMED_KEYS.get(key, key): value for key, value in stored.items()})
    gone = [key for key in stored if key not in known and not key.startswith(_MAY_CHANGE)]
    if gone:
        raise UserError(
            f"run_dir={root} was made with {gone[0]}, a key that this program does not "
            f"have{nearest(gone[0], list(known))}; resume it with the program that made "
            "it, or choose another run_dir"
        )
    empty = [key for key, value in stored.items() if value is None]
    if empty:
        raise damaged(root / "config.yaml", f"{empty[0]} has no value")
    return stored
