"""Nodes that are about to end, by what Ray has been told."""

from __future__ import annotations

import asyncio

import ray._private.state

from actors.waiting import within

_ANSWER_S = 30.0
"""How long Ray's head may take to say which they are."""


async def draining_nodes() -> set[str]:
    """Return the ids of nodes that Ray has been told will end: by an autoscaler, by a cloud's
    notice of preemption, or by `ray drain-node`. Ray Train asks in the same way, for there is no
    public one."""
    state = ray._private.state.state
    asked = asyncio.to_thread(state.get_draining_nodes)
    return set(await within(_ANSWER_S, "Ray's head to say which nodes drain", asked))
