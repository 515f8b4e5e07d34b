"""What a user sees while a run goes on: a live display on a terminal, plain lines in a job log.

Both implement `protocols.Observer`. A job log gets one line per step, without markup or control
characters, so that it can be searched and followed with `tail -f`.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from rzero_ray.config.config import Config, resolve_run_dir
from rzero_ray.protocols import Observer
from rzero_ray.run.quality import quality_columns
from rzero_ray.run.stored import evaluations_in
from rzero_ray.text.characters import printable

_LOG_WIDTH = 100
"""Columns of a table in a job log, where no terminal says how wide it is."""
_REFRESHES_PER_SECOND = 4.0
_STEP_FIELDS = (
    ("reward", "reward"),
    ("agreement", "agreement"),
    ("kept", "kept"),
    ("label_accuracy", "label accuracy"),
    ("win_spread", "win spread"),
    ("divided", "divided"),
    ("kl", "kl"),
    ("logprob_difference_max", "logprob diff"),
    ("accuracy", "accuracy"),
    ("kl_solver", "Solver's KL to the base"),
)
"""(key in a row of metrics, name on the screen)"""
_LABEL_ACCURACY = "label accuracy"  # a column that is not of the evaluation
_COUNTS = ("kept",)
_TINY_NUMBERS = ("kl", "logprob_difference_max", "kl_solver")
"""Shown with two significant digits: two decimals would show them as zero."""
_NEXT_ACTIVITY = {
    "challenger": "saving the Challenger",
    "curriculum": "loading the Solver into the learner",
    "audit": "loading the Solver into the learner",
    "referee": "loading the Solver into the learner",
    "solver": "saving the Solver, then evaluation",
    "drift": "finishing the iteration",
}
"""What goes on after the last step of a phase."""


def make_display(config: Config) -> Display:
    """Return the display that fits where standard output goes. Use it as a context manager."""
    return LiveDisplay(config) if _is_terminal() else LogDisplay(config)


class Display(Observer, ABC):
    """Keeps what has been reported; subclasses show it."""

    def __init__(self, config: Config) -> None:
        """Take up the accuracies of a run that is resumed."""
        self._config = config
        self._started = time.monotonic()
        self._num_steps = 0
        self._accuracies: dict[int, dict[str, Any]] = {}
        self._label_accuracies: dict[int, float] = {}
        for row in evaluations_in(resolve_run_dir(config), config.eval.num_samples):
            self._accuracies[row["iteration"]] = row

    @abstractmethod
    def __enter__(self) -> Self: ...

    @abstractmethod
    def __exit__(self, *exception: object) -> None: ...

    @abstractmethod
    def note(self, text: str) -> None:
        """Show something a user should read."""

    def start_phase(self, iteration: int, phase: str, num_steps: int, num_done: int) -> None:
        """A phase begins or goes on."""
        self._num_steps = num_steps

    def finish_step(self, row: dict[str, Any]) -> None:
        """A step is finished."""
        if row["phase"] == "curriculum" and row.get("label_accuracy") is not None:
            self._label_accuracies[row["iteration"]] = row["label_accuracy"]

    def finish_iteration(self, row: dict[str, Any]) -> None:
        """An evaluation is finished."""
        self._accuracies[row["iteration"]] = row

    def finish(self, summary: dict[str, Any], report: Path) -> None:
        """Print the result and where it is kept."""
        rows = {row["iteration"]: row for row in summary["heldout"]}
        labels = dict(enumerate(summary["label_accuracy"], start=1))
        console = make_console()
        if any(row.get("num_problems", 1) for row in rows.values()):
            console.print(accuracy_table(self._config, rows, labels))
        for line in (summary["reading"], _stage_line(summary["wall_clock_s"])):
            console.print(Text(printable(line)), soft_wrap=not _is_terminal())
        for name, path in (("summary", report.with_name("summary.json")), ("report", report)):
            # Never wrapped: a path is there to be copied.
            console.print(Text(printable(f"{name:8} {path}")), soft_wrap=True)

    @property
    def _elapsed(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self._started), 60)
        return f"{minutes // 60:02d}:{minutes % 60:02d}:{seconds:02d}"


class LogDisplay(Display):
    """One line per event, for a file or a job log."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def start_phase(self, iteration: int, phase: str, num_steps: int, num_done: int) -> None:
        super().start_phase(iteration, phase, num_steps, num_done)
        if num_done < num_steps:
            done = f", {num_done} done before" if num_done else ""
            steps = "step" if num_steps == 1 else "steps"
            self.note(f"{self._place(iteration)} {phase}: {num_steps} {steps}{done}")

    def finish_step(self, row: dict[str, Any]) -> None:
        super().finish_step(row)
        step = f"{self._place(row['iteration'])} {row['phase']} {row['step']}/{self._num_steps}"
        self.note("  ".join([step, *(f"{name} {text}" for name, text in _step_figures(row))]))

    def finish_iteration(self, row: dict[str, Any]) -> None:
        super().finish_iteration(row)
        if not row.get("num_problems", 1):
            self.note(f"{self._place(row['iteration'])}: finished; no held-out problems")
            return
        cells = zip(_columns(self._config), _cells(self._config, row, None), strict=True)
        figures = [f"{name} {cell}" for name, cell in cells if name != _LABEL_ACCURACY]
        self.note("  ".join([f"{self._place(row['iteration'])} held-out", *figures]))

    def note(self, text: str) -> None:
        print(printable(f"[{self._elapsed}] {text}"), flush=True)

    def _place(self, iteration: int) -> str:
        if iteration == 0:
            return "base model"
        return f"iteration {iteration}/{self._config.num_iterations}"


