"""What Ray's autoscaler asks for nodes: each is a `ray start` on the head's own host.

Ray's own stand-in for a cloud (`fake_multinode`) gives its nodes no memory to set aside, which
engines ask for, and lacks a file in the installed package. A provider of one's own is a documented
interface of Ray (`provider: {type: external, module: ...}`).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from threading import RLock
from typing import Any

from ray.autoscaler.node_provider import NodeProvider
from ray.autoscaler.tags import (
    NODE_KIND_HEAD,
    NODE_KIND_WORKER,
    STATUS_UP_TO_DATE,
    TAG_RAY_NODE_KIND,
    TAG_RAY_NODE_STATUS,
    TAG_RAY_USER_NODE_TYPE,
)

HEAD_TYPE = "head"
WORKER_TYPE = "worker"
"""The names of both kinds of node in the autoscaler's configuration."""
_ENDS_WITHIN_S = 30.0


def node_id(number: int) -> str:
    """Return the identity of a node, which Ray's own is set to; 0 is the head's."""
    return f"{'f' * 51}{number:05d}"


def identity(number: int, kind: str) -> dict[str, str]:
    """Return what `ray start` finds in its environment, so that the autoscaler knows the node."""
    return {
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": node_id(number),
        "RAY_CLOUD_INSTANCE_ID": node_id(number),
        "RAY_NODE_TYPE_NAME": kind,
    }


class LocalNodes(NodeProvider):
    """Nodes beside the head; `provider` of the configuration names the head's `address`, and
    the folder `logs` for what they say."""

    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        super().__init__(provider_config, cluster_name)
        self._lock = RLock()
        head = {
            TAG_RAY_NODE_KIND: NODE_KIND_HEAD,
            TAG_RAY_USER_NODE_TYPE: HEAD_TYPE,
            TAG_RAY_NODE_STATUS: STATUS_UP_TO_DATE,
        }
        self._tags: dict[str, dict[str, str]] = {node_id(0): head}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._num_made = 0

    def non_terminated_nodes(self, tag_filters: dict[str, str]) -> list[str]:
        """See NodeProvider. A node whose Ray did not start, or has ended, is none: another one is
        asked for."""
        with self._lock:
            for name in [name for name, ray in self._processes.items() if ray.poll() is not None]:
                del self._processes[name], self._tags[name]
            return [
                name for name, tags in self._tags.items() if tag_filters.items() <= tags.items()
            ]

    def is_running(self, node_id: str) -> bool:
        """See NodeProvider."""
        return node_id in self._tags

    def is_terminated(self, node_id: str) -> bool:
        """See NodeProvider."""
        return node_id not in self._tags

    def node_tags(self, node_id: str) -> dict[str, str]:
        """See NodeProvider."""
        return self._tags[node_id]

    def set_node_tags(self, node_id: str, tags: dict[str, str]) -> None:
        """See NodeProvider."""
        with self._lock:
            self._tags[node_id] |= tags

    def external_ip(self, node_id: str) -> str:
        """Return what Ray reports of the node: all share the head's address."""
        return node_id

    internal_ip = external_ip

    def create_node_with_resources_and_labels(
        self,
        node_config: dict[str, Any],
        tags: dict[str, str],
        count: int,
        resources: Mapping[str, float],
        labels: Mapping[str, str],
    ) -> None:
        """Start nodes that have `resources`."""
        with self._lock:
            for _ in range(count):
                self._num_made += 1
                made = node_id(self._num_made)
                self._processes[made] = self._start(self._num_made, resources)
                kind = {TAG_RAY_NODE_KIND: NODE_KIND_WORKER, TAG_RAY_NODE_STATUS: STATUS_UP_TO_DATE}
                self._tags[made] = {**tags, **kind}

    def _start(self, number: int, resources: Mapping[str, float]) -> subprocess.Popen[bytes]:
        options = {
            "address": self.provider_config["address"],
            "node-ip-address": self.provider_config["address"].partition(":")[0],
            "num-cpus": resources["CPU"],
            "memory": resources["memory"],
            "object-store-memory": resources["object_store_memory"],
            "dashboard-agent-listen-port": 0,  # the head has the port that all would take
        }
        words = [
            f"--{name}={value:.0f}" if isinstance(value, float) else f"--{name}={value}"
            for name, value in options.items()
        ]
        log = Path(self.provider_config["logs"], f"node-{number}.log")
        with log.open("w") as stream:
            return subprocess.Popen(
                [str(Path(sys.executable).with_name("ray")), "start", *words, "--block"],
                env=os.environ | identity(number, WORKER_TYPE),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )

    def terminate_node(self, node_id: str) -> None:
        """End a node with all that runs on it, as `ray start` does when it is told to."""
        with self._lock:
            process = self._processes.pop(node_id, None)
            self._tags.pop(node_id, None)
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
