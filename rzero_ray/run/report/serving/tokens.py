"""One rollout, token by token: what the sampler gave each, and the base model where it was asked.

Stored are the tokens and the sampler's log-probabilities. The learner's are not: of a step, its
line of `metrics.jsonl` has how far the two differed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from rzero_ray.disk.files import Stamp, stamp_of
from rzero_ray.run.report.serving.reading import Problems, columns, record
from rzero_ray.run.rows import Row, phase_rows
from rzero_ray.run.stored import StoredRun, by_number
from rzero_ray.types import (
    BaseScore,
    ChallengerSample,
    Role,
    SolverSample,
    Step,
    UserError,
    iteration_key,
)

TOKENS_SHOWN = 1000
"""On one page."""
RECORDS: dict[Role, type[ChallengerSample] | type[SolverSample]] = {
    "challenger": ChallengerSample,
    "solver": SolverSample,
}
"""The roles of whose rollouts the tokens are stored."""
MISMATCH = ("logprob_difference_mean", "logprob_difference_max", "mismatch_kl", "importance_mean")
"""Figures of a step that compare learner and sampler."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A sampled token."""

    position: int
    token_id: int
    text: str | None
    """None where no tokenizer was found."""
    logprob: float | None
    """In nats, under the sampler."""
    base_logprob: float | None
    """The same under the base model."""

    @property
    def ratio(self) -> float | None:
        """Return the sampler's probability divided by the base model's."""
        if self.logprob is None or self.base_logprob is None:
            return None
        difference = self.logprob - self.base_logprob
        return math.exp(difference) if difference < 700 else math.inf

    @property
    def shade(self) -> int:
        """Return how unlikely the token was, from 0 (certain) to 5: a step for each nat."""
        if self.logprob is None or math.isnan(self.logprob):
            return 0
        return min(5, max(0, math.floor(-self.logprob)))


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutView:
    """A rollout as its page shows it."""

    step: Step
    row: int
    sample: ChallengerSample | SolverSample
    prompt: str | None
    """None where no tokenizer was found."""
    tokens: list[Token]
    start: int
    """The position of the first of `tokens`."""
    num_tokens: int
    has_base: bool
    mismatch: dict[str, float]
    """Learner against sampler, over the whole step."""


def view_rollout(
    run: StoredRun, role: Role, step: Step, row: int, start: int, problems: Problems
) -> RolloutView | None:
    """Return a rollout with `TOKENS_SHOWN` of its tokens from `start` on; None where there is no
    such row. Raises DamagedFileError where its own file cannot be read."""
    sample = record(run.root / step.key / "rollouts.parquet", RECORDS[role], row)
    if sample is None:
        return None
    base, tokenizer = None, None
    with problems.noted():
        base = _base_logprobs(run, role, step, row)
    with problems.noted():
        tokenizer = find_tokenizer(run)
    ids = sample.token_ids[start : start + TOKENS_SHOWN].tolist()
    mismatch: dict[str, float] = {}
    with problems.noted():
        mismatch = _mismatch(run.metrics(), role, step)
    return RolloutView(
        step=step,
        row=row,
        sample=sample,
        prompt=None if tokenizer is None else _decode(tokenizer, sample.prompt_ids.tolist()),
        tokens=[
            Token(
                position=position,
                token_id=token_id,
                text=None if tokenizer is None else _piece(tokenizer, token_id),
                logprob=_at(sample.logprobs, position),
                base_logprob=None if base is None else _at(base, position),
            )
            for position, token_id in enumerate(ids, start=start)
        ],
        start=start,
        num_tokens=len(sample.token_ids),
        has_base=base is not None,
        mismatch=mismatch,
    )


def _at(values: NDArray[np.float32], position: int) -> float | None:
    return float(values[position]) if position < len(values) else None


def _base_logprobs(run: StoredRun, role: Role, step: Step, row: int) -> NDArray[np.float32] | None:
    """Return what the base model gave the tokens; None of a rollout that it did not score: it
    scores some of the last step of a phase."""
    steps = run.sampled_steps(role, step.iteration)
    path = run.root / iteration_key(step.iteration) / "base-logprobs.parquet"
    if not steps or steps[-1] != step or not path.exists():
        return None
    found = columns(path, BaseScore)
    for number, (of, at) in enumerate(zip(found["role"], found["row"], strict=True)):
        if (of, at) == (role, row):
            return found["base_logprobs"][number]
    return None


def _mismatch(metrics: Sequence[Row], role: Role, step: Step) -> dict[str, float]:
    rows = [r for r in phase_rows(metrics, role, step.iteration) if r["step"] == step.index]
    return {name: rows[0][name] for name in MISMATCH if rows and rows[0].get(name) is not None}


# Tokens as text.


def find_tokenizer(run: StoredRun) -> Tokenizer | None:
    """Return the tokenizer of the run's models, from the first folder on this machine that has
    one; None where none has."""
    folders = [run.base_model, *reversed(by_number(run.root, "models/*"))]
    for folder in folders:
        path = folder / "tokenizer.json"
        if path.is_file():
            return _load_tokenizer(path, stamp_of(path))
    return None


@lru_cache(maxsize=2)
def _load_tokenizer(path: Path, stamp: Stamp) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises no narrower one
        raise UserError(f"{path} is no tokenizer ({error})") from None


def _piece(tokenizer: Tokenizer, token_id: int) -> str:
    """Return the text of one token. Of a part of a character, which is none, its name."""
    text = _decode(tokenizer, [token_id])
    if text and "\N{REPLACEMENT CHARACTER}" not in text:
        return text
    return tokenizer.id_to_token(token_id) or f"token {token_id}"


def _decode(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    try:
        return tokenizer.decode(list(ids), skip_special_tokens=False)
    except (OverflowError, TypeError, ValueError):
        return ""