class LiveDisplay(Display):
    """A few lines at the bottom of a terminal that are redrawn; everything else scrolls above."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._console = Console()
        self._last_step: dict[str, Any] | None = None
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
        )
        self._begin("starting, then the base model's evaluation")
        # Redrawn by a thread of its own: the clocks move while the driver waits for a long step.
        self._live = Live(
            console=self._console,
            get_renderable=self._render,
            refresh_per_second=_REFRESHES_PER_SECOND,
        )
        self._handlers: list[tuple[logging.StreamHandler[Any], Any]] = []

    def __enter__(self) -> Self:
        streams = (sys.stdout, sys.stderr)
        self._live.start()
        self._redirect_logging(streams)
        return self

    def __exit__(self, *exception: object) -> None:
        for handler, stream in self._handlers:
            handler.setStream(stream)
        self._handlers.clear()
        self._live.stop()

    def start_phase(self, iteration: int, phase: str, num_steps: int, num_done: int) -> None:
        super().start_phase(iteration, phase, num_steps, num_done)
        label = f"iteration {iteration}/{self._config.num_iterations} {phase}"
        self._begin(label, num_steps or None, num_done)

    def finish_step(self, row: dict[str, Any]) -> None:
        super().finish_step(row)
        self._last_step = row
        self._progress.update(self._progress.task_ids[0], completed=row["step"])
        if row["step"] == self._num_steps:
            self._begin(_NEXT_ACTIVITY[row["phase"]])

    def finish_iteration(self, row: dict[str, Any]) -> None:
        super().finish_iteration(row)
        is_last = row["iteration"] == self._config.num_iterations
        self._begin("ending" if is_last else "loading the Challenger into the learner")

    def note(self, text: str) -> None:
        self._console.print(Text(printable(f"[{self._elapsed}] {text}")))

    def finish(self, summary: dict[str, Any], report: Path) -> None:
        self._accuracies.clear()  # the final table takes the place of the live one
        self._last_step = None
        self._progress.remove_task(self._progress.task_ids[0])
        self._live.stop()
        super().finish(summary, report)

    def _begin(self, activity: str, total: int | None = None, completed: int = 0) -> None:
        """Show another activity; its clock starts at zero. Without `total` the bar only moves."""
        for task in self._progress.task_ids:
            self._progress.remove_task(task)
        self._progress.add_task(activity, total=total, completed=completed)

    def _render(self) -> RenderableType:
        parts: list[RenderableType] = [self._progress]
        if self._last_step is not None:
            figures = "   ".join(f"{name} {text}" for name, text in _step_figures(self._last_step))
            step = f"{self._last_step['phase']} step {self._last_step['step']}"
            parts.append(Padding(Text(f"{step}   {figures}", style="dim"), (0, 0, 0, 2)))
        if any(row.get("num_problems", 1) for row in self._accuracies.values()):
            rows, labels = dict(self._accuracies), dict(self._label_accuracies)
            parts.append(accuracy_table(self._config, rows, labels))
        parts.append(Text(printable(f"  {self._config.name}, {self._elapsed} in all"), style="dim"))
        return Group(*parts)

    def _redirect_logging(self, streams: tuple[Any, Any]) -> None:
        """Point log handlers at the live display's streams: written past them, a line tears it.

        Libraries (Ray) keep handlers of their own that hold the streams of before `Live`.
        """
        known = [logging.root, *logging.root.manager.loggerDict.values()]
        loggers = [logger for logger in known if isinstance(logger, logging.Logger)]
        for handler in {handler for logger in loggers for handler in logger.handlers}:
            if isinstance(handler, logging.StreamHandler) and handler.stream in streams:
                self._handlers.append((handler, handler.stream))
                handler.setStream(sys.stderr)


def accuracy_table(
    config: Config,
    rows: Mapping[int, dict[str, Any]],
    label_accuracies: Mapping[int, float | None],
) -> Table:
    """Return the held-out accuracies by iteration; 0 is the base model."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("held-out")
    for name in _columns(config):
        table.add_column(name, justify="right")
    for iteration, row in sorted(rows.items()):
        name = f"iteration {iteration}" if iteration else "base"
        table.add_row(name, *_cells(config, row, label_accuracies.get(iteration)))
    return table


