"""Go back to earlier models where a signal without labels has fallen (`rollback_fall`)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from rzero_ray.config.config import Config
from rzero_ray.method.rollback import standing_after
from rzero_ray.protocols import Cast
from rzero_ray.run.concurrency import gather_all
from rzero_ray.run.rows import mean
from rzero_ray.run.run import Run
from rzero_ray.types import Standing, iteration_key, standing_key


@dataclass(frozen=True, slots=True)
class _Answers:
    """The column of `evaluation.parquet` that is read: what was sampled, no reference."""

    texts: tuple[str, ...]


async def keep_or_go_back(config: Config, iteration: int, cast: Cast, run: Run) -> None:
    """Note whether the models of an iteration stand, once it has been measured.

    `StoredRun.current_model` follows the note from the next iteration on. The base model, which is
    iteration 0, is noted too: nothing is compared with what is not measured.
    """
    if config.rollback_fall == 1.0:
        return
    for of in sorted({0, iteration}):
        note = partial(_stand, of, config.rollback_fall, cast, run)
        (standing,) = await run.once(standing_key(of), Standing, note)
    if standing.good != iteration:
        run.note(
            f"iteration {iteration}: answers agree on {standing.signal:.3f}, too far below what "
            f"they did; the next starts from the models of iteration {standing.good}"
        )


async def _stand(iteration: int, most_fall: float, cast: Cast, run: Run) -> list[Standing]:
    key = f"{iteration_key(iteration)}/evaluation"
    problems = await asyncio.to_thread(run.stored.read, key, _Answers)
    signal = mean(await gather_all(_agreement(problem.texts, cast) for problem in problems))
    earlier = run.stored.standings(iteration - 1)
    return [standing_after(earlier, iteration, signal, most_fall)]


async def _agreement(texts: Sequence[str], cast: Cast) -> float:
    """Return the share of the texts that hold their majority's answer."""
    return (await cast.judge.vote(texts)).num_agree / len(texts)
