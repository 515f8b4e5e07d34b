"""Keys of the configuration that have had another name."""

from __future__ import annotations

RENAMED_KEYS: dict[str, str] = {
    "curriculum.min_answered": "voting.min_answered",
    "model.tiny_seed": "model.base_seed",
    "tiny_seed": "base_seed",  # of the evaluation
}
"""{name before: name now}. A run directory that was made under the old name resumes under the new
one; a file or an argument with the old name is refused, and told the new one."""