def _columns(config: Config) -> list[str]:
    k = config.eval.num_samples
    if config.method == "judged":
        return list(quality_columns(k))
    given = ["CoT share", "accuracy given CoT", _LABEL_ACCURACY]
    return ["greedy", f"mean@{k} [95%]", f"maj@{k}", *given]


def _cells(config: Config, row: dict[str, Any], label_accuracy: float | None) -> list[str]:
    k = config.eval.num_samples
    if config.method == "judged":
        return [_decimals(row.get(key)) for key in quality_columns(k).values()]
    low, high = row.get(f"mean@{k}_ci95") or (None, None)
    given_cot = row.get("accuracy_given_cot") if row.get("cot_share") else None
    return [
        _decimals(row.get("greedy")),
        f"{_decimals(row.get(f'mean@{k}'))} [{_decimals(low)}, {_decimals(high)}]",
        _decimals(row.get(f"maj@{k}")),
        _decimals(row.get("cot_share")),
        _decimals(given_cot),
        _decimals(label_accuracy),
    ]


def _step_figures(row: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (name, value) of what a row of metrics holds of interest."""
    figures = []
    for key, name in _STEP_FIELDS:
        value = row.get(key)
        if value is None:
            continue
        if key in _COUNTS:
            text = f"{value:,}"
        elif key in _TINY_NUMBERS:
            text = _zeroless(f"{value:.2g}")
        else:
            text = _decimals(value)
        figures.append((name, text))
    seconds = row.get("seconds", {})
    if row.get("tokens_sampled") and seconds.get("sampling"):
        figures.append(("tokens/s", f"{row['tokens_sampled'] / seconds['sampling']:,.0f}"))
    if "wall" in seconds:
        figures.append(("seconds", f"{seconds['wall']:.1f}"))
    return figures


def _stage_line(wall_clock_s: dict[str, float]) -> str:
    stages = sorted(wall_clock_s.items(), key=lambda item: -item[1])
    texts = [f"{name} {seconds:,.1f}" for name, seconds in stages if name != "total"]
    total = wall_clock_s.get("total", 0.0)
    return f"seconds  {total:,.1f} in all; by stage, overlapping: {', '.join(texts)}"


def _decimals(value: float | None) -> str:
    return "-" if value is None else _zeroless(f"{value:.2f}")


def _zeroless(text: str) -> str:
    """Write .52 for 0.52, as tables of shares do."""
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def _is_terminal() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def make_console(log_width: int = _LOG_WIDTH) -> Console:
    """Return the console of standard output; a log's tables are `log_width` columns wide."""
    if _is_terminal():
        return Console()
    # FORCE_COLOR and its like must not put control characters into a log.
    return Console(force_terminal=False, color_system=None, width=log_width)
