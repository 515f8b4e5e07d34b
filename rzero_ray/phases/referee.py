r"""Teach the referee, a third policy from the base model, which of two answers is the better.

It learns from pairs that are ordered by construction, an answer and its spoilt form, each shown in
both orders, and never from verdicts: `method.comparisons` says where this comes from.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from rzero_ray.config.config import Config
from rzero_ray.method.comparisons import FIRST, SECOND, make_pairs
from rzero_ray.phases.comparing import referee_of
from rzero_ray.phases.learning import demonstrations, learn_step_by_step
from rzero_ray.phases.metrics import imitation_metrics
from rzero_ray.phases.solver import pick_items
from rzero_ray.protocols import Cast, OpenTask
from rzero_ray.run.run import Run
from rzero_ray.run.seeds import derive_seed
from rzero_ray.types import Message, OrderedPair, PosedRequest, Rollout, Step, iteration_key

_FEWEST_PAIRS = 8
"""Pairs below which there is nothing to learn."""


async def teach_referee(
    config: Config,
    iteration: int,
    cast: Cast,
    task: OpenTask,
    posed: Sequence[PosedRequest],
    run: Run,
) -> None:
    """Teach the referee pairs made of the Solver's answers, of this iteration and those before."""
    if not config.referee.is_taught:
        return
    pairs = await _pairs(config, iteration, task, posed, run)
    if len(pairs) < _FEWEST_PAIRS:
        run.note(f"iteration {iteration}: {len(pairs)} pairs are too few for a referee")
        return
    referee = referee_of(cast)

    async def make(step: Step) -> list[Rollout]:
        batch = pick_items(pairs, config.referee.num_prompts, step, config.seed)
        exchanges = [exchange for pair in batch for exchange in in_both_orders(task, pair)]
        return demonstrations(await referee.tokenize(exchanges))

    await learn_step_by_step(
        referee,
        "referee",
        iteration,
        run,
        num_steps=config.referee.num_steps,
        staleness=0,
        make=make,
        learn=referee.imitate,
        describe=lambda batch, step: imitation_metrics(batch),
    )


def in_both_orders(task: OpenTask, pair: OrderedPair) -> list[tuple[tuple[Message, ...], str]]:
    """Return a pair's two (messages, verdict), so that neither place is the better one's."""
    shown = (
        (task.referee_messages(pair.request, pair.better, pair.worse), FIRST),
        (task.referee_messages(pair.request, pair.worse, pair.better), SECOND),
    )
    return [(messages, rf"\boxed{{{verdict}}}") for messages, verdict in shown]


async def _pairs(
    config: Config, iteration: int, task: OpenTask, posed: Sequence[PosedRequest], run: Run
) -> list[OrderedPair]:
    """Return the last `referee.memory` pairs, after making those of this iteration."""

    async def make() -> list[OrderedPair]:
        rng = random.Random(derive_seed(config.seed, iteration, "pairs"))
        return make_pairs(posed, config.referee.pairs_per_answer, task.spoil, rng)

    pairs: list[OrderedPair] = []
    for earlier in range(1, iteration):
        pairs += run.stored.read(_key(earlier), OrderedPair)
    pairs += await run.once(_key(iteration), OrderedPair, make)
    return pairs[-config.referee.memory :]


def _key(iteration: int) -> str:
    return f"{iteration_key(iteration)}/referee-pairs"
