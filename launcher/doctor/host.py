"""What a host of a cluster finds out about itself and about its way to the others.

It says in plain values what it measured; what that means is told in `cluster_verdicts`.
"""

import contextlib
import socket
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from launcher.doctor.probing import free_bytes, probe
from launcher.doctor.versions import own_versions
from launcher.engines.ray.host import storage_problems
from launcher.errors import PreflightError
from launcher.resources import inherited_environment, this_host
from launcher.resources.network import interface_environment, interface_of
from launcher.resources.secrets import find_secrets
from launcher.rundir import RunDir

_CONNECT_TIMEOUT_S = 5.0
_MEETING_TIMEOUT_S = 20.0
_BACKLOG = 128


@dataclass(frozen=True)
class Facts:
    """What a host says of itself at once."""

    versions: Mapping[str, str]
    resources: str
    """As JSON; empty: its GPU driver does not answer."""
    driver_trouble: str
    interface: str
    """The one that holds its Ray address, empty for none."""
    chosen_interface: str
    """What GLOO_SOCKET_IFNAME says there."""


class Examiner:
    """The actor that examines one host; what it opens is gone with `close`, or with it."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._listener: socket.socket | None = None
        self._opened = contextlib.ExitStack()

    def describe(self) -> dict[str, Any]:
        """Its `Facts`."""
        resources = trouble = ""
        try:
            resources = this_host().to_json()
        except PreflightError as error:
            trouble = str(error)
        facts = Facts(
            versions=own_versions(),
            resources=resources,
            driver_trouble=trouble,
            interface=interface_of(self._address),
            chosen_interface=inherited_environment().get("GLOO_SOCKET_IFNAME", ""),
        )
        return asdict(facts)

    def lacking_secrets(self, names: Sequence[str]) -> list[str]:
        return find_secrets(names, home=Path.home())[1]

    def address_of_name(self) -> str:
        """What this host's own name stands for here; empty: nothing."""
        try:
            return socket.gethostbyname(socket.gethostname())
        except OSError:
            return ""

    def listen(self) -> int:
        """The port at its Ray address where it listens from now on."""
        listener = socket.create_server((self._address, 0), backlog=_BACKLOG)
        self._listener = self._opened.enter_context(listener)
        return int(self._listener.getsockname()[1])

    def reach(self, peers: Mapping[str, int]) -> dict[str, float | str]:
        """For each address and port the seconds that a connection took, or why there is none."""
        with ThreadPoolExecutor(max_workers=max(1, len(peers))) as pool:
            return dict(zip(peers, pool.map(_connect, peers.items()), strict=True))

    def start_probe(self, storage: str, marker: str) -> dict[str, Any]:
        """Writes the probe that the others must see; `url` empty: it could not, for `trouble`."""
        try:
            run_dir = self._opened.enter_context(probe(storage, marker=marker))
            return {"url": run_dir.url, "trouble": "", "free_bytes": free_bytes(storage)}
        except Exception as error:  # noqa: BLE001  # every fsspec backend raises errors of its own
            return {"url": "", "trouble": str(error), "free_bytes": 0.0}

    def storage_problems(self, url: str, marker: str) -> list[str]:
        """Those that keep ranks of this host from training with that storage."""
        return storage_problems(RunDir(url), marker, host=self._address)

    def close(self) -> None:
        """Listens no more, and takes the probe away."""
        self._opened.close()

    def add(
        self, rank: int, world_size: int, meeting: Sequence[Any], device: str
    ) -> dict[str, Any]:
        """Adds numbers with all other hosts; `meeting` is the first one's address and port.

        The fields of `Sums`, or `trouble`, or `torch_trouble` where that cannot be imported.
        """
        try:
            import torch  # here, since no other question needs it

            from launcher.distributed import Rank, Rendezvous, set_environment
            from launcher.doctor.adding import add
        except Exception as error:  # noqa: BLE001  # a broken library raises what it likes
            return {"torch_trouble": _first_line(error)}

        set_environment(interface_environment(self._address))
        address, port = meeting
        listener = self._listener.detach() if rank == 0 and self._listener else None
        try:
            sums = add(
                Rank(rank, world_size, 0, 1, torch.device(device)),
                Rendezvous(address, port, listener),
                backend="nccl" if device == "cuda" else "gloo",
                timeout_s=_MEETING_TIMEOUT_S,
            )
        except Exception as error:  # noqa: BLE001  # a rank reports its death
            return {"trouble": _first_line(error)}
        return asdict(sums)


def _connect(peer: tuple[str, int]) -> float | str:
    start = time.perf_counter()
    try:
        with socket.create_connection(peer, timeout=_CONNECT_TIMEOUT_S):
            return time.perf_counter() - start
    except OSError as error:
        return error.strerror or str(error)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
