"""`python -m tests.faults.groups NUMBER CPUS`: ask the Ray of RAY_ADDRESS for placement groups.

Prints one line of JSON: how many nodes there were before, with all groups in their places, and once
they were given back, and the seconds that either took.
"""

from __future__ import annotations

import json
import sys
import time

import ray
from ray.util.placement_group import placement_group, remove_placement_group

_WITHIN_S = 180.0
_LOOK_S = 0.2


def main(number: int, cpus: float) -> None:
    """Ask for so many groups of so many CPUs each, wait for them, give them back, wait again."""
    ray.init(log_to_driver=False)
    before = _num_nodes()
    asked = time.monotonic()
    groups = [placement_group([{"CPU": cpus}]) for _ in range(number)]
    ray.get([group.ready() for group in groups], timeout=_WITHIN_S)
    came_s, during = time.monotonic() - asked, _num_nodes()
    removed = time.monotonic()
    for group in groups:
        remove_placement_group(group)
    while _num_nodes() != before and time.monotonic() < removed + _WITHIN_S:
        time.sleep(_LOOK_S)
    told = {"before": before, "during": during, "after": _num_nodes()}
    told |= {"came_s": came_s, "left_s": time.monotonic() - removed}
    print(json.dumps(told), flush=True)


def _num_nodes() -> int:
    return sum(node["Alive"] for node in ray.nodes())


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
