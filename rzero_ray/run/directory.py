"""Which folder may hold a run: what is refused before anything is written, and how it is taken up.

A run directory goes on under the configuration with which it began. What the program has learned
since is not held against it: a key that was added takes its default, which is what the program did
before the key existed; a preset that says something else now counts as it was then; a key that was
renamed is found under its new name (`config.renames`).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from omegaconf import OmegaConf

from rzero_ray.config.checks import check_config
from rzero_ray.config.config import Config, to_yaml
from rzero_ray.config.load import Begun
from rzero_ray.config.renames import RENAMED_KEYS
from rzero_ray.config.sources import build, flatten, nearest, read_arguments
from rzero_ray.run.manifest import Manifest
from rzero_ray.run.parquet import write_text_durably
from rzero_ray.types import UserError, iteration_key

_MIN_FREE_BYTES = 1 << 30
"""With less free space a run is not started: it would die in the middle of a write."""
_MAY_CHANGE = (
    "name",
    "run_dir",
    "num_iterations",
    "max_hours",
    "max_tokens",
    "model.cache_dir",
    "layout",
    "sampler.",
    "reward.",
    "learner.cpus_per_rank",
    "learner.threads_per_rank",
    "checkpoint.",
    "deadline.",
    "weights.",
    "audit.",
    "drift.",
)
"""Keys (or sections) that may differ when a run is resumed: they do not change what it computes."""


def check_run_dir(config: Config, root: Path) -> None:
    """Raise UserError unless `root` is new or can be resumed with `config`. Writes nothing.

    Refused: a run of another configuration, a manifest that cannot be read, a folder that holds
    something else.
    """
    manifest = root / "manifest.json"
    if manifest.exists():
        Manifest.read(manifest)
        _check_same_config(config, root)
    elif root.exists():
        _check_unused(root)


def is_complete(config: Config, root: Path) -> bool:
    """Return whether the run that `check_run_dir` accepted has all its iterations."""
    path = root / "manifest.json"
    if not path.exists():
        return False
    manifest = Manifest.read(path)
    return all(iteration_key(i) in manifest for i in range(config.num_iterations + 1))


def prepare_run_dir(config: Config, root: Path) -> FileLock:
    """Create the run directory, or take up one that `check_run_dir` accepts; lock it.

    Raises UserError when another driver holds it, when it cannot be written or the disk is full.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(root).free
        if free < _MIN_FREE_BYTES:
            raise UserError(
                f"run_dir={root}: {free / 2**30:.1f} GiB free on its disk, needs at least "
                f"{_MIN_FREE_BYTES / 2**30:.0f}; free some space or choose another run_dir"
            )
        lock = FileLock(root / ".lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"run_dir={root} is in use by another driver; wait for it or choose another run_dir"
        ) from None
    except OSError as error:
        raise UserError(
            f"run_dir={root} cannot be written ({error.strerror}); choose another run_dir"
        ) from None
    check_run_dir(config, root)
    if not (root / "manifest.json").exists():
        write_text_durably(root / "config.yaml", to_yaml(config))
        Manifest(root / "manifest.json").write()
    return lock


def load_stored_config(root: Path, overrides: Sequence[tuple[str, str]] = ()) -> Config:
    """Return the configuration of the run in `root`, with `key.path`, `value` pairs laid over it.

    Raises UserError where `root` is no run directory, or its configuration has a key that is gone.
    """
    if not (root / "config.yaml").is_file():
        raise UserError(f"run_dir={root} is no run directory: it has no config.yaml")
    known = flatten(asdict(Config()))
    tree = OmegaConf.create()
    for key, value in _read_stored(root, known).items():
        if key in known:
            OmegaConf.update(tree, key, value)
    config = build(Config, tree, read_arguments(overrides, Config))
    check_config(config)
    return config


def how_it_began(root: Path) -> Begun | None:
    """Return with what the run in `root` began, for `load_config`; None for a new run."""
    if not (root / "manifest.json").exists():
        return None
    known = flatten(asdict(Config()))
    stored = _read_stored(root, known)
    lasting = {key: value for key, value in known.items() if not key.startswith(_MAY_CHANGE)}
    return Begun(
        stored={key: value for key, value in stored.items() if key in lasting},
        added={key: default for key, default in lasting.items() if key not in stored},
    )


def _check_unused(root: Path) -> None:
    """Refuse a folder that holds anything but what a start that was killed at once leaves."""
    if not root.is_dir():
        raise UserError(f"run_dir={root} is not a folder; choose another run_dir")
    names = {path.name.removesuffix(".partial").lstrip(".") for path in root.iterdir()}
    if "metrics.jsonl" in names:
        raise UserError(
            f"{root}/manifest.json is missing though the run has begun; restore it from a copy or "
            "choose another run_dir"
        )
    others = names - {"lock", "config.yaml", "manifest.json"}
    if others:
        raise UserError(
            f"run_dir={root} holds other files ({min(others)}); choose a new or empty folder"
        )


def _check_same_config(config: Config, root: Path) -> None:
    known = flatten(asdict(Config()))
    stored = _read_stored(root, known)
    for key, value in flatten(asdict(config)).items():
        before = stored.get(key, known[key])
        if before == value or key.startswith(_MAY_CHANGE):
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
    path = root / "config.yaml"
    try:
        stored = flatten(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}); restore it or choose another run_dir"
        ) from None
    stored = {RENAMED_KEYS.get(key, key): value for key, value in stored.items()}
    gone = [key for key in stored if key not in known and not key.startswith(_MAY_CHANGE)]
    if gone:
        raise UserError(
            f"run_dir={root} was made with {gone[0]}={stored[gone[0]]}, a key that this program "
            f"does not have{nearest(gone[0], list(known))}; resume it with the program that made "
            "it, or choose another run_dir"
        )
    return stored
