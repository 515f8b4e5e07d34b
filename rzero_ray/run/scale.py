"""Change how many engines a run has, while it runs: `rzero scale run_dir=DIR solver=N`.

  solver=3          three engines from now on
  solver=1..4       one at least, and up to four while requests wait for them
  challenger=2      the same of any role that has engines of its own

Engines that are wanted ask for a place each, which an autoscaling cluster takes as a reason to
grow, and sample once they hold their role's weights. Engines that are not wanted any more finish
what they have first. Nothing of the run waits meanwhile. A run that is resumed begins with
`sampler.num_solver` again.

run_dir is the folder that the driver prints at its start. The run's cluster is the one at
RAY_ADDRESS; without it, the one that the run directory names, where it is to be seen. From another
machine, RAY_ADDRESS may be the address of the cluster's dashboard, http://HOST:8265: the command
then runs there as a job.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from rzero_ray.config.arguments import ScaleArguments, load_own
from rzero_ray.config.command import run_command
from rzero_ray.config.config import resolve_folder
from rzero_ray.config.roles import ROLES
from rzero_ray.config.sources import nearest, split_pairs
from rzero_ray.run.log import RunLog
from rzero_ray.types import Role, ScaleRequest, UserError

USAGE = "python -m rzero_ray scale run_dir=DIR solver=N"


_RANGE = re.compile(r"(\d{1,4})(?:\.\.(\d{1,4}))?", re.ASCII)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run_command(arguments, lambda: f"usage: {USAGE}\n\n{__doc__}", _scale)


def _scale(arguments: list[str]) -> None:
    own, rest = load_own(ScaleArguments, split_pairs(arguments), USAGE)
    requests = [read_request(key, value) for key, value in rest]
    if not requests:
        raise UserError(f"nothing to change: give a role and a number; usage: {USAGE}")
    from actors import cluster  # imports Ray, which a mistyped key need not wait for

    address = os.environ.get("RAY_ADDRESS", "")
    if address.startswith(("http://", "https://")):
        command = shlex.join(["python", "-m", "rzero_ray", "scale", *arguments])
        print(asyncio.run(cluster.run_on_cluster(address, command)))
        return
    root = resolve_folder(own.run_dir)
    known = _address_of(root) if address in ("", "local") else ""
    try:
        cluster.join_ray(known or address or "auto")
    except UserError as error:
        if not known:
            raise
        raise UserError(
            f"run_dir={root} is not at work: the Ray at {known}, on which it was started last, "
            "does not answer"
        ) from error
    for request in requests:
        print(cluster.ask_driver(str(root), request))


def _address_of(root: Path) -> str:
    """Return the address of the cluster on which the run in `root` was started last; empty where it
    is not to be seen here."""
    starts = [event["address"] for event in RunLog(root).events() if event["event"] == "cluster"]
    return starts[-1] if starts else ""


def read_request(key: str, value: str) -> ScaleRequest:
    """Return what `role=N` or `role=N..M` asks for. UserError where it is neither."""
    roles: dict[str, Role] = {role.name: role.name for role in ROLES}
    if key not in roles:
        raise UserError(f"unknown key {key}{nearest(key, [*roles, 'run_dir'])}; usage: {USAGE}")
    found = _RANGE.fullmatch(value)
    if found is None:
        raise UserError(f"{key}={value} must be a number of engines, or two of them as in 1..4")
    least = int(found[1])
    return ScaleRequest(role=roles[key], least=least, most=int(found[2] or least))
