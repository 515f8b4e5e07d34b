"""The driver: `python -m rzero_ray.driver conf=tiny key.path=value ... [--dry-run]`.

One iteration, and who takes part in it:

    train_challenger   Challenger samples questions -> Solver votes -> rewards -> Challenger learns
    build_curriculum   Challenger samples candidates -> Solver votes -> kept: the consistency band
    verify_labels      a verifier, where one learns, says which labels it believes
    audit_labels       an oracle, where one is configured, says which labels are right
    train_solver       Solver answers kept questions -> graded by pseudo-label -> Solver learns
    average_solver     where an average of Solvers votes: it takes in the new one
    evaluate           Solver answers held-out problems
    monitor_drift      what has changed since the base model, and whether a person should look
    keep_or_go_back    where a signal without labels is watched: whether the new models stand

Exit codes: 0 done, 1 the run failed, 2 the command or the configuration is wrong, 3 the budget
(max_hours, max_tokens) is spent, 130 stopped.
"""

from __future__ import annotations

import asyncio
import atexit
import gc
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rzero_ray.config.command import run_command
from rzero_ray.config.config import Config, resolve_run_dir, to_yaml
from rzero_ray.config.layout import Layout, uses_gpus, wanted_gpus
from rzero_ray.config.load import load_config
from rzero_ray.config.roles import ROLES
from rzero_ray.config.showing import TrackersConfig
from rzero_ray.disk.files import DamagedFileError
from rzero_ray.disk.folder import free_space
from rzero_ray.disk.store import Store
from rzero_ray.evaluation.drift.monitor import monitor_drift
from rzero_ray.evaluation.endpoint import take_key
from rzero_ray.evaluation.heldout import evaluate
from rzero_ray.evaluation.labels.audit import audit_labels, check_oracle
from rzero_ray.evaluation.quality import evaluate_quality
from rzero_ray.phases.averaging import average_solver
from rzero_ray.phases.challenger import train_challenger
from rzero_ray.phases.curriculum import build_curriculum, with_replay
from rzero_ray.phases.judged import pose_requests, train_answerer, train_requester
from rzero_ray.phases.labelled import (
    LABELLED_KEY,
    LABELLED_METHODS,
    labelled_copy,
    labelled_texts,
    load_labelled,
)
from rzero_ray.phases.referee import teach_referee
from rzero_ray.phases.rollback import keep_or_go_back
from rzero_ray.phases.solver import train_solver
from rzero_ray.phases.verifier import verify_labels
from rzero_ray.protocols import Cast, Observer, Task
from rzero_ray.run.budget import check_budget
from rzero_ray.run.clock import StageClock
from rzero_ray.run.directory import (
    check_run_dir,
    check_source,
    has_begun,
    hold_run_dir,
    how_it_began,
    is_complete,
    prepare_run_dir,
)
from rzero_ray.run.display import Display, make_display
from rzero_ray.run.inspection import check_files
from rzero_ray.run.layouts import LayoutEstimate, compare_layouts, fastest_layout
from rzero_ray.run.mirror import Mirror, copied, open_store, take_from
from rzero_ray.run.observers import Observers
from rzero_ray.run.pace import Pace
from rzero_ray.run.plan import (
    PhasePlan,
    assumptions,
    kept_weights,
    plan_iteration,
    plan_memory,
    rank_bytes,
)
from rzero_ray.run.plan_tables import print_plan
from rzero_ray.run.recording import Recording, recorded
from rzero_ray.run.report.writing import write_report
from rzero_ray.run.retention import plan_disk
from rzero_ray.run.run import Run
from rzero_ray.run.shape import ModelShape, checked_shape, find_shape
from rzero_ray.run.stored import StoredRun
from rzero_ray.run.trackers import check_trackers
from rzero_ray.run.watchdog import watched
from rzero_ray.tasks.base_model import check_model_files, find_model, obtain_model
from rzero_ray.tasks.registry import check_task, make_task, open_task
from rzero_ray.text.characters import printable
from rzero_ray.types import (
    ActorChange,
    LabelledProblem,
    Role,
    RunError,
    ScaleChange,
    SyncReport,
    UserError,
    iteration_key,
)

if TYPE_CHECKING:  # it imports Ray
    from actors.cluster import Cluster

USAGE = "python -m rzero_ray.driver conf=NAME [key.path=value ...] [--dry-run]"


