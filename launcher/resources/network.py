"""Which network interface of this host other hosts know it by."""

import os
import socket
from collections.abc import Iterator

import psutil

_INTERFACE_VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


def interface_of(address: str) -> str:
    """The interface that holds an address; empty when none does."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(a.family == socket.AF_INET and a.address == address for a in addresses):
            return name
    return ""


def interface_environment(address: str) -> dict[str, str]:
    """What makes gloo and NCCL use the interface of this address; what is set already stays.

    They would take the one that the host's name stands for, which is often the loopback.
    """
    return dict(_unset_names(interface_of(address)))


def _unset_names(interface: str) -> Iterator[tuple[str, str]]:
    for name in _INTERFACE_VARIABLES:
        if interface and name not in os.environ:
            yield name, interface
