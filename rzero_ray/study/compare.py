"""The command `python -m rzero_ray compare`: what co-evolution and labelled data each add.

The arms have the same number of Solver updates. The last one starts from a checkpoint of the
co-evolution run, so a comparison costs two runs and a part for each seed.

Source: R-Zero, Fig. 4 and Table 4 ("performance amplifier"), where the arms have different budgets.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from rzero_ray.config.arguments import CompareArguments, load_own
from rzero_ray.config.command import run_command
from rzero_ray.config.config import Config, resolve_folder
from rzero_ray.config.load import load_config
from rzero_ray.config.sources import split_pairs
from rzero_ray.disk.files import write_text_durably
from rzero_ray.disk.folder import check_folder, check_no_folders, held
from rzero_ray.evaluation.answering import HELDOUT, AnsweredProblem
from rzero_ray.evaluation.heldout import read_answered
from rzero_ray.evaluation.scores import difference, score
from rzero_ray.phases.labelled import labelled_copy, load_labelled
from rzero_ray.run.rows import mean
from rzero_ray.tasks.registry import make_task
from rzero_ray.types import RunError, UserError, iteration_key

USAGE = "python -m rzero_ray compare conf=NAME labelled.path=FILE [seeds=0,1] [key=value ...]"
HELP = f"""\
usage: {USAGE}

Compares R-Zero with learning from labels, with the same number of Solver updates in every arm:

  base                  the model that all arms start from
  rzero                 N iterations of co-evolution
  labelled              N times as many steps on the labelled data as an iteration has
  rzero_then_labelled   N - 1 iterations of the rzero run, then one iteration's steps on the labels

Each arm is a run with a run directory of its own; one that is finished is read, not repeated.

  conf=NAME             preset of the runs
  labelled.path=FILE    the labelled problems, or tiny for those of task=arithmetic
  seeds=0,1,2           one comparison for each seed; 0 without it
  root=FOLDER           where the run directories are, instead of runs/compare-NAME
  method=labelled_sft   imitate the solutions; labelled_grpo, the default, reinforces the answers
  num_iterations=N      at least 2; like every other key of a run it goes to each arm

All keys and their defaults: rzero_ray/config/config.py.
Output: comparison.md and comparison.json in the root folder.
Exit codes: 0 done, 1 an arm did not finish, 2 the command or the configuration is wrong."""

_LONGEST_END_S = 60.0
"""How long an arm that is stopped may take to end in order; it needs less than 20."""
ARMS = ("base", "rzero", "labelled", "rzero_then_labelled")
"""What is compared; `HELP` says what each of them is."""
_WRITTEN = ("comparison.json", "comparison.md")
_ARM_NAME = re.compile(r"(rzero|labelled|rzero_then_labelled)-\d+", re.ASCII)
"""The names of the run directories in a comparison's folder."""
_ROOM = 1 << 20
"""Bytes that must be free for what is written beside the runs, which look for themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmScore:
    """The held-out accuracy of one arm and seed."""

    arm: str
    """One of `ARMS`."""
    seed: int
    num_updates: int
    """How many optimizer steps the Solver has had since the base model, those counted that
    `solver.optimizer.updates` may have left out."""
    greedy: float
    """The accuracy of the greedy answers."""
    mean: float
    """The accuracy of the k sampled answers, mean@k."""
    interval: tuple[float, float]
    """The 95 % interval of `mean`, as the arm's own run reports it."""
    gain: float
    """How far `mean` lies above that of the base."""
    gain_interval: tuple[float, float]
    """The 95 % interval of `gain`, over the paired differences of the problems."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run_command(
        arguments,
        lambda: HELP,
        lambda given: print_scores(*compare(given)),
        "the same command goes on",
    )


def compare(arguments: Sequence[str]) -> tuple[list[ArmScore], int]:
    """Run what is not finished and write `comparison.{json,md}`; return the scores and k."""
    own, passed = _split(arguments)
    load_config(_without_labels(passed))
    config = load_config([*passed, f"method={own.method}"])
    if config.num_iterations < 2:
        raise UserError(
            "num_iterations must be at least 2: rzero_then_labelled gives the labels the last one"
        )
    seeds = [int(seed) for seed in own.seeds.split(",")]
    root = resolve_folder(own.root or f"runs/compare-{config.name}")
    check_folder(root, "root", _is_comparison)
    check_no_folders(root, _WRITTEN)
    _check_labels(config, root, seeds)
    for seed in seeds:
        for folder in _evaluations(config, root, seed).values():
            if (folder / "evaluation.parquet").exists():
                read_answered(folder / "evaluation.parquet")
    with held(root, "root", _ROOM):
        for seed in seeds:
            _run_arms(config, passed, own.method, seed, root)
        scores = [score for seed in seeds for score in read_scores(config, root, seed)]
        rows = json.dumps([_row(of) for of in scores], indent=1)
        tables = to_markdown(scores, config.eval.num_samples)
        for name, text in zip(_WRITTEN, (rows, tables), strict=True):
            write_text_durably(root / name, text)
    return scores, config.eval.num_samples


def _is_comparison(names: Set[str]) -> bool:
    """Return whether a folder's files are those of a comparison: its arms, and what they show."""
    arms = {name for name in names if _ARM_NAME.fullmatch(name)}
    return bool(arms) and names - arms <= set(_WRITTEN)


def _split(arguments: Sequence[str]) -> tuple[CompareArguments, list[str]]:
    """Return this command's own keys, and the driver's arguments."""
    own, passed = load_own(CompareArguments, split_pairs(arguments), USAGE)
    for key, _ in passed:
        if key in ("seed", "run_dir", "name"):
            raise UserError(f"{key}=...: the arms have their own; use seeds= and root=")
    return own, [f"{key}={value}" for key, value in passed]