async def coevolve(config: Config, cast: Cast, run: Run) -> None:
    """R-Zero: Challenger and Solver train each other (paper, section 3, algorithm 1)."""
    await evaluate_base(config, cast, run)
    for iteration in run.iterations(config.num_iterations):
        await train_challenger(config, iteration, cast, run)
        items = await build_curriculum(config, iteration, cast, run)
        items = await verify_labels(config, iteration, cast, items, run)
        await audit_labels(config, iteration, cast, items, run)
        await train_solver(config, iteration, cast, with_replay(iteration, items, run), run)
        await average_solver(config, iteration, cast, run)
        accuracy = await evaluate(config, iteration, cast, run)
        await monitor_drift(config, iteration, cast, run)
        await keep_or_go_back(config, iteration, cast, run)
        run.finish_iteration(iteration, accuracy)


async def coevolve_judged(config: Config, cast: Cast, run: Run) -> None:
    """R-Zero where no exact answer exists: a referee compares answers, and learns, too (J-Zero)."""
    task = open_task(config.task)
    if not run.is_finished(iteration_key(0)):
        run.finish_iteration(0, await evaluate_quality(config, 0, cast, task, run))
    for iteration in run.iterations(config.num_iterations):
        await train_requester(config, iteration, cast, task, run)
        posed = await pose_requests(config, iteration, cast, task, run)
        await teach_referee(config, iteration, cast, task, posed, run)
        await train_answerer(config, iteration, cast, task, posed, run)
        quality = await evaluate_quality(config, iteration, cast, task, run)
        run.finish_iteration(iteration, quality)


async def learn_labelled(config: Config, cast: Cast, run: Run) -> None:
    """Teach the Solver labelled data, from any checkpoint (paper, Fig. 4)."""
    copy = labelled_copy(run.stored.root)
    if copy is not None:
        run.note(f"labelled problems come from {copy}, the run's copy: labelled.path is not read")
    problems = await run.once(LABELLED_KEY, LabelledProblem, partial(_labelled, config, cast.task))
    await evaluate_base(config, cast, run)
    for iteration in run.iterations(config.num_iterations):
        await LABELLED_METHODS[config.method](config, iteration, cast, problems, run)
        accuracy = await evaluate(config, iteration, cast, run)
        await monitor_drift(config, iteration, cast, run)
        run.finish_iteration(iteration, accuracy)


async def evaluate_base(config: Config, cast: Cast, run: Run) -> None:
    """Measure the model that the run starts from, by the same code as every later one."""
    if not run.is_finished(iteration_key(0)):
        run.finish_iteration(0, await evaluate(config, 0, cast, run))


METHODS = {
    "coevolution": coevolve,
    "judged": coevolve_judged,
    "labelled_grpo": learn_labelled,
    "labelled_sft": learn_labelled,
}
"""The loop of each value of `method`."""


async def _labelled(config: Config, task: Task) -> list[LabelledProblem]:
    return load_labelled(config, task)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run_command(
        arguments,
        lambda: f"usage: {USAGE}\n\n{__doc__}",
        check_and_run,
        "the same command resumes the run",
    )


def check_and_run(arguments: list[str]) -> None:
    """Make, resume or plan the run that the arguments describe. Raises what `run_command` tells."""
    given = [a for a in arguments if a != "--dry-run"]
    config = load_run(given)
    root = resolve_run_dir(config)
    is_dry = "--dry-run" in arguments
    store = None if is_dry else open_store(config, root)
    if store is not None and (num_files := take_from(store, root)):
        line = f"run directory {root} taken from {store.address}: {num_files} files"
        print(printable(line), flush=True)
        config = load_run(given)  # it goes on as it began
    check_task(config)
    check_trackers(config.trackers)
    check_source(config)
    if config.labelled.path and labelled_copy(root) is None:
        load_labelled(config, make_task(config.task))
    check_oracle(config)
    take_key(config.audit.endpoint.key_env)  # before Ray starts processes that would inherit it
    if is_dry:
        _dry_run(config)
    else:
        _run(config, store)


def load_run(arguments: list[str]) -> Config:
    """Read the configuration; a run that is resumed keeps the method with which it began."""
    config = load_config(arguments)
    root = resolve_run_dir(config)
    begun = how_it_began(root)
    if begun is None:
        return config
    try:
        return load_config(arguments, begun)
    except UserError as error:  # the arguments alone are in order
        raise UserError(
            f"{root / 'config.yaml'}, with which the run began, does not fit: {error}; restore it "
            "from a copy or choose another run_dir"
        ) from None


