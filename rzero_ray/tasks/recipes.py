"""The folder in which a built-in base model is kept: its name is a digest of its recipe.

Apart from the code that builds models: a driver that finds the folder need not load torch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any


def recipe_folder(cache_dir: Path, name: str, format_version: int, recipe: Any) -> Path:
    """Return the folder of a recipe's base model; it exists once the model is complete.

    Args:
        cache_dir: folder that holds base models.
        name: start of the folder's own name.
        format_version: raised when code outside the recipe changes what a recipe produces.
        recipe: a dataclass of everything that decides which model is built.
    """
    fields = {"format_version": format_version, **dataclasses.asdict(recipe)}
    key = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]
    return cache_dir / f"{name}-base-{key}"
