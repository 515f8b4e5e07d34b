"""Several nodes on one machine, each of which can be killed with everything that runs on it.

They share the machine's address, disk and memory: what is shown is the death of processes and of
what Ray keeps of a node, not that of a host.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil
from ray.cluster_utils import Cluster

from actors.process import RAY_ENVIRONMENT
from tests.faults.runs import inherited

_NODE = "RZERO_FAULTS_NODE"
"""An environment variable that every process of a node inherits."""
_CPUS = 1.0
"""Of each node: the roles of `conf=tiny` need more than one node, and two have room for them."""
NUM_NODES = 3
"""The driver's, the one that is killed, and one to go on with."""


@dataclass
class Nodes:
    """The nodes of a Ray cluster; the driver joins the first, which stays."""

    address: str = ""
    others: list[str] = field(default_factory=list)
    """The marks of the nodes that may be killed."""

    def of(self, pid: int) -> str | None:
        """Return the mark of the node that a process runs on; None where that may not be killed."""
        mark = psutil.Process(pid).environ().get(_NODE)
        return mark if mark in self.others else None

    def processes(self, mark: str) -> list[int]:
        """Return everything that runs on a node, its raylet included."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(_NODE) == mark:
                    found.append(process.pid)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found


@contextmanager
def nodes(environment: Mapping[str, str]) -> Iterator[Nodes]:
    """Start nodes whose processes find `environment` in theirs; end them after the block."""
    cluster = Cluster(shutdown_at_exit=True)
    found = Nodes()
    try:
        for k in range(NUM_NODES):
            mark = uuid.uuid4().hex
            with inherited({**RAY_ENVIRONMENT, **environment, _NODE: mark}):
                cluster.add_node(
                    num_cpus=_CPUS, object_store_memory=200 << 20, include_dashboard=False
                )
            if k:
                found.others.append(mark)
        assert cluster.address is not None
        found.address = cluster.address
        yield found
    finally:
        cluster.shutdown()