def _dry_run(config: Config) -> None:
    from actors import cluster  # imports Ray, which a mistyped key need not wait for

    print(to_yaml(config))
    shape = checked_shape(config, find_model(config.model))
    layout = _layout(config, shape)
    plan = plan_iteration(config, make_task(config.task))
    memory = []
    if shape is not None:
        memory = [*plan_memory(config, shape, layout), *kept_weights(config, shape, layout)]
    remarks = [layout.describe(), *assumptions(config, shape, plan, layout)]
    estimates = _estimates(config, shape, plan)
    needs = cluster.plan_resources(config, layout)
    print_plan(config, plan, memory, estimates, [*remarks, "", *needs])
    root = resolve_run_dir(config)
    check_run_dir(config, root)
    if shape is not None:
        print(f"disk: up to {plan_disk(config, shape)}, {free_space(root)} at {root}")


def _estimates(
    config: Config, shape: ModelShape | None, plan: Sequence[PhasePlan]
) -> list[LayoutEstimate]:
    """Return the layouts on the GPUs of the cluster, or, where there are none, on as many as the
    roles take on their own."""
    from actors.cluster import resources

    if shape is None or not uses_gpus(config):
        return []
    has = resources()
    return compare_layouts(
        config, shape, plan, has if has.get("GPU") else {"GPU": wanted_gpus(config)}
    )


def _run(config: Config, store: Store | None) -> None:
    """Check everything that can be checked, then start what costs time, then the loop."""
    root = resolve_run_dir(config)
    base_model = find_model(config.model)
    if base_model is not None:
        check_model_files(base_model)
    shape = checked_shape(config, base_model)
    with hold_run_dir(config, root, None if shape is None else plan_disk(config, shape)):
        lost = check_files(config, root)
        complete = is_complete(config, root)
        if not complete and has_begun(root):
            check_budget(config, StoredRun(config, root, base_model or Path(config.model.path)))
        joined = None if complete else join_cluster(config)
        prepare_run_dir(config, root)
        with make_display(config) as display:
            for text in lost:
                display.note(f"warning: {text}")
            wanted = config.trackers if joined is not None else TrackersConfig()
            with (
                recorded(config, root, wanted) as recording,
                copied(root, store, display.note) as mirror,
            ):
                _run_in(root, config, display, joined, mirror, recording)


def _run_in(
    root: Path,
    config: Config,
    display: Display,
    joined: tuple[str, Layout] | None,
    mirror: Mirror,
    recording: Recording,
) -> None:
    """Go through the loop in a run directory that is held; `joined` is None for a finished run."""
    display.note(f"run directory {root}")
    ablation = f", ablation {config.ablation}" if config.ablation else ""
    display.note(f"algorithm {config.algorithm}{ablation}")
    clock = recording.clock
    if joined is None:
        display.note("finished already: nothing to do; raise num_iterations to go on")
        base_model = find_model(config.model) or Path(config.model.path)
    else:
        address, layout = joined
        display.note(f"Ray at {address}")
        display.note(layout.describe())
        with clock.stage("base_model"):
            base_model = obtain_model(config.model)
            checked_shape(config, base_model)  # of a model that was not on this machine before
            if config.labelled.path:
                _check_labelled_texts(config, root, base_model)
    pace = Pace()
    shown = run_metrics(config, on_cluster=joined is not None)
    observers = Observers(display, pace, *recording.observers, *shown)
    run = Run(config, root, base_model, clock, observers, mirror)
    try:
        if joined is not None:
            address, layout = joined
            run.add_event("start", address=address, pid=os.getpid(), layout=layout.describe())
            asyncio.run(_run_on_cluster(config, layout, run, clock, pace))
            run.add_event("end")
        run.close()
    except BaseException as error:
        with suppress(OSError, UserError):  # the first reason is the one to be told
            write_report(run.stored)
        if isinstance(error, DamagedFileError):  # the run has written files since it looked
            raise RunError(str(error)) from None
        raise
    display.finish(*write_report(run.stored))


def run_metrics(config: Config, on_cluster: bool) -> list[Observer]:
    """Return who shows a run's progress to Prometheus, where somebody is to."""
    if not (on_cluster and config.metrics.run):
        return []
    from actors.cluster import RunMetrics

    return [RunMetrics(resolve_run_dir(config).name)]


