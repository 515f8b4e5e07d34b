"""Imports of large libraries at the start of an actor."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def large_imports() -> Iterator[None]:
    """Collect no garbage in the block, and keep the collector off what it leaves.

    vLLM's and DeepSpeed's modules are a million objects that live as long as the process. Looking
    through them takes a fifth of the time of their import, and later, at each full collection, half
    of a sampler's own time.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
