"""Hosts of their own on one machine: network namespaces joined by a bridge, with a $TMPDIR each.

They share the disk, as hosts with a network file system do, and nothing of the loopback. Needs root
and iproute2.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.job import eventually

BRIDGE = "lnch0"
_OWN = Path("/tmp/launcher-test-own")
"""Where each has a file system of its own, for what must not be shared by accident."""
_MINE = Path("/tmp/launcher-test-hosts.lock")
_SUBNET = "10.77.0"
OUTSIDE = f"{_SUBNET}.1"
"""The address at which hosts reach what runs on none of them."""


def missing() -> str:
    """Why there can be no such hosts here; empty when there can."""
    if os.geteuid() != 0:
        return "needs root, to make network namespaces"
    needed = [name for name in ("ip", "nsenter", "unshare") if not shutil.which(name)]
    return f"needs {', '.join(needed)} (Debian: iproute2, util-linux)" if needed else ""


@dataclass
class Host:
    """One of them."""

    name: str
    address: str
    home: Path
    _holder: "subprocess.Popen[bytes]" = field(repr=False)

    def start(
        self,
        *command: str,
        output: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> "subprocess.Popen[str]":
        """Starts a command on this host, with this test's Python first on its PATH."""
        own = str(Path(sys.executable).parent)
        given = {
            "HOME": str(self.home),
            "TMPDIR": str(_OWN),
            "PATH": f"{own}:{os.environ['PATH']}",
            **(environment or {}),
        }
        with contextlib.ExitStack() as stack:
            stdout = stack.enter_context(output.open("w")) if output else subprocess.PIPE
            return subprocess.Popen(
                ["nsenter", "-t", str(self._holder.pid), "-m", "-n", "-u", "--", *command],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stdout if output else subprocess.PIPE,
                text=True,
                cwd=self.home,
                env={**os.environ, **given},
            )

    def run(
        self, *command: str, timeout_s: float = 120.0, **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        """Runs a command on this host to its end, whatever that is."""
        process = self.start(*command, environment=environment)
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"{' '.join(command)} took {timeout_s} s\n{out}\n{err}") from None
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def launcher(
        self, *arguments: str, timeout_s: float = 120.0, **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        """Runs a launcher command on this host."""
        command = [sys.executable, "-m", "launcher", *arguments]
        return self.run(*command, timeout_s=timeout_s, **environment)

    def processes(self) -> list[psutil.Process]:
        """Everything that runs there, but for what keeps it."""
        listed = subprocess.run(
            ["ip", "netns", "pids", self.name], capture_output=True, text=True, check=True
        )
        pids = [int(pid) for pid in listed.stdout.split()]
        found = []
        for pid in pids:
            with contextlib.suppress(psutil.NoSuchProcess):  # it ended meanwhile
                found.append(psutil.Process(pid))
        return [process for process in found if process.pid != self._holder.pid]

    def kill(self) -> None:
        """Ends everything there at once, as a power cut does; all of it is gone afterwards."""
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        eventually(lambda: not self.processes(), what=f"the end of what ran on {self.name}")

    def close(self) -> None:
        """Ends what keeps its namespaces."""
        self._holder.kill()
        self._holder.communicate()

    def cut_off(self) -> None:
        """Takes it off the network; what runs there goes on."""
        _ip("link", "set", f"{self.name}-b", "down")

    def reconnect(self) -> None:
        _ip("link", "set", f"{self.name}-b", "up")


@contextlib.contextmanager
def hosts(*names: str, folder: Path) -> Iterator[list[Host]]:
    """Hosts by these names, from 10.77.0.11 on; all that ran there is gone afterwards."""
    with _MINE.open("w") as mine:  # their names, and the bridge, are this machine's
        fcntl.flock(mine, fcntl.LOCK_EX)
        yield from _hosts(names, folder)


def _hosts(names: Sequence[str], folder: Path) -> Iterator[list[Host]]:
    _remove(names)
    made: list[Host] = []
    try:
        _ip("link", "add", BRIDGE, "type", "bridge")
        _ip("addr", "add", f"{OUTSIDE}/24", "dev", BRIDGE)
        _ip("link", "set", BRIDGE, "up")
        for number, name in enumerate(names, start=11):
            made.append(_make(name, f"{_SUBNET}.{number}", folder / name))
        yield made
    finally:
        for host in made:
            host.kill()
            host.close()
        _remove(names)


def _make(name: str, address: str, home: Path) -> Host:
    home.mkdir(parents=True)
    _ip("netns", "add", name)
    _ip("link", "add", f"{name}-b", "type", "veth", "peer", "name", "eth0", "netns", name)
    _ip("link", "set", f"{name}-b", "master", BRIDGE, "up")
    _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
    _ip("-n", name, "link", "set", "eth0", "up")
    _ip("-n", name, "link", "set", "lo", "up")
    ray = Path("/tmp/ray")  # Ray's own folder, which hosts do not share
    ray.mkdir(exist_ok=True)
    _OWN.mkdir(exist_ok=True)
    mounts = f"mount -t tmpfs none {ray} && mount -t tmpfs none {_OWN}"
    prepare = f"{mounts} && hostname {name} && echo ready && exec sleep infinity"
    holder = subprocess.Popen(
        ["ip", "netns", "exec", name, "unshare", "-m", "-u", "sh", "-c", prepare],
        stdout=subprocess.PIPE,
    )
    assert holder.stdout
    assert holder.stdout.readline() == b"ready\n"
    return Host(name, address, home, holder)


def _remove(names: Sequence[str]) -> None:
    for name in names:
        _ip("link", "del", f"{name}-b", check=False)  # the namespace itself goes a moment later
        _ip("netns", "del", name, check=False)
    _ip("link", "del", BRIDGE, check=False)


def _ip(*arguments: str, check: bool = True) -> None:
    subprocess.run(["ip", *arguments], check=check, capture_output=True)