def _check_labelled_texts(config: Config, root: Path, model: Path) -> None:
    """Raise UserError where a labelled problem is too long for the model, before engines start."""
    from actors.cluster import check_texts  # imports the tokenizer, which takes seconds

    texts = labelled_texts(config, make_task(config.task), root)
    check_texts(model, texts, config.model.max_model_len, "model.max_model_len")


def join_cluster(config: Config, num_clusters: int = 1) -> tuple[str, Layout]:
    """Join or start Ray; return its address and how the roles lie on it.

    Raises UserError when they do not fit `num_clusters` times.
    """
    from actors import cluster  # imports Ray, which a mistyped key need not wait for

    shape = find_shape(config.model.path, find_model(config.model))
    if os.environ.get("RAY_ADDRESS") == "local":
        cluster.check_machine(config, _layout(config, shape), num_clusters)
    address = cluster.connect_ray()
    layout = _layout(config, shape)
    cluster.check_machine(config, layout, num_clusters)
    return address, layout


def _layout(config: Config, shape: ModelShape | None) -> Layout:
    """Return how the roles lie on the cluster that is joined, or else on this machine, and what
    memory that takes, where the shape of the model is known."""
    from actors.cluster import choose_layout, resources

    if shape is None:
        return choose_layout(config)
    plan = plan_iteration(config, make_task(config.task)) if uses_gpus(config) else []
    layout = fastest_layout(config, shape, plan, resources()) or choose_layout(config)
    return replace(layout, rank_bytes=rank_bytes(config, shape, layout))


async def _run_on_cluster(
    config: Config, layout: Layout, run: Run, clock: StageClock, pace: Pace
) -> None:
    from actors.cluster import gcs_address, start_cluster

    run.add_event("cluster", address=gcs_address())
    run.note("starting samplers, learner and reward workers")
    with clock.stage("startup"):
        cluster = await start_cluster(
            config,
            layout,
            current_models(run),
            make_task(config.task),
            run.stored.base_model,
            run.stored.root,
        )
    keep_imports()
    fleet = cluster.fleet
    scaled = asyncio.create_task(cluster.scaled_by(str(run.stored.root)))
    try:
        async with watched(run, pace, fleet.stacks, fleet.shortages):
            await go_through(config, run, clock, cluster)
    finally:
        scaled.cancel()
        await asyncio.gather(scaled, return_exceptions=True)
        await cluster.close()


async def go_through(config: Config, run: Run, clock: StageClock, cluster: Cluster) -> None:
    """Go through what is left of a run on a cluster, which may have served other runs before."""

    def on_sync(sync: SyncReport) -> None:
        run.add_event(
            "weight sync",
            role=sync.role,
            version=sync.version.name,
            bytes=sync.transfer.num_bytes,
            engines=sync.transfer.num_engines,
            seconds=sync.transfer.seconds,
            seconds_paused=sync.transfer.seconds_engines_paused,
            max_logprob_difference=sync.probe.max_difference,
            mean_logprob_difference=sync.probe.mean_difference,
            probe_bound=sync.probe.bound,
        )

    def on_turn(holder: str) -> None:
        run.add_event("turn", holder=holder)

    def on_change(change: ActorChange) -> None:
        run.add_event("actor", **asdict(change))
        if change.reason and change.state != "SUSPECT":
            run.say(f"{change.actor}: {change.state.lower()}, {change.reason}")

    def on_scale(change: ScaleChange) -> None:
        run.add_event("scale", **asdict(change))

    cast = cluster.cast(
        config,
        make_task(config.task),
        clock,
        on_sync,
        on_turn,
        on_change,
        on_scale,
        check_writer=run.stored.manifest.check_attempt,
    )
    models = current_models(run)
    async with cluster.shown(config, run.stored.root.name), cluster.told(run.see_work):
        await cast.challenger.hold(models["challenger"])
        await cast.solver.hold(models["solver"])
        await METHODS[config.method](config, cast, run)


def current_models(run: Run) -> dict[Role, Path]:
    """Return the folder of the policy that each role has now."""
    return {role.name: run.stored.current_model(role.name) for role in ROLES}


def keep_imports() -> None:
    """Keep the collector off what was imported, which stays to the end: a collection that goes
    through it takes .2 s each time, in which nobody is answered.

    At the end it is collected like everything else: libraries such as Triton print pages of what
    they then find left.
    """
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s")
    sys.exit(main())
