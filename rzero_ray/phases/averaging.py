"""Keep the average of Solvers that votes in the Solver's place (`voting.ema_decay`).

Source: Co-rewarding-II (arXiv 2508.00410): labels of a slowly moving teacher do not follow the
Solver into its own mistakes. There the average takes in the policy after every optimizer step; here
after every iteration, so that it is two models on a disk and needs no memory in the learner. A
decay d a step is d to the power of an iteration's steps here.
"""

from __future__ import annotations

from rzero_ray.config.config import Config
from rzero_ray.protocols import Cast
from rzero_ray.run.run import Run


async def average_solver(config: Config, iteration: int, cast: Cast, run: Run) -> None:
    """Write the average after an iteration, unless it is there.

    The one before stays until the iteration is finished: it votes in what a stop makes go on.
    """
    if config.voting.ema_decay == 0:
        return
    folder, before = run.stored.average_path(iteration), run.stored.average_path(iteration - 1)
    if not folder.exists():
        solver = run.stored.current_model("solver")
        await cast.solver.average(before, solver, config.voting.ema_decay, folder)
