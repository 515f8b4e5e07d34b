"""How one version of the weights travels: small records, the bytes stay in the object store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketLayout:
    """Where tensors lie in one flat buffer of bytes."""

    num_bytes: int
    """The size of the whole buffer."""

    names: tuple[str, ...]
    dtypes: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    offsets: tuple[int, ...]

    def update_info(self, path: str) -> dict[str, Any]:
        """Return what an engine is told of a bucket that lies at `path`, in plain types."""
        return {
            "path": path,
            "names": list(self.names),
            "dtypes": list(self.dtypes),
            "shapes": [list(shape) for shape in self.shapes],
            "offsets": list(self.offsets),
        }


def layer_of(name: str) -> str:
    """Return which decoder layer a parameter belongs to; its own name outside of all layers.

    vLLM fuses parameters of one layer, never of two: what must be together is.
    """
    return next((part for part in name.split(".") if part.isdigit()), name)
