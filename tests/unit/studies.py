"""Small studies for tests: runs are made by the program's own loop, on in-memory fakes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rzero_ray.config.config import Config, resolve_run_dir
from rzero_ray.driver import coevolve
from rzero_ray.protocols import Cast
from rzero_ray.run.clock import StageClock
from rzero_ray.run.directory import hold_run_dir, prepare_run_dir
from rzero_ray.run.run import Run
from rzero_ray.study.arms import Place, load_arm, run_config
from tests.unit.fakes import FakeJudge, FakePolicy, SilentObserver
from tests.unit.test_coevolution import SmallTask

OVERRIDES = (
    "num_iterations=2",
    "challenger.num_steps=1",
    "challenger.num_prompts=6",
    "challenger.prompts_per_update=6",
    "curriculum.num_candidates=20",
    "curriculum.candidates_per_step=20",
    "solver.num_steps=2",
    "solver.num_prompts=2",
    "solver.prompts_per_update=2",
    "solver.samples_per_prompt=2",
    "eval.num_samples=2",
    "drift.num_sequences=0",
)
BASE = Path("/base")


def study_configs(
    root: Path, arms: Sequence[str], bases: Sequence[int], seeds: Sequence[int] = (0,)
) -> dict[Place, Config]:
    """Return the configuration of each run of a study in `root`."""
    loaded = {arm: load_arm(arm, "tiny", OVERRIDES) for arm in arms}
    places = [Place(arm, base, seed) for seed in seeds for base in bases for arm in arms]
    return {place: run_config(loaded[place.arm], place, root) for place in places}


def make_runs(
    configs: Mapping[Place, Config], skill: Callable[[Place], float] = lambda place: 0.6
) -> None:
    """Make runs whose Solver answers rightly with the probability `skill`, seed and base apart."""
    for place, config in configs.items():
        make_run(config, skill(place))


def make_run(config: Config, skill: float) -> None:
    """Make one run, or finish it."""
    root = resolve_run_dir(config)
    with hold_run_dir(config, root):
        prepare_run_dir(config, root)
        run = Run(config, root, BASE, StageClock(), SilentObserver())
        challenger, solver = FakePolicy("challenger"), FakePolicy("solver", skill)
        solver.borrows_from = challenger
        challenger.weights = run.stored.current_model("challenger")
        solver.weights = run.stored.current_model("solver")
        asyncio.run(coevolve(config, Cast(challenger, solver, FakeJudge(), SmallTask()), run))
        run.close()