def _check_labels(config: Config, root: Path, seeds: Sequence[int]) -> None:
    """Raise UserError where the labelled problems cannot be read: the arm before them takes hours.
    Arms that have begun go on with their copies."""
    learners = [f"{arm}-{seed}" for seed in seeds for arm in ("labelled", "rzero_then_labelled")]
    if not all(labelled_copy(root / name) for name in learners):
        load_labelled(config, make_task(config.task))


def _run_arms(config: Config, passed: Sequence[str], method: str, seed: int, root: Path) -> None:
    _drive(_without_labels(passed), root, "rzero", seed)
    _drive([*passed, f"method={method}"], root, "labelled", seed)
    checkpoint = root / f"rzero-{seed}/models/solver-{iteration_key(config.num_iterations - 1)}"
    rest = [f"method={method}", f"model.path={checkpoint}", "num_iterations=1"]
    _drive([*passed, *rest], root, "rzero_then_labelled", seed)


def _without_labels(passed: Sequence[str]) -> list[str]:
    """Return the arguments of the arm that reads no labels, whatever a conf says of them.

    The third arm starts from a model of it that is not its last.
    """
    return [*passed, "labelled.path=", "method=coevolution", "checkpoint.keep_models.every=1"]


def _drive(arguments: Sequence[str], root: Path, arm: str, seed: int) -> None:
    """Run the driver; RunError when it fails: its own line says why."""
    place = [f"seed={seed}", f"name={arm}-{seed}", f"run_dir={root / f'{arm}-{seed}'}"]
    command = [sys.executable, "-m", "rzero_ray.driver", *arguments, *place]
    if _run_to_its_end(command) != 0:
        raise RunError(f"the arm {arm} of seed {seed} did not finish")


def _run_to_its_end(command: Sequence[str]) -> int:
    """Run a command and return its exit code; a stop of this process stops it in order."""
    # In a group of its own, so that a stop reaches it once, whoever sent it and however.
    with subprocess.Popen(command, process_group=0) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_LONGEST_END_S)
            process.kill()  # nothing, where it has ended
            raise


def read_scores(config: Config, root: Path, seed: int) -> list[ArmScore]:
    """Return the four arms' scores of a seed, from their run directories."""
    folders = _evaluations(config, root, seed)
    problems = {
        arm: read_answered(folder / "evaluation.parquet") for arm, folder in folders.items()
    }
    budget = config.num_iterations * config.solver.num_steps * _updates_per_step(config)
    return [
        _score(arm, seed, 0 if arm == "base" else budget, answered, problems["base"])
        for arm, answered in problems.items()
    ]


def _evaluations(config: Config, root: Path, seed: int) -> dict[str, Path]:
    """Return the folder of the evaluation that counts of each arm."""
    last = iteration_key(config.num_iterations)
    return {
        "base": root / f"rzero-{seed}/iteration-00",
        "rzero": root / f"rzero-{seed}" / last,
        "labelled": root / f"labelled-{seed}" / last,
        "rzero_then_labelled": root / f"rzero_then_labelled-{seed}/iteration-01",
    }


def _updates_per_step(config: Config) -> int:
    return -(-config.solver.num_prompts // config.solver.prompts_per_update)


def _score(
    arm: str,
    seed: int,
    num_updates: int,
    answered: Sequence[AnsweredProblem],
    base: Sequence[AnsweredProblem],
) -> ArmScore:
    of = score(HELDOUT, answered, seed)
    gain = difference(HELDOUT, answered, base, seed).mean_at_k
    return ArmScore(
        arm=arm,
        seed=seed,
        num_updates=num_updates,
        greedy=of.greedy.value,
        mean=of.mean_at_k.value,
        interval=(of.mean_at_k.low, of.mean_at_k.high),
        gain=gain.value,
        gain_interval=(gain.low, gain.high),
    )


def _row(score: ArmScore) -> dict[str, object]:
    return {name: getattr(score, name) for name in ArmScore.__slots__}


def _cells(score: ArmScore) -> list[str]:
    low, high = score.interval
    gain = f"{score.gain:+.3f} [{score.gain_interval[0]:+.3f}, {score.gain_interval[1]:+.3f}]"
    return [
        score.arm,
        str(score.seed),
        str(score.num_updates),
        f"{score.greedy:.3f}",
        f"{score.mean:.3f} [{low:.3f}, {high:.3f}]",
        "-" if score.arm == "base" else gain,
    ]


def _head(k: int) -> list[str]:
    return ["arm", "seed", "updates", "greedy", f"mean@{k} [95 %]", "gain [95 %, paired]"]


def _means(scores: Sequence[ArmScore]) -> list[list[str]]:
    """Return a row per arm: means over the seeds, and their range in place of the interval."""
    rows = []
    for arm in ARMS:
        of_arm = [score for score in scores if score.arm == arm]
        means = [score.mean for score in of_arm]
        rows.append(
            [
                arm,
                f"mean of {len(of_arm)}",
                str(of_arm[0].num_updates),
                f"{mean([score.greedy for score in of_arm]):.3f}",
                f"{mean(means):.3f} (seeds {min(means):.3f} to {max(means):.3f})",
                "-" if arm == "base" else f"{mean([score.gain for score in of_arm]):+.3f}",
            ]
        )
    return rows


def to_markdown(scores: Sequence[ArmScore], k: int) -> str:
    """Return the table of all seeds and of their means."""
    rows = [_head(k), ["---"] * 6, *map(_cells, scores), *_means(scores)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def print_scores(scores: Sequence[ArmScore], k: int) -> None:
    """Print the table in the terminal."""
    table = Table(*_head(k))
    for row in [*map(_cells, scores), *_means(scores)]:
        table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
