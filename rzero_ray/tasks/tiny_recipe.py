"""What decides which base model ``conf=tiny`` starts from, and the folder that it is kept in.

Apart from ``base_model``, which builds it: a driver that finds the folder need not load torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rzero_ray.tasks.recipes import recipe_folder

# Part of the cache key: raise it when code outside the recipe changes what a recipe produces.
_FORMAT_VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseModelRecipe:
    """Everything that decides which base model is built. Its fields are the cache key."""

    seed: int = 0
    """Seed of the initial weights and of the corpus. The held-out problems do not depend on it."""

    hidden_size: int = 96
    """Width of the residual stream."""

    num_layers: int = 3
    """Number of transformer blocks."""

    num_heads: int = 3
    """Query heads in each block."""

    num_key_value_heads: int = 1
    """Key-value heads in each block; divides ``num_heads``."""

    head_dim: int = 32
    """Width of an attention head."""

    intermediate_size: int = 288
    """Hidden width of the feed-forward layers."""

    max_positions: int = 256
    """Longest sequence, in tokens; a question of 8 operands with its chain of thought takes about
    90."""

    init_std: float = 0.08
    """Standard deviation of the initial weights. The usual 0.02 did not learn in time."""

    num_steps: int = 2300
    """Optimizer steps."""

    batch_rows: int = 8
    """Rows per optimizer step."""

    row_length: int = 128
    """Length of a row, in tokens. The longest document takes about 100; shorter ones share a
    row."""

    learning_rate: float = 8e-3
    """Peak learning rate of AdamW, reached after ``warmup_steps`` and decayed to zero on a
    cosine."""

    warmup_steps: int = 50
    """Steps of linear warm-up."""

    beta1: float = 0.9
    """AdamW's decay of the gradient's first moment."""

    beta2: float = 0.95
    """AdamW's decay of the gradient's second moment."""

    weight_decay: float = 0.01
    """AdamW's decoupled weight decay."""

    challenger_share: float = 0.15
    """Share of Challenger documents in the corpus."""

    direct_share: float = 0.56
    """Share of Solver documents that answer without a chain of thought."""

    guess_spread: int = 2
    """Half-width of the error of an answer without a chain of thought, per operand beyond two."""

    corruption: float = 0.07
    """Probability that a step of a chain of thought has a wrong result."""

    def __post_init__(self) -> None:
        for name in ("num_steps", "batch_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("challenger_share", "direct_share", "corruption"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be within 0 and 1, got {getattr(self, name)}")


def base_model_folder(cache_dir: Path, recipe: BaseModelRecipe) -> Path:
    """Return the folder of the recipe's base model; it exists once the model is complete."""
    return recipe_folder(cache_dir, "tiny", _FORMAT_VERSION, recipe)
