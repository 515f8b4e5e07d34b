r"""Solutions of the ladder's questions as text: read, and made wrong.

A solution such as ``7[3v+1]2[3v+4]0\boxed{20}`` has a start value, steps of an operation with its
result, and the last two running values in its box. What makes one wrong looks at the text alone and
works nothing out, so that a verifier that learns from it is told no answer.
"""

from __future__ import annotations

import random
import re
from typing import Final

from rzero_ray.tasks.ladder.questions import BOX_CLOSE, BOX_OPEN

_SOLUTION: Final = re.compile(r"([0-9])((?:\[[^\[\]]*\][0-9])+)\\boxed\{[0-9]{2}\}")
_STEP: Final = re.compile(r"(\[[^\[\]]*\])([0-9])")
_FEWEST_STEPS: Final = 2


def spoil(solution: str, rng: random.Random) -> str | None:
    """Return the solution with its last step left out, with any step left out, or with one result
    changed, each as likely as the others, and the box of what then stands there last.

    None where the text is no solution of two steps or more.
    """
    match = _SOLUTION.fullmatch("".join(solution.split()))
    steps = _STEP.findall(match[2]) if match else []
    if match is None or len(steps) < _FEWEST_STEPS:
        return None
    kind = rng.choice(("last", "any", "changed"))
    if kind == "changed":
        at = rng.randrange(len(steps))
        operation, result = steps[at]
        steps[at] = (operation, str((int(result) + rng.randint(1, 9)) % 10))
    else:
        del steps[-1 if kind == "last" else rng.randrange(len(steps))]
    values = [match[1], *(result for _, result in steps)]
    written = "".join(f"{operation}{result}" for operation, result in steps)
    return f"{match[1]}{written}{BOX_OPEN}{values[-2]}{values[-1]}{BOX_CLOSE}"
