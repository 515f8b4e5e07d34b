"""A Ray on one host that gets further nodes when something asks for them, and gives them back.

The nodes are raylets on the host of the head (`provider`). The host is one of namespaces, so that
Ray's autoscaler sees no other Ray of this machine, and all of it ends with the host.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import yaml

from tests.faults.hosted import OBJECT_STORE_BYTES, head_address, start_node
from tests.faults.namespaces import Host
from tests.faults.provider import HEAD_TYPE, WORKER_TYPE, identity
from tests.faults.runs import REPOSITORY

_LOOK_S = 0.1
_UNUSED_MAPPINGS = ("auth", "docker", "file_mounts")
_UNUSED_COMMANDS = (
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
    "cluster_synced_files",
    "rsync_exclude",
    "rsync_filter",
)
"""What the autoscaler reads in every configuration, and a provider of this kind has no use for."""


@dataclass(frozen=True)
class NodeType:
    """What a node has to give."""

    cpus: int
    memory: int
    """Bytes."""

    def resources(self) -> dict[str, int]:
        """Return that in Ray's words."""
        return {
            "CPU": self.cpus,
            "memory": self.memory,
            "object_store_memory": OBJECT_STORE_BYTES,
        }


@dataclass(frozen=True)
class Autoscaling:
    """A cluster of a head and of up to `most` nodes that come when they are asked for."""

    head: NodeType
    node: NodeType
    most: int
    idle_s: float
    """After which a node that nobody uses is given back."""
    version: int = 2
    """Of Ray's autoscaler: 2 is that of `ray up` and of KubeRay."""

    def of_version(self, version: int) -> Autoscaling:
        """Return the same with another version of Ray's autoscaler. ValueError for another than 1
        and 2."""
        if version not in (1, 2):
            raise ValueError(f"version={version}: Ray has 1 and 2")
        return replace(self, version=version)

    def config(self, address: str, logs: Path) -> dict[str, object]:
        """Return the autoscaler's configuration for a head at `address`; nodes write what they say
        into the folder `logs`."""
        return {
            "cluster_name": "rzero",
            "max_workers": self.most,
            "idle_timeout_minutes": self.idle_s / 60,
            "provider": {
                "type": "external",
                "module": "tests.faults.provider.LocalNodes",
                "address": address,
                "logs": str(logs),
                "disable_node_updaters": True,  # else Ray logs in by ssh to install itself
            },
            "available_node_types": {
                HEAD_TYPE: _type(self.head, 0),
                WORKER_TYPE: _type(self.node, self.most),
            },
            "head_node_type": HEAD_TYPE,
            **{key: {} for key in _UNUSED_MAPPINGS},
            **{key: [] for key in _UNUSED_COMMANDS},
        }


def _type(node: NodeType, most: int) -> dict[str, object]:
    return {
        "resources": node.resources(),
        "node_config": {},
        "min_workers": 0,
        "max_workers": most,
    }


def start_autoscaled_ray(
    host: Host, environment: Mapping[str, str], folder: Path, scaling: Autoscaling
) -> None:
    """Start a Ray on the host; `folder` takes its files. It ends with the host.

    RuntimeError where it does not start.
    """
    folder.mkdir(parents=True)
    address = head_address([host])
    config = folder / "autoscaler.yaml"
    config.write_text(yaml.safe_dump(scaling.config(address, folder)))
    options = ["--head", f"--port={address.rpartition(':')[2]}", "--include-dashboard=false"]
    options += [f"--num-cpus={scaling.head.cpus}", f"--memory={scaling.head.memory}"]
    options += [f"--autoscaling-config={config}"]
    added = {
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "PYTHONPATH": str(REPOSITORY),  # where the autoscaler finds `provider`
        "RAY_enable_autoscaler_v2": str(int(scaling.version == 2)),
    }
    named = {**environment, **added, **identity(0, HEAD_TYPE)}
    start_node(host, options, named, folder / "head.log")


def raylets(host: Host) -> list[int]:
    """Return the processes of the nodes of a Ray that run on the host, the head's first."""
    return sorted(process.pid for process in host.processes() if _name(process) == "raylet")


def await_nodes(host: Host, count: int, within_s: float) -> float | None:
    """Return the seconds until so many nodes run on the host; None where it takes too long."""
    began = time.monotonic()
    while len(raylets(host)) != count:
        if time.monotonic() > began + within_s:
            return None
        time.sleep(_LOOK_S)
    return time.monotonic() - began


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""
