"""The nodes of the cluster: which are there, which are about to end, and which folders each sees.

No disk that all nodes share is assumed. A folder of the same name may be another one there, so a
node shows what it has in it.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import ray
import ray._private.state
from ray.exceptions import RayError, TaskUnschedulableError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.waiting import ActorLostError, within
from rzero_ray.types import RunError

WEIGHT_SUFFIXES = (
    ".bin",
    ".gguf",
    ".h5",
    ".msgpack",
    ".onnx",
    ".pt",
    ".pth",
    ".safetensors",
)
"""How the names of files end that hold a model's weights."""
_ANSWER_S = 30.0
"""How long Ray's head may take to say which nodes drain."""
_CONFIG = "config.json"
_MOST_NAMED = 3
"""Nodes that a message names."""
_MOST_SHOWN = 200
"""Characters of what Ray says."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """By what a folder of the driver's is known on another node."""

    folder: Path
    contents: Mapping[str, bytes]
    """What files of it hold, by name."""
    sizes: Mapping[str, int]
    """Bytes of other files of it, by name."""
    is_written: bool = False
    """Whether who sees it has to be able to write into it."""

    def is_seen(self) -> bool:
        """Return whether this process sees the folder."""
        try:
            same = all((self.folder / n).read_bytes() == c for n, c in self.contents.items())
            same = same and all(
                (self.folder / n).stat().st_size == s for n, s in self.sizes.items()
            )
        except OSError:
            return False
        return same and (not self.is_written or os.access(self.folder, os.W_OK | os.X_OK))


def of_model(folder: Path) -> Evidence:
    """Return by what a model's folder is known: its configuration, and the sizes of its weights."""
    weights = [path for path in folder.iterdir() if path.suffix in WEIGHT_SUFFIXES]
    return Evidence(
        folder,
        contents={_CONFIG: (folder / _CONFIG).read_bytes()},
        sizes={path.name: path.stat().st_size for path in weights},
    )


@contextmanager
def marked(folder: Path) -> Iterator[Evidence]:
    """Give by what a folder that the driver writes is known: a file that is there in the block.

    A folder that is not there yet is seen where the one is in which it will be made.
    """
    there = next(path for path in (folder, *folder.parents) if path.is_dir())
    token = uuid.uuid4().hex
    marker = there / f".sight-{token[:8]}.partial"
    marker.write_text(token)
    try:
        yield Evidence(there, {marker.name: token.encode()}, {}, is_written=True)
    finally:
        marker.unlink(missing_ok=True)


class Node(NamedTuple):
    """A node of the cluster."""

    id: str
    address: str
    resources: Mapping[str, float]
    """All that it has, in Ray's words."""


def living_nodes() -> list[Node]:
    """Return the nodes that are alive."""
    return [
        Node(node["NodeID"], node["NodeManagerAddress"], node["Resources"])
        for node in ray.nodes()
        if node["Alive"]
    ]


async def draining_nodes() -> set[str]:
    """Return the ids of nodes that Ray has been told will end: by an autoscaler, by a cloud's
    notice of preemption, or by `ray drain-node`. Ray Train asks in the same way, for there is no
    public one."""
    state = ray._private.state.state
    asked = asyncio.to_thread(state.get_draining_nodes)
    return set(await within(_ANSWER_S, "Ray's head to say which nodes drain", asked))


@dataclass(frozen=True, slots=True)
class Disk:
    """Folders that only some nodes see."""

    folder: Path
    """One that other nodes do not see."""
    nodes: Sequence[Node]
    """Those that see all folders."""

    def __str__(self) -> str:
        """Return what is seen where, in words."""
        names = [node.address for node in self.nodes[:_MOST_NAMED]]
        if len(self.nodes) > _MOST_NAMED:
            names.append(f"{len(self.nodes) - _MOST_NAMED} more")
        plural = len(self.nodes) > 1
        named = f"node{'s' if plural else ''} {', '.join(names)} see{'' if plural else 's'}"
        return f"{self.folder}, which only {named}"


async def find_disk(models: Sequence[Path], run_dir: Path | None, deadline_s: float) -> Disk | None:
    """Return which nodes see these models, and `run_dir` where there is one and can write into it;
    None where all nodes do.

    Raises DeadlineError, which names the node, where one does not say so in time.
    """
    with ExitStack() as stack:
        shown = [] if run_dir is None else [stack.enter_context(marked(run_dir))]
        shown += [of_model(folder) for folder in dict.fromkeys(models)]
        seen = await who_sees(shown, deadline_s) if shown else {}
    nodes = living_nodes()
    wanted = {evidence.folder for evidence in shown}
    hidden = [folder for node in nodes for folder in wanted - seen.get(node.id, set())]
    if not hidden:
        return None
    return Disk(hidden[0], [node for node in nodes if seen.get(node.id) == wanted])


async def who_sees(shown: Sequence[Evidence], deadline_s: float) -> dict[str, set[Path]]:
    """Return, by the id of each living node, the folders that it sees.

    The driver's own node sees all. A node that dies meanwhile is left out. Raises DeadlineError
    where one does not answer in time, RunError where it cannot run this program.
    """
    own = ray.get_runtime_context().get_node_id()
    others = [node for node in living_nodes() if node.id != own]
    answers = await asyncio.gather(*(_ask(node, shown, deadline_s) for node in others))
    seen = {
        node.id: found for node, found in zip(others, answers, strict=True) if found is not None
    }
    return {own: {evidence.folder for evidence in shown}, **seen}


async def _ask(node: Node, shown: Sequence[Evidence], deadline_s: float) -> set[Path] | None:
    """Return which folders a node sees; None where it has died."""
    pinned = NodeAffinitySchedulingStrategy(node.id, soft=False)
    look: Any = _look.options(scheduling_strategy=pinned)
    what = f"node {node.address} to say which folders it sees"
    try:
        return set(await within(deadline_s, what, look.remote(list(shown))))
    except (ActorLostError, TaskUnschedulableError):
        return None
    except RayError as error:
        reason = " ".join(str(error).split())[-_MOST_SHOWN:]
        raise RunError(
            f"node {node.address} cannot run this program (... {reason}); install its environment "
            "there, or take the node out of the cluster"
        ) from None


@ray.remote(num_cpus=0, max_retries=0)
def _look(shown: Sequence[Evidence]) -> list[Path]:
    return [evidence.folder for evidence in shown if evidence.is_seen()]
