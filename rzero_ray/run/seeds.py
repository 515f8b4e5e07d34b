"""Seeds of samples: a pure function of where in the run a sample belongs.

Whichever engine serves a request, and however often it is asked again after a failure, the
sample is drawn with the same seed.
"""

import hashlib

_SEED_BITS = 47
"""Seeds have fewer bits than vLLM's signed 64, with room to add the index of a sample within its
request."""


def derive_seed(*path: int | str) -> int:
    """Return a seed in [0, 2**47) for a path such as (run seed, iteration, phase, step, prompt).

    Unlike `hash`, the value is the same in every process and version of Python.
    """
    text = "/".join(str(part) for part in path)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> (64 - _SEED_BITS)
