"""Benchmarks: each module measures our side and its baseline in one run."""

import os

# Ray would run what is measured at nice 15, behind everything else on the machine.
os.environ.setdefault("RAY_worker_niceness", "0")
