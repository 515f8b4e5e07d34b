"""TensorBoard: every number of a run's rows as a scalar."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class ScalarLog:
    """Writes every number of a run's rows to `<root>/tensorboard`; an `Observer`.

    Tags are `PHASE/metric` over the steps of that phase in the whole run, and `heldout/metric`
    over iterations.
    """

    def __init__(self, root: Path) -> None:
        # Imported here: it takes over a second, and a dry run needs none of it.
        from tensorboard.summary import Writer

        self._writer = Writer(str(root / "tensorboard"))
        self._num_steps: dict[str, int] = {}

    def start_phase(self, iteration: int, phase: str, num_steps: int, num_done: int) -> None:
        """Note how many steps the phase has: its scalars go on where the last iteration's end."""
        self._num_steps[phase] = num_steps

    def finish_step(self, row: dict[str, Any]) -> None:
        """Write a step."""
        phase, iteration = row["phase"], row["iteration"]
        step = (iteration - 1) * self._num_steps.get(phase, 0) + row["step"]
        self._write(phase, row, step)

    def finish_iteration(self, row: dict[str, Any]) -> None:
        """Write an evaluation; 0 is the base model."""
        self._write("heldout", row, row["iteration"])

    def note(self, text: str) -> None:
        """Nothing: notes are no numbers."""

    def _write(self, group: str, row: dict[str, Any], step: int) -> None:
        for name, value in row.items():
            if isinstance(value, dict):
                self._write(f"{group}/{name}", value, step)
            elif isinstance(value, int | float) and name not in ("iteration", "step"):
                self._writer.add_scalar(f"{group}/{name}", value, step)
        self._writer.flush()
