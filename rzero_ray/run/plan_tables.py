"""The plan of a run as `--dry-run` prints it."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from rzero_ray.config.config import Config
from rzero_ray.run.display import make_console
from rzero_ray.run.layouts import LayoutEstimate
from rzero_ray.run.plan import GIB, MemoryPlan, PhasePlan
from rzero_ray.text.characters import printable


def print_plan(
    config: Config,
    plan: Sequence[PhasePlan],
    memory: Sequence[MemoryPlan],
    layouts: Sequence[LayoutEstimate],
    remarks: Sequence[str],
) -> None:
    """Print what the run will do, at most, what each actor holds, the layouts that it could have
    and then the remarks."""
    times = config.num_iterations
    title = Text(printable(f"{config.name}: one iteration, at most"))  # a text is not markup
    table = Table(title=title, box=box.SIMPLE_HEAD)
    table.add_column("phase")
    for name in ("samples", "most tokens", "updates"):
        table.add_column(name, justify="right")
    for row in plan:
        table.add_row(row.phase, *_counts([row]))
    table.add_section()
    table.add_row("one iteration", *_counts(plan))
    # The base model is evaluated once, before the first iteration.
    base = [row for row in plan if row.phase == "evaluation"]
    table.add_row(f"x {times} and the base's evaluation", *_counts([*list(plan) * times, *base]))
    console = make_console()
    console.print(table)
    if memory:
        console.print(_memory_table(memory))
    if layouts:
        console.print(_layout_table(layouts))
    for line in remarks:
        console.print(Text(printable(line)), soft_wrap=True)


def _memory_table(memory: Sequence[MemoryPlan]) -> Table:
    table = Table(title="memory of each actor's device, GiB, estimated", box=box.SIMPLE_HEAD)
    table.add_column("actors", no_wrap=True)
    parts = ("weights", "reference", "gradients", "optimizer", "activations", "kv_cache", "total")
    for name in parts:
        header = {"kv_cache": "KV cache", "gradients": "grads", "optimizer": "Adam"}.get(name, name)
        table.add_column(header, justify="right")
    for row in memory:
        cells = [f"{getattr(row, name) / GIB:.1f}" for name in parts]
        table.add_row(f"{row.num_actors} x {row.role}", *("-" if c == "0.0" else c for c in cells))
    return table


def _layout_table(estimates: Sequence[LayoutEstimate]) -> Table:
    table = Table(title="layouts on these GPUs, estimated", box=box.SIMPLE_HEAD)
    table.add_column("layout", no_wrap=True)
    for name in ("lends idle engines", "GPUs", "GiB of one", "host's GiB", "fits", "hours"):
        table.add_column(name, justify="right")
    for row in estimates:
        table.add_row(
            row.layout.kind,
            "yes" if row.lends else "no",
            f"{row.num_gpus:g}",
            f"{row.gpu_bytes / GIB:.1f}",
            f"{row.host_bytes / GIB:.0f}",
            "yes" if row.fits else "no",
            f"{row.seconds / 3600:.1f}",
        )
    return table


def _counts(rows: Sequence[PhasePlan]) -> list[str]:
    sums = [
        sum(row.samples for row in rows),
        sum(row.max_tokens for row in rows),
        sum(row.updates for row in rows),
    ]
    return [f"{number:,}" for number in sums]
