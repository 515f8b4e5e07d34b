"""Hosts on one machine: each has its address, its name, its processes, its `/tmp/ray`, `/dev/shm`.

A host is a set of Linux namespaces. Its network ends at a switch, where it can be unplugged. Hosts
know each other's names, and no others. All other folders are the machine's, as a shared disk is a
cluster's, unless a host is made to `hide` them.

Nothing of this has a name that stays: it is there as long as the first process of each host is, and
that ends with the process that made it, however that ends.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

_NEEDED = ("ip", "unshare", "nsenter", "setpriv")
_WITHIN_S = 20.0
_DIES_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL", "--")
_OWN = ("--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
_FIRST_PROCESS = """
set -e
hostname "$1"
mkdir -p /tmp/ray
mount --make-rprivate /
mount --bind "$2/ray" /tmp/ray
mount --bind "$2/hosts" /etc/hosts
mount --bind /dev/null /etc/resolv.conf
mount -t tmpfs -o size=1g tmpfs /dev/shm
ip link set lo up
sleep infinity &
echo ready
wait
"""
"""Of a host, in bash, which reaps whatever is left to it. Its arguments: the name, its disk."""
_SWITCH = """
set -e
ip link add br0 type bridge
ip link set br0 up
echo ready
exec sleep infinity
"""
"""The only process of the network that joins the hosts."""


def why_not() -> str | None:
    """Return why no hosts can be made here, in words; None where they can."""
    if missing := [name for name in _NEEDED if shutil.which(name) is None]:
        return f"no {' and no '.join(missing)} is installed"
    trial = ["unshare", *_OWN, "ip", "link", "add", "br0", "type", "bridge"]
    done = subprocess.run(trial, capture_output=True, text=True)
    words = " ".join(done.stderr.split())
    return None if done.returncode == 0 else f"namespaces are refused ({words}); be root"


@dataclass
class Host:
    """One host, from its start to `kill`."""

    number: int
    first: psutil.Process
    """Its process 1, as the machine knows it; with it all others end."""
    sleeper: int
    """The process that this one waits for."""
    space: str
    """The namespace of its processes."""
    switch: int
    """The process of the switch."""

    @property
    def address(self) -> str:
        """Its address in the network of the hosts."""
        return _address(self.number)

    def start(
        self, words: Sequence[str], folder: Path, environment: Mapping[str, str], log: IO[str]
    ) -> subprocess.Popen[str]:
        """Start a command on the host, in a folder that it sees; what it says goes to `log`."""
        enter = ["nsenter", "--target", str(self.first.pid), "-m", "-u", "-i", "-n", "-p", "--"]
        return subprocess.Popen(
            [*_DIES_WITH_PARENT, *enter, "env", "-C", str(folder), *words],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            text=True,
            start_new_session=True,
        )

    def processes(self) -> list[psutil.Process]:
        """Return all that runs on the host."""
        return [p for p in psutil.process_iter() if _namespace(p.pid) == self.space]

    def work(self) -> list[psutil.Process]:
        """Return all that runs on the host beside what it is made of."""
        own = (self.first.pid, self.sleeper)
        return [process for process in self.processes() if process.pid not in own]

    def process(self, pid: int) -> psutil.Process:
        """Return the process that has this number on the host."""
        for process in self.processes():
            with suppress(FileNotFoundError):
                status = Path(f"/proc/{process.pid}/status").read_text()
                if f"NSpid:\t{process.pid}\t{pid}\n" in status:
                    return process
        raise psutil.NoSuchProcess(pid)

    def hide(self, folder: Path) -> None:
        """Have the host see an empty folder in place of the machine's."""
        self._mount("mount", "-t", "tmpfs", "tmpfs", str(folder))

    def show(self, folder: Path) -> None:
        """Undo `hide`."""
        self._mount("umount", str(folder))

    def _mount(self, *words: str) -> None:
        subprocess.run(["nsenter", "--target", str(self.first.pid), "-m", *words], check=True)

    def kill(self) -> None:
        """End everything that runs on the host, at once."""
        self.first.kill()

    def unplug(self) -> None:
        """Cut the host off: nothing reaches it, and nothing that it sends arrives."""
        _in_network(self.switch, f"ip link set {_plug(self.number)} down")

    def plug_in(self) -> None:
        """Undo `unplug`."""
        _in_network(self.switch, f"ip link set {_plug(self.number)} up")


@contextmanager
def hosts(count: int, folder: Path) -> Iterator[list[Host]]:
    """Make hosts whose disks are in `folder`; end them, and all that runs on them, after it."""
    names = [f"rzero-host{number}" for number in range(count)]
    known = [f"{_address(number)} {name}\n" for number, name in enumerate(names)]
    with ExitStack() as stack:
        switch = stack.enter_context(_ending_with_us(["unshare", "--net", "bash", "-c", _SWITCH]))
        made = []
        for number, name in enumerate(names):
            disk = folder / name
            (disk / "ray").mkdir(parents=True)
            (disk / "hosts").write_text("".join(["127.0.0.1 localhost\n", *known]))
            words = ["bash", "-c", _FIRST_PROCESS, "_", name, str(disk)]
            outer = stack.enter_context(_ending_with_us(["unshare", *_OWN, *words]))
            (first,) = psutil.Process(outer).children()
            (sleeper,) = first.children()
            space = _namespace(first.pid)
            assert space is not None, "it has just said that it is there"
            made.append(Host(number, first, sleeper.pid, space, switch))
            _connect(made[-1])
        yield made


@contextmanager
def _ending_with_us(words: Sequence[str]) -> Iterator[int]:
    """Start a process that says "ready"; kill it after the block. Yields its number."""
    process = subprocess.Popen(
        [*_DIES_WITH_PARENT, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        if process.stdout.readline().strip() != "ready":
            _, error = process.communicate(timeout=_WITHIN_S)
            raise RuntimeError(f"{words[0]} ended: {error.strip()}")
        yield process.pid
    finally:
        process.kill()
        process.communicate(timeout=_WITHIN_S)


def _connect(host: Host) -> None:
    """Run a cable from the host to the switch."""
    plug, inside = _plug(host.number), host.first.pid
    _in_network(host.switch, f"ip link add {plug} type veth peer name eth0 netns {inside}")
    _in_network(host.switch, f"ip link set {plug} master br0 up")
    _in_network(inside, f"ip addr add {host.address}/24 dev eth0")
    _in_network(inside, "ip link set eth0 up")
    _in_network(inside, "ip route add default dev eth0")


def _in_network(pid: int, command: str) -> None:
    """Run a command in the network of a process."""
    subprocess.run(["nsenter", "--target", str(pid), "-n", *command.split()], check=True)


def _address(number: int) -> str:
    return f"10.77.0.{number + 1}"


def _plug(number: int) -> str:
    return f"host{number}"


def _namespace(pid: int) -> str | None:
    """Return the namespace of processes that a process is in; None where it has ended."""
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return None
