"""An arm's name, and the configuration of its runs.

An arm is a variant of the method: `plain`, the experiment as its conf has it, or names of files
that are laid over it, with `+` between: `frozen_challenger+ground_truth_labels`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rzero_ray.config.config import Config
from rzero_ray.config.layout import is_fixed_at_start
from rzero_ray.config.load import load_config
from rzero_ray.config.sources import conf_names, flatten, nearest
from rzero_ray.types import UserError

PLAIN = "plain"
"""The arm on which nothing is laid."""
_KINDS = ("recipe", "ablation")
"""The folders of `conf/` whose files make arms, each the key that names such files too."""
_OF_THE_RUN = ("seed", "run_dir", "name", "model.base_seed", *_KINDS)
"""The keys that a study sets for each run."""


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Which run of a study: its arm, the seed of its base model, and its own."""

    arm: str
    base: int
    seed: int

    def __str__(self) -> str:
        return f"{self.arm} base {self.base} seed {self.seed}"

    @property
    def name(self) -> str:
        """What the run is called beside others, of its study and elsewhere."""
        return f"{self.arm}-base-{self.base}-seed-{self.seed}"

    def folder(self, root: Path) -> Path:
        """Return the run directory in the study's folder `root`."""
        return root / "runs" / self.name


def load_arm(arm: str, conf: str, overrides: Sequence[str]) -> Config:
    """Return the configuration of an arm, whatever the base model and the seed.

    Raises UserError, in one line, for a name that is no file's, and as `load_config` does.
    """
    for override in overrides:
        key = override.partition("=")[0]
        if key in _OF_THE_RUN:
            raise UserError(f"{key}=...: each run of a study has its own; use arms, bases, seeds")
    config = load_config([f"conf={conf}", *_overlays(arm), *overrides])
    if config.storage_path:
        raise UserError("storage_path: the runs of a study are not copied; leave it out")
    return config


def run_config(arm: Config, place: Place, root: Path) -> Config:
    """Return the configuration of one run of an arm in the study's folder `root`."""
    return replace(
        arm,
        name=place.name,
        curriculum=replace(arm.curriculum, questions_of=_source(arm, place, root)),
        seed=place.seed,
        run_dir=str(place.folder(root)),
        model=replace(arm.model, base_seed=place.base),
    )


def _source(arm: Config, place: Place, root: Path) -> str:
    """Return the run directory whose questions a run takes: that of the arm which
    `curriculum.questions_of` names, with the same seeds; nothing where it names none."""
    name = arm.curriculum.questions_of
    return str(replace(place, arm=name).folder(root)) if name else ""


def _overlays(arm: str) -> list[str]:
    """Return the arguments that lay an arm's files over the experiment."""
    known = {name: kind for kind in reversed(_KINDS) for name in conf_names(kind)}
    by_kind: dict[str, list[str]] = {}
    names = arm.split("+") if arm != PLAIN else []
    if PLAIN in names or "" in names or len(set(names)) < len(names):
        raise UserError(
            f"arm {arm}: between + stand different names of files of conf/recipe/ and "
            f"conf/ablation/; {PLAIN} stands alone"
        )
    for name in names:
        if name not in known:
            inside = "" if name == arm else f" in arm {arm}"
            raise UserError(f"unknown arm {name}{inside}{nearest(name, [PLAIN, *known])}")
        by_kind.setdefault(known[name], []).append(name)
    return [f"{kind}={','.join(names)}" for kind, names in by_kind.items()]


def check_sources(arms: Mapping[str, Config]) -> None:
    """Raise UserError where an arm takes the questions of one that is not among the arms, or that
    takes them from another one itself."""
    for name, config in arms.items():
        source = config.curriculum.questions_of
        if source and source not in arms:
            raise UserError(
                f"arm {name} takes the questions of arm {source} (curriculum.questions_of), which "
                f"is none of arms={','.join(arms)}; add it"
            )
        if source and arms[source].curriculum.questions_of:
            raise UserError(
                f"arm {name} takes the questions of arm {source}, which poses none of its own; "
                "set curriculum.questions_of to an arm that does"
            )


def settings(config: Config) -> dict[str, Any]:
    """Return what a configuration says of how an arm computes, as {key path: value}."""
    return {
        key: value
        for key, value in flatten(asdict(config)).items()
        if key not in _OF_THE_RUN and not key.startswith(_WHERE_IT_RUNS)
    }


_WHERE_IT_RUNS = (
    "max_hours",
    "max_tokens",
    "layout",
    "sampler.",
    "reward.",
    "learner.cpus_per_rank",
    "learner.threads_per_rank",
    "learner.memory_gib_per_rank",
    "model.cache_dir",
    "checkpoint.",
    "deadline.",
    "weights.",
)
"""Keys (or sections) that change nothing that is computed."""


def check_same_actors(arms: Mapping[str, Config]) -> None:
    """Raise UserError unless the same actors can serve all arms, one run after the other."""
    (first, config), *others = arms.items()
    expected = flatten(asdict(config))
    for name, other in others:
        for key, value in flatten(asdict(other)).items():
            if is_fixed_at_start(key) and value != expected[key]:
                raise UserError(
                    f"arms {first} and {name} cannot share their actors, which are started with "
                    f"{key}: it is {expected[key]} and {value}; study them apart"
                )
