"""`python -m tests.faults [NAME ...] [key=value ...]`: disturb runs, print what came of it.

Without a name all are run but `soak`, which takes an hour. Exits with 1 where one row is not as it
should be.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys

from tests.faults.table import Outcome

FAULTS = ("stops", "full_disk", "kills", "hosts", "elastic", "autoscaled", "jobs", "interruptions")
"""Modules of this folder: `SETTINGS` and `run(settings) -> Iterator[Outcome]`."""
LONG = ("soak",)
"""Those that are run only when they are named."""


def main() -> int:
    """Run the named disturbances, or all."""
    known = (*FAULTS, *LONG)
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}")
    words = parser.parse_args().names
    given = dict(word.split("=", 1) for word in words if "=" in word)
    names = [word for word in words if "=" not in word] or list(FAULTS)
    unknown = set(names) - set(known)
    if unknown:
        parser.error(f"no fault {min(unknown)}; there are {', '.join(known)}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end what runs, as after Ctrl-C
    outcomes: list[Outcome] = []
    for name in names:
        module = importlib.import_module(f"tests.faults.{name}")
        settings = {key: given.get(key, default) for key, default in module.SETTINGS.items()}
        for outcome in module.run(settings):
            at = "" if outcome.moment is None else str(outcome.moment)
            verdict = "good" if outcome.good else "BAD "
            print(f"{verdict} {outcome.what:28} {at:22} {outcome.told}", flush=True)
            outcomes.append(outcome)
    num_good = sum(outcome.good for outcome in outcomes)
    print(f"{num_good} of {len(outcomes)} as it should be")
    return 0 if num_good == len(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
