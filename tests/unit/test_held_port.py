"""A port that is chosen stays ours until somebody listens on it."""

from __future__ import annotations

import socket

import pytest
from vllm.distributed.utils import StatelessProcessGroup

from actors.process import held_port

HERE = "127.0.0.1"


def test_nobody_else_gets_a_held_port():
    with held_port(HERE) as holder:
        address = holder.getsockname()
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(address)
    with socket.socket() as other:  # let go of, it is anybody's
        other.bind(address)


def test_the_socket_that_holds_a_port_is_the_one_that_listens():
    with held_port(HERE) as holder:
        address = holder.getsockname()
        with socket.socket() as early, pytest.raises(ConnectionRefusedError):
            early.connect(address)
        holder.listen()
        socket.create_connection(address, timeout=5).close()
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(address)


def test_vllm_listens_on_a_port_that_is_held_for_it():
    with held_port(HERE) as holder:
        address, port = holder.getsockname()
        group = StatelessProcessGroup.create(address, port, rank=0, world_size=1)
    assert group.broadcast_obj("met", src=0) == "met"
