"""Keys of the configuration that have, or have had, another name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RENAMED_KEYS: dict[str, str] = {
    "curriculum.min_answered": "voting.min_answered",
    "model.tiny_seed": "model.base_seed",
    "tiny_seed": "base_seed",  # of the evaluation
}
"""{name before: name now}. A run directory that was made under the old name resumes under the new
one; a file or an argument with the old name is refused, and told the new one."""

SHORT_KEYS: dict[str, tuple[str, ...]] = {"sampler.num_solver": ("min", "max")}
"""{section that may be given as one value: the keys of it that all get this value}. So a number of
engines is a range of one number, also in what was written before there were ranges."""


def spelled_out(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return {key path: value} with every short key replaced by those that it stands for."""
    return {
        name: value
        for key, value in values.items()
        for name in ([f"{key}.{end}" for end in SHORT_KEYS[key]] if key in SHORT_KEYS else [key])
    }
