"""A checkpoint for another number of ranks: DeepSpeed's universal form, a folder per parameter.

Each rank writes the part of the optimizer that it holds, and only as many ranks can read that as it
is. Where a node is gone, or a run goes on with other GPUs, the parts are put together first.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from actors.learning.checkpoint_files import load_state
from rzero_ray.types import RunError

_SHOWN = 300


def is_of_other_ranks(checkpoint: Path, num_ranks: int) -> bool:
    """Return whether other than `num_ranks` ranks hold parts of a checkpoint; without ZeRO there
    are no parts."""
    num_saved = len(list(checkpoint.glob("*zero_pp_rank_*_optim_states.pt")))
    return num_saved not in (0, num_ranks)


def num_updates(checkpoint: Path, allowed: Sequence[Any]) -> int:
    """Return how many optimizer steps a checkpoint has seen, of those files that hold only objects
    of the `allowed` classes."""
    path = min(
        checkpoint.glob("*model_states.pt"), default=checkpoint / "mp_rank_00_model_states.pt"
    )
    return int(load_state(path, "cpu", allowed)["num_updates"])


def convert(checkpoint: Path, folder: Path, allowed: Sequence[Any], deadline_s: float) -> None:
    """Write a checkpoint into `folder` as any number of ranks can read it.

    `allowed` are the classes that its files may hold: DeepSpeed's converter, a process of its own,
    would run any code that is in them. Raises RunError where one holds anything else, or it fails.
    """
    for path in sorted(checkpoint.glob("*.pt")):
        load_state(path, "cpu", allowed)
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal"]
    command += ["--input_folder", str(checkpoint), "--output_folder", str(folder)]
    command += ["--inject_missing_state", "--num_extract_workers", "1", "--num_merge_workers", "1"]
    try:
        done = subprocess.run(
            command,
            env=os.environ | {"DS_ACCELERATOR": "cpu"},
            capture_output=True,
            text=True,
            timeout=deadline_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RunError(
            f"{checkpoint} was not put together for another number of ranks within "
            f"{deadline_s:.0f} s (deadline.update)"
        ) from None
    if done.returncode:
        reason = " ".join(done.stderr.split())[-_SHOWN:]
        raise RunError(
            f"{checkpoint} could not be put together for another number of ranks ({reason}); start "
            "with the layout and GPUs of before (`layout`, learner.num_ranks)"
        )
