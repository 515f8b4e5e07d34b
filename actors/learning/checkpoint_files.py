"""The files of a checkpoint: written so that a full disk is told, read so that none runs code.

A run directory may have been copied from anywhere. A checkpoint is a pickle, and a pickle can name
any function of any library to be called when it is read. Only tensors, plain values and the classes
that a learner's own checkpoints hold are let through.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from rzero_ray.types import RunError

_ADVICE = "restore it from a copy, or choose another run_dir"
_NAMED = re.compile(r"GLOBAL (\S+)")
"""How torch names the function or class that it has refused."""
_MAX_REASON = 200


def save_state(state: Any, path: Path) -> None:
    """Write the state; it is on the disk when this returns. Raises what the disk refuses."""
    # torch's own writer loses the reason why a write failed; a file of Python's keeps it.
    with path.open("wb") as stream:
        torch.save(state, stream)
        stream.flush()
        os.fsync(stream.fileno())


def load_state(path: Path, map_location: Any, allowed: Sequence[Any]) -> Any:
    """Return what `save_state` wrote, which may hold objects of the `allowed` classes.

    Raises RunError where the file is missing, cut, or holds anything else: nothing of it is called.
    """
    if not path.is_file():
        raise RunError(f"{path} is missing; {_ADVICE}")
    try:
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # what reading a damaged pickle raises has no limits
        named = _NAMED.search(str(error))
        if named is not None:
            raise RunError(
                f"{path} was not read: it wants to call {named[1]}, which no checkpoint of this "
                f"program does; {_ADVICE}"
            ) from None
        # Torch's text goes on with advice, which is to read the file without this care.
        reason = " ".join(str(error).rpartition("WeightsUnpickler error:")[2].split())
        reason = reason.partition(" Check the doc")[0][:_MAX_REASON] or type(error).__name__
        raise RunError(f"{path} is damaged ({reason}); {_ADVICE}") from None


@contextmanager
def of_this_model(checkpoint: Path) -> Iterator[None]:
    """Turn what a library says of states that are not this model's into a RunError of one line."""
    try:
        yield
    except (RunError, torch.OutOfMemoryError):
        raise
    except (
        AssertionError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        reason = " ".join(str(error).split())[:_MAX_REASON]
        raise RunError(
            f"{checkpoint} is not of this model ({type(error).__name__}: {reason}); {_ADVICE}"
        ) from error
